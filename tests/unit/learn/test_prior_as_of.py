"""The prior of a generation time: a plain count of what is visible then, and nothing later."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import day, event_table

from scalr_ray.core.errors import LeakageError
from scalr_ray.learn import TrainingEvents, translator_as_of, with_prior_as_of
from scalr_ray.learn.prior import prior_as_of
from scalr_ray.translator import FrequencyTranslator, PriorMix, Strength, Vocabulary

STRENGTH = Strength(shrinkage=1.0, alpha=0.5)
MIXES = [
    PriorMix.recent(window_days=3, background=0.01),
    PriorMix(windows_days=(2, 6, None), weights=(0.5, 0.3, 0.2)),
    PriorMix(windows_days=(None,), weights=(1.0,)),
]
ANCHOR = [("u0", "a", 0)]
LAST = 12
# (user, item, day it happened, day it became known): some are known late, some before they happen.
row = st.builds(
    lambda user, item, happened, late: (user, item, happened, happened + late),
    st.sampled_from(["u1", "u2", "u3"]),
    st.sampled_from("abcd"),
    st.integers(0, LAST),
    st.sampled_from([0, 0, 0, 1, 5, -1]),
)
rows = st.lists(row, max_size=20)
mixes = st.sampled_from(MIXES)
kinds = st.sampled_from(["frequency", "neural"])
MICROSECOND = 1 / 86_400e6


def code(target) -> TrainingEvents:
    return TrainingEvents.of(event_table(ANCHOR, "books"), event_table([*ANCHOR, *target], "music"))


def target_alone(target) -> TrainingEvents:
    """As generation codes it: no source events, and other codes than those of the training."""
    table = event_table([*ANCHOR, *target], "music")
    return TrainingEvents.coded(table.slice(0, 0), table)


def trained(target, cutoff, mix) -> FrequencyTranslator:
    events = code(target).as_of(day(cutoff)).compact()
    return translator_as_of(events, day(cutoff), strength=STRENGTH, mix=mix)


def brute_force(target, moment, mix, kind, items, new=()) -> list[float]:
    """The prior of the items by its definition, in plain Python, from rows."""
    pairs: dict[tuple, list[tuple[float, float]]] = {}
    for user, item, happened, *known in [*ANCHOR, *target]:
        known_at = known[0] if known else happened
        if happened < moment and known_at <= moment:
            appears = max(happened + MICROSECOND, known_at)
            pairs.setdefault((user, item), []).append((happened, appears))
    # Events of one day differ by their ids, which count the rows: the first of them comes first.
    appearance = {
        pair: min(at for _, at in seen)
        if kind == "neural"
        else min(seen, key=lambda event: event[0])[1]
        for pair, seen in pairs.items()
    }
    inside = [
        [i for (_, i), at in appearance.items() if days is None or at > moment - days]
        for days in mix.windows_days
    ]
    counts = [dict(Counter(window)) for window in inside]
    if counts[-1]:  # who looks at all time finds half an event of each item that nobody touched
        counts[-1] |= {item: 0.5 for item in new if item not in counts[-1]}
    mass, carried = dict.fromkeys([*"abcd", *new], 0.0), 0.0
    for weight, window in zip(mix.weights, counts, strict=True):
        carried += weight
        if mix.per_event or window:
            total = 1 if mix.per_event else sum(window.values())
            for item in mass:
                mass[item] += (weight if mix.per_event else carried) * window.get(item, 0) / total
            carried = 0.0
    total = sum(mass[item] for item in items)
    return [mass[item] / total if total else 0.0 for item in items]


@given(rows, st.integers(1, LAST), st.integers(0, LAST), mixes)
def test_against_a_brute_force_count_of_what_is_visible(target, cutoff, wait, mix):
    moment = cutoff + wait
    model = trained(target, cutoff, mix)
    then = with_prior_as_of(model, target_alone(target), day(moment))
    items = model.target_items.ids.to_pylist()
    expected = brute_force(target, moment, mix, "frequency", items)
    np.testing.assert_allclose(then.prior, expected, rtol=1e-12)
    assert then.prior.sum() == pytest.approx(1.0)
    assert (then.log_prior > -np.inf).tolist() == [share > 0 for share in expected]


@given(rows, st.integers(1, LAST), st.integers(0, LAST), mixes, st.sets(st.sampled_from("cdz")))
def test_new_items_without_events_count_half_an_event_and_all_sums_to_one(
    target, cutoff, wait, mix, new
):
    moment = cutoff + wait
    model = trained(target, cutoff, mix)
    new -= set(model.target_items.ids.to_pylist())
    wider = Vocabulary(ids=pa.array(sorted({*model.target_items.ids.to_pylist(), *new})))
    then = with_prior_as_of(
        replace(model, target_items=wider),
        target_alone(target),
        day(moment),
        new=np.isin(wider.ids.to_pylist(), sorted(new)),
    )
    items = wider.ids.to_pylist()
    expected = brute_force(target, moment, mix, "frequency", items, new)
    np.testing.assert_allclose(then.prior, expected, rtol=1e-12)
    assert then.prior.sum() == pytest.approx(1.0)


@given(rows, st.integers(1, LAST + 1), mixes, kinds)
def test_each_kind_counts_a_pair_as_it_did_in_training(target, moment, mix, kind):
    events = target_alone(target)
    got = prior_as_of(events, day(moment), kind=kind, mix=mix)
    items = events.target_items.ids.to_pylist()
    np.testing.assert_allclose(got, brute_force(target, moment, mix, kind, items), rtol=1e-12)


@given(rows, st.integers(1, LAST), mixes)
def test_as_of_the_cutoff_the_count_gives_the_bits_of_the_training(target, cutoff, mix):
    model = trained(target, cutoff, mix)
    assert with_prior_as_of(model, target_alone(target), day(cutoff)) is model
    # Counted anew, from events in other codes, an item more or less in the log.
    again = prior_as_of(
        target_alone(target).under(model.source_items, model.target_items),
        day(cutoff),
        kind=model.kind,
        mix=mix,
    )
    assert again.tobytes() == model.prior.tobytes()


@given(rows, rows, st.integers(1, LAST), st.integers(1, LAST), mixes)
def test_nothing_from_after_the_generation_time_moves_a_bit(target, others, cutoff, wait, mix):
    moment = cutoff + wait
    model = trained(target, cutoff, mix)
    later = [(user, item, moment + at, moment + at) for user, item, at, _ in others]
    late = [(user, item, at, moment + MICROSECOND * 2) for user, item, at, _ in others]
    plain, other = (
        with_prior_as_of(model, target_alone(seen), day(moment))
        for seen in (target, [*target, *later, *late])
    )
    assert plain.prior.tobytes() == other.prior.tobytes()


@given(rows, st.integers(1, LAST), st.integers(1, LAST), mixes)
def test_it_is_the_prior_of_a_training_as_of_then_and_all_else_stays(target, cutoff, wait, mix):
    moment = cutoff + wait
    model = trained(target, cutoff, mix)
    then = with_prior_as_of(model, target_alone(target), day(moment))
    if set(trained(target, moment, mix).target_items.ids) == set(model.target_items.ids):
        assert then.prior.tobytes() == trained(target, moment, mix).prior.tobytes()
    for name in ("counts", "marginal", "first_seen", "delays", "strength", "target_items"):
        assert getattr(then, name) is getattr(model, name)


def test_a_translator_that_was_trained_later_is_refused():
    with pytest.raises(LeakageError, match="trained as of"):
        with_prior_as_of(trained([], 5, MIXES[0]), target_alone([]), day(4))
