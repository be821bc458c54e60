from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scalr_ray.core.errors import DataError
from scalr_ray.translator.prior_fit import _em, fit_prior_mix
from scalr_ray.translator.prior_mix import MIN_ALL_TIME

WINDOWS = (7, 30, None)
# Whole numbers as events of an item in a window; the last window holds them all.
tables = hnp.arrays(np.int64, (3, 6), elements=st.integers(0, 5)).map(
    lambda counts: np.cumsum(counts, axis=0)
)
masses = hnp.arrays(np.int64, 6, elements=st.integers(0, 9))


def shares_of(counts):
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def likelihood(weights, shares, mass):
    known = shares[-1] > 0
    return float(mass[known] @ np.log(np.asarray(weights) @ shares[:, known])) / mass[known].sum()


@settings(deadline=None)
@given(tables, masses)
def test_never_below_a_single_window_nor_any_other_mix(counts, mass):
    shares = shares_of(counts)
    assume(mass[shares[-1] > 0].sum() > 0)
    mix = fit_prior_mix(shares, windows_days=WINDOWS, mass=mass.astype(float))
    fitted = likelihood(mix.weights, shares, mass)
    others = np.vstack((np.eye(3), np.full((1, 3), 1 / 3), [[0.7, 0.2, 0.1]]))
    for other in (1 - MIN_ALL_TIME) * others + MIN_ALL_TIME * np.eye(3)[2]:
        # Windows that are nearly alike can use up all steps, a little below the best.
        assert fitted >= likelihood(other, shares, mass) - 1e-4
    assert mix.weights[-1] >= MIN_ALL_TIME


@settings(deadline=None)
@given(tables, masses)
def test_likelihood_never_falls_from_step_to_step(counts, mass):
    shares = shares_of(counts)[:, counts[-1] > 0]
    weight = mass[counts[-1] > 0]
    assume(weight.sum() > 0)
    floored = (1 - MIN_ALL_TIME) * shares + MIN_ALL_TIME * shares[-1]
    values = [value for _, value in _em(floored, weight / weight.sum())]
    assert all(after >= before - 1e-12 for before, after in pairwise(values))


def test_recovers_planted_weights():
    draw = np.random.default_rng(5)
    shares = draw.dirichlet(np.full(400, 0.3), size=3)
    planted = np.array([0.5, 0.15, 0.35])
    outcomes = draw.choice(400, size=60_000, p=planted @ shares)
    mix = fit_prior_mix(shares[:, outcomes], windows_days=WINDOWS)
    np.testing.assert_allclose(mix.weights, planted, atol=0.015)
    assert mix.windows_days == WINDOWS


def test_outcomes_and_their_mass_per_item_give_the_same_weights():
    draw = np.random.default_rng(6)
    shares = draw.dirichlet(np.ones(20), size=3)
    outcomes = draw.choice(20, size=300, p=shares[1])
    one = fit_prior_mix(shares[:, outcomes], windows_days=WINDOWS)
    counted = np.bincount(outcomes, minlength=20).astype(float)
    other = fit_prior_mix(shares, windows_days=WINDOWS, mass=counted)
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-9)


def test_outcomes_on_items_that_were_never_seen_are_ignored():
    shares = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    unseen = fit_prior_mix(shares, windows_days=(7, None), mass=np.array([3.0, 1.0, 50.0]))
    assert unseen.weights == pytest.approx((0.5, 0.5), abs=1e-3)


@pytest.mark.parametrize("shares", [np.zeros((2, 3)), np.zeros((2, 0))])
def test_without_a_known_outcome_there_is_nothing_to_fit(shares):
    with pytest.raises(DataError, match="seen before"):
        fit_prior_mix(shares, windows_days=(7, None))
