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
from scalr_ray.learn import TrainingEvents, translator_as_of
from scalr_ray.learn.counts import MARGINAL_PSEUDO_USERS, delay_quantiles
from scalr_ray.translator import PriorMix, Strength

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
