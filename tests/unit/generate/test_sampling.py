"""The pieces of sampling against plain searches over small rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.generate.kernel.sampling import distribution, largest, ranks

# Few values, so that many are equal; -inf is not drawn.
value = st.sampled_from([-math.inf, -2.0, -0.5, 0.0, 0.5, 3.0])
tables = st.integers(1, 7).flatmap(
    lambda width: st.lists(st.lists(value, min_size=width, max_size=width), min_size=1, max_size=4)
)


@given(tables, st.lists(st.integers(0, 9), min_size=4, max_size=4))
def test_the_largest_are_those_of_a_stable_sort(table, slots):
    slots = slots[: len(table)]
    row, place = largest(np.array(table), np.array(slots))
    found = [[] for _ in table]
    for at, where in zip(row.tolist(), place.tolist(), strict=True):
        found[at].append(where)
    assert row.tolist() == sorted(row.tolist())
    for values, most, got in zip(table, slots, found, strict=True):
        order = sorted(range(len(values)), key=lambda at: (-values[at], at))
        assert got == [at for at in order if values[at] > -math.inf][:most]


def plain_nucleus(weights, temperature, top_p):
    """{place: probability} of the smallest set of likeliest that reaches `top_p`."""
    powers = [math.exp(weight / temperature) for weight in weights]
    total = math.fsum(powers)
    kept, reached = {}, 0.0
    for at in sorted(range(len(weights)), key=lambda at: (-powers[at], at)):
        if powers[at] > 0 and reached < top_p - 1e-6:
            kept[at] = powers[at]
            reached += powers[at] / total
    whole = math.fsum(kept.values())
    return {at: power / whole for at, power in kept.items()}


@given(tables, st.sampled_from([0.5, 1.0, 3.0]), st.floats(0.01, 1.0))
def test_the_distribution_is_the_cut_and_renormalised_softmax(table, temperature, top_p):
    log_p = distribution(np.array(table, dtype=np.float32), temperature=temperature, top_p=top_p)
    for values, got in zip(table, np.exp(log_p), strict=True):
        if max(values) == -math.inf:
            assert not got.any()
            continue
        expected = plain_nucleus(values, temperature, top_p)
        wanted = [expected.get(at, 0.0) for at in range(len(values))]
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 1), (0.500001, 1), (0.51, 2), (0.75, 2)])
def test_a_set_that_just_reaches_the_share_is_taken(top_p, kept):
    weights = np.log(np.array([[8, 4, 2, 1, 1]], dtype=np.float32))
    log_p = distribution(weights, temperature=1.0, top_p=top_p)
    assert np.isfinite(log_p).sum() == kept


def test_equal_items_at_the_edge_of_the_set_go_by_place():
    log_p = distribution(np.zeros((1, 4), dtype=np.float32), temperature=1.0, top_p=0.6)
    assert np.isfinite(log_p).tolist() == [[True, True, True, False]]


def test_the_likeliest_item_stays_however_little_is_asked_for():
    weights = np.array([[0.0, 1.0, 0.5]], dtype=np.float32)
    log_p = distribution(weights, temperature=1.0, top_p=1e-9)
    assert log_p.tolist() == [[-math.inf, 0.0, -math.inf]]


def test_no_slots_and_no_items_draw_nothing():
    for values, slots in ((np.zeros((2, 3)), [0, 0]), (np.zeros((2, 0)), [4, 4])):
        row, place = largest(values, np.array(slots))
        assert len(row) == len(place) == 0


@given(st.lists(st.integers(0, 5)))
def test_ranks_count_what_stands_before_in_the_same_row(rows):
    rows = sorted(rows)
    assert ranks(np.array(rows, dtype=np.int64)).tolist() == [
        rows[:at].count(row) for at, row in enumerate(rows)
    ]
