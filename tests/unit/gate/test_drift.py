from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scalr_ray.gate import population_stability

masses = st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any)
pairs = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 50), min_size=n, max_size=n).filter(any)] * 2)
)


def psi(expected, observed, buckets=10):
    return population_stability(
        np.array(expected, dtype=float), np.array(observed, dtype=float), buckets
    )


@given(masses, st.sampled_from([1, 3, 1000]))
def test_equal_profiles_have_no_distance_whatever_their_scale(mass, scale):
    assert psi(mass, [value * scale for value in mass]) == pytest.approx(0, abs=1e-9)


@given(pairs)
def test_distance_is_finite_and_never_negative(pair):
    assert 0 <= psi(*pair) + 1e-12 < math.inf


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_distinct_items_does_not_matter(pair, random):
    expected, observed = pair
    assume(len(set(expected)) == len(expected))
    order = list(range(len(expected)))
    random.shuffle(order)
    shuffled = psi([expected[at] for at in order], [observed[at] for at in order])
    assert shuffled == pytest.approx(psi(expected, observed))


@given(st.lists(st.integers(-9, 9), min_size=10, max_size=10))
def test_symmetric_where_both_fall_into_the_same_buckets(shifts):
    """Ten items of a tenth each fill one bucket each; small shifts that keep their order stay."""
    even = [1000 - at for at in range(10)]
    moved = [
        mass - at / 20 + shift / 1000
        for at, (mass, shift) in enumerate(zip(even, shifts, strict=True))
    ]
    assert sorted(moved, reverse=True) == moved
    assert psi(even, moved) == pytest.approx(psi(moved, even), rel=1e-6, abs=1e-15)


def test_distance_rises_with_the_shift():
    even = np.full(10, 100.0)
    shifted = [even + step * np.linspace(9, -9, 10) for step in range(10)]
    distances = [psi(even, mass) for mass in shifted]
    assert distances[0] == pytest.approx(0)
    assert (np.diff(distances) > 0).all()


def test_against_the_formula_by_hand():
    expected, observed = [50, 30, 20], [20, 30, 50]
    # Three buckets: 50 % ends in the second third, the other two items in the last.
    by_hand = (0.2 - 0.5) * math.log(0.2 / 0.5) + (0.8 - 0.5) * math.log(0.8 / 0.5)
    assert psi(expected, observed, buckets=3) == pytest.approx(by_hand)


def test_an_empty_bucket_counts_as_its_floor():
    one, other = psi([1, 1], [1, 0], buckets=2), psi([1, 1], [0, 1], buckets=2)
    by_hand = (1 - 0.5) * math.log(2) + (1e-4 - 0.5) * math.log(1e-4 / 0.5)
    assert one == pytest.approx(by_hand)
    assert other == pytest.approx(by_hand)
