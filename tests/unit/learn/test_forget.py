from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import day, event_table

from scalr_ray.core.errors import DataError
from scalr_ray.learn import Counting, TrainingEvents, translator_as_of
from scalr_ray.learn.forget import recounted, without_users
from scalr_ray.learn.pairs import PairRows
from scalr_ray.offline_store.limits import Limits
from scalr_ray.translator import PriorMix, Strength, load_translator, save_translator
from scalr_ray.translator.counts import PairRules
from scalr_ray.translator.storage import left_out

LIMITS = Limits(memory_limit="256MB", threads=1, spill_dir=None)
MIX = PriorMix.recent(window_days=30, background=0.01)
STRENGTH = Strength(shrinkage=0.1, alpha=0.6)
CUTOFF = day(9)
USERS = ["u1", "u2", "u3", "u4", "u5"]
PLAIN, TYPED = PairRules(), PairRules(event_weights={"buy": 2.5, "ad": 0.0})
DECAYING = PairRules(event_weights={"buy": 250.0, "view": 0.3}, half_life_days=2.0)

event = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from(["a", "b", "c"]),
    st.floats(0, 12),
    st.floats(0, 4),
    st.sampled_from(["view", "buy", "ad", None]),
)
many = settings(max_examples=40, deadline=None)


class Here:
    """An engine that takes nothing to a cluster."""

    partition_rows = 1

    def takes_cluster(self, rows: int) -> bool:
        return rows < 0


def counting(rules: PairRules, min_users: int) -> Counting:
    return Counting(
        rules=rules,
        history_half_life_days=None,
        min_users=min_users,
        noise=None,
        limits=LIMITS,
        engine=Here(),
    )


def tables(rows, prefix):
    listed = [(user, item, happened, late, kind) for user, item, happened, late, kind in rows]
    made = event_table([row[:4] for row in listed], prefix, prefix)
    kinds = pa.array([row[4] for row in listed], pa.string())
    return made.set_column(made.schema.get_field_index("event_type"), "event_type", kinds)


def of_users(events, users, *, others=False):
    among = pc.is_in(events["user_id"], value_set=pa.array(sorted(users), pa.string()))
    return events.filter(pc.invert(among) if others else among)


def assert_same(ours, theirs):
    """The same numbers, whichever codes are there beside those that count."""
    np.testing.assert_array_equal(ours.counts.toarray(), theirs.counts.toarray())
    for name in ("marginal", "prior", "first_seen", "delays"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    if theirs.pair_users is not None:
        np.testing.assert_array_equal(ours.pair_users.toarray(), theirs.pair_users.toarray())


@many
@given(
    st.lists(event, min_size=1, max_size=25),
    st.lists(event, min_size=1, max_size=25),
    st.sets(st.sampled_from(USERS), min_size=1, max_size=3),
    st.sampled_from([PLAIN, TYPED, DECAYING]),
    st.sampled_from([1, 2, 3]),
)
def test_what_is_left_is_a_full_recount_without_the_users(source, target, gone, rules, floor):
    source, target = tables(source, "s"), tables(target, "t")
    how = counting(rules, floor)
    everybody = TrainingEvents.coded(source, target)
    others = TrainingEvents.coded(*(of_users(side, gone, others=True) for side in (source, target)))

    def counted(events):
        return translator_as_of(events, CUTOFF, strength=STRENGTH, mix=MIX, counting=how)

    translator = counted(everybody)
    theirs = PairRows.of(*(of_users(side, gone) for side in (source, target)), CUTOFF)
    expected = counted(others.under(everybody.source_items, everybody.target_items))
    assert_same(without_users(translator, theirs, others, LIMITS), expected)
    assert_same(recounted(translator, others, LIMITS, Here()), expected)


def crowd(size):
    """So many users with one pair, whose weight float32 cannot say exactly."""
    rows = [(f"u{number}", "a", 1.0, 0.0, "buy") for number in range(size)]
    return tables(rows, "s"), tables([(*row[:2], 2.0, *row[3:]) for row in rows], "t")


def test_weights_beyond_what_float32_says_exactly_are_left_out_exactly(tmp_path):
    rules = PairRules(event_weights={"buy": 200.3}, half_life_days=7.0)
    source, target = crowd(3000)
    how = counting(rules, 1)
    everybody = TrainingEvents.coded(source, target)
    translator = translator_as_of(everybody, CUTOFF, strength=STRENGTH, mix=MIX, counting=how)
    assert translator.pair_units is not None
    save_translator(translator, tmp_path / "translator")
    loaded = load_translator(tmp_path / "translator")
    for size in (1, 7, 2999):
        gone = {f"u{number}" for number in range(size)}
        left = TrainingEvents.coded(
            *(of_users(side, gone, others=True) for side in (source, target))
        )
        theirs = PairRows.of(*(of_users(side, gone) for side in (source, target)), CUTOFF)
        expected = translator_as_of(
            left.under(everybody.source_items, everybody.target_items),
            CUTOFF,
            strength=STRENGTH,
            mix=MIX,
            counting=how,
        )
        assert_same(without_users(loaded, theirs, left, LIMITS), expected)


SOURCE = [("u1", "a", 1.0, 0.0, None), ("u2", "b", 1.0, 0.0, None)]
TARGET = [("u1", "x", 2.0, 0.0, None), ("u2", "y", 2.0, 0.0, None)]


@pytest.mark.parametrize(
    "more",
    [
        [("u1", "c", 1.0, 0.0, None)],  # an item that the counts do not know
        [("u1", "b", 1.0, 0.0, None)],  # a pair that nobody had
    ],
)
def test_counts_of_other_events_are_not_subtracted_from(more):
    source, target = tables(SOURCE, "s"), tables(TARGET, "t")
    translator = translator_as_of(
        TrainingEvents.coded(source, target), CUTOFF, strength=STRENGTH, mix=MIX
    )
    came_later = tables([*SOURCE, *more], "s")
    theirs = PairRows.of(of_users(came_later, {"u1"}), of_users(target, {"u1"}), CUTOFF)
    left = TrainingEvents.coded(
        of_users(came_later, {"u1"}, others=True), of_users(target, {"u1"}, others=True)
    )
    with pytest.raises(DataError, match="pair counts"):
        without_users(translator, theirs, left, LIMITS)
    assert recounted(translator, left, LIMITS, Here()).counts.sum() == 1


def test_who_was_left_out_is_kept_beside_what_lies_there(tmp_path):
    translator = translator_as_of(
        TrainingEvents.coded(tables(SOURCE, "s"), tables(TARGET, "t")),
        CUTOFF,
        strength=STRENGTH,
        mix=MIX,
    )
    folder = tmp_path / "translator"
    save_translator(translator, folder)
    assert left_out(folder) == frozenset()
    save_translator(translator, folder, without=["f0", "0f"], beside={"trial.json": "{}"})
    assert left_out(folder) == {"0f", "f0"}
    assert (folder / "trial.json").read_text() == "{}"
    again = load_translator(folder)
    assert_same(again, replace(translator))
