from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import day, event_table

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import UsageError
from scalr_ray.learn import Counting, TrainingEvents, counts, translator_as_of
from scalr_ray.learn.counts import MARGINAL_PSEUDO_USERS, delay_quantiles
from scalr_ray.offline_store.limits import Limits
from scalr_ray.translator import FrequencyTranslator, PriorMix, Strength
from scalr_ray.translator.counts import PairRules

STRENGTH = Strength(shrinkage=1.0, alpha=0.5)
MIX = PriorMix.recent(window_days=3, background=0.01)
row = st.tuples(st.sampled_from(["u1", "u2", "u3"]), st.sampled_from("abc"), st.integers(0, 7))
rows = st.lists(row, max_size=14)
ANCHOR = [("u0", "a", 0)]


def code(source, target):
    return TrainingEvents.of(
        event_table([*ANCHOR, *source], "books"), event_table([*ANCHOR, *target], "music")
    )


def firsts_before(rows, cut):
    """{(user, item): day of the first event} of the events before `cut`."""
    firsts = {}
    for user, item, happened in sorted([*ANCHOR, *rows], key=lambda r: r[2]):
        if happened < cut:
            firsts.setdefault((user, item), happened)
    return firsts


@given(rows, rows, st.integers(0, 8))
def test_statistics_against_a_plain_count(source, target, cut):
    events = code(source, target)
    got = translator_as_of(events, day(cut), strength=STRENGTH, mix=MIX)
    have, own = firsts_before(source, cut), firsts_before(target, cut)
    overlap = {user for user, _ in have} & {user for user, _ in own}
    marginal = Counter(item for user, item in own if user in overlap)
    pairs = Counter((s, t) for user, s in have for other, t in own if user == other)
    mass = Counter({item: 0.0 for _, item in own})
    for (_, item), happened in own.items():
        mass[item] += 0.01 + (happened >= cut - 3)
    for at, item in enumerate(events.target_items.ids.to_pylist()):
        seen = [to_micros(day(happened)) for (_, i), happened in own.items() if i == item]
        assert got.first_seen[at] == min(seen, default=np.iinfo(np.int64).max)
        assert got.marginal[at] == marginal[item] + MARGINAL_PSEUDO_USERS
        expected = mass[item] / mass.total() if mass.total() else 0.0
        assert got.prior[at] == pytest.approx(expected)
        for source_at, key in enumerate(events.source_items.ids.to_pylist()):
            assert got.counts[source_at, at] == pairs[key.split("\x1f")[1], item]
    assert (got.train_cutoff, got.strength) == (day(cut), STRENGTH)
    assert got.target_items is events.target_items


class RowsAbove:
    """Stands for the choice of an engine: the cluster above so many rows."""

    def __init__(self, rows: float) -> None:
        self.rows = rows

    def takes_cluster(self, rows: int) -> bool:
        return rows > self.rows


def plainly(memory_limit: str) -> Counting:
    """Every user, event and pair counts alike, here."""
    return Counting(
        rules=PairRules(),
        history_half_life_days=None,
        min_users=1,
        noise=None,
        limits=Limits(memory_limit=memory_limit, threads=1, spill_dir=None),
        engine=RowsAbove(math.inf),
    )


# With the anchor 6 and 6 rows, of which 5 and 6 are first; 1 + 4 + 1 + 1 pairs.
SOURCE = [("u1", "a", 1), ("u1", "b", 2), ("u1", "b", 3, 1), ("u2", "b", 1), ("u3", "c", 2)]
TARGET = [("u1", "x", 1), ("u1", "y", 2), ("u2", "y", 4), ("u3", "y", 0), ("u4", "z", 1)]


@pytest.mark.parametrize(
    ("rows", "pairs", "fits"), [(12, 7, True), (12, 6, False), (11, 7, False), (11, 6, False)]
)
def test_pairs_are_multiplied_here_up_to_so_many_rows_and_pairs(monkeypatch, rows, pairs, fits):
    monkeypatch.setattr(counts, "_MOST_PAIRS", pairs)
    assert counts._product_fits(code(SOURCE, TARGET), RowsAbove(rows)) is fits


def test_beyond_that_the_statement_counts_and_gives_the_same(monkeypatch):
    events = code(SOURCE, TARGET)

    def counted(counting: Counting | None) -> FrequencyTranslator:
        return translator_as_of(events, day(9), strength=STRENGTH, mix=MIX, counting=counting)

    # The product needs nothing of DuckDB, which could do nothing within this.
    plain, product = counted(None), counted(plainly("1KB"))
    monkeypatch.setattr(counts, "_MOST_PAIRS", 0)
    with pytest.raises(UsageError, match="memory"):
        counted(plainly("1KB"))
    statement = counted(plainly("256MB"))
    for other in (product, statement):
        assert (other.counts != plain.counts).nnz == 0
        assert other.counts.dtype == plain.counts.dtype
        np.testing.assert_array_equal(other.marginal, plain.marginal)
        assert other.weighing == plain.weighing
        assert other.pair_users is None


def observed_delays(source, target):
    """From each target event back to the user's last source event strictly before it."""
    return sorted(
        happened - max(before)
        for (user, _), happened in firsts_before(target, 99).items()
        if (
            before := [
                s for (u, _), s in firsts_before(source, 99).items() if u == user and s < happened
            ]
        )
    )


@given(rows, rows)
def test_delay_quantiles_against_a_plain_search(source, target):
    events = code(source, target)
    delays = [value * 86_400_000_000 for value in observed_delays(source, target)]
    got = delay_quantiles(events.source, events.target).tolist()
    if not delays:
        assert got == []
        return
    assert len(got) == 101
    # The inverse of the empirical distribution: the smallest delay with at least that share below.
    for at, value in enumerate(got):
        assert value == delays[max(math.ceil(len(delays) * at / 100 - 1e-9) - 1, 0)]
    assert all(left <= right for left, right in pairwise(got))


def test_a_source_event_at_the_same_instant_is_not_before():
    events = code([("u1", "a", 2)], [("u1", "a", 2), ("u1", "b", 3)])
    assert set(delay_quantiles(events.source, events.target)) == {86_400_000_000}


def test_another_users_source_event_is_no_trigger():
    events = code([("u1", "a", 1)], [("u2", "a", 2)])
    assert delay_quantiles(events.source, events.target).size == 0
