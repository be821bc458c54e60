"""Pointwise metrics, against definitions written out and against what is known to hold."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.core.errors import DataError
from training import pointwise
from training.pointwise import (
    area_under_curve,
    calibration_ratio,
    expected_calibration_error,
    log_losses,
    normalised_entropy,
)

ALL = (normalised_entropy, area_under_curve, calibration_ratio, expected_calibration_error)


@st.composite
def pairs(draw):
    """Labels of both kinds, probabilities with ties, whole weights."""
    size = draw(st.integers(2, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = random.random(size) < 0.4
    labels[:2] = True, False
    said = random.choice([0.05, 0.2, 0.5, 0.9], size)
    return labels, said, random.integers(0, 3, size) + (np.arange(size) < 2).astype(float)


@given(pairs())
def test_weight_two_is_the_pair_twice_and_weight_zero_no_pair(found):
    labels, said, weights = found
    times = weights.astype(int)
    repeated = np.repeat(labels, times), np.repeat(said, times)
    for metric in ALL:
        expected = metric(*repeated, np.ones(times.sum()))
        assert metric(labels, said, weights) == pytest.approx(expected, abs=1e-12)


@given(pairs())
def test_area_under_the_curve_is_a_chance_over_all_pairs_of_pairs(found):
    labels, said, weights = found
    above = (said[labels][:, None] > said[~labels]) + 0.5 * (said[labels][:, None] == said[~labels])
    chance = (weights[labels] @ above @ weights[~labels]) / (
        weights[labels].sum() * weights[~labels].sum()
    )
    assert area_under_curve(labels, said, weights) == pytest.approx(chance)


def test_true_probabilities_are_calibrated_and_none_are_better():
    random = np.random.default_rng(0)
    true = random.beta(1, 6, 200_000)
    labels, ones = random.random(len(true)) < true, np.ones(len(true))
    assert calibration_ratio(labels, true, ones) == pytest.approx(1.0, abs=0.02)
    assert expected_calibration_error(labels, true, ones) < 0.005
    twice = np.minimum(2 * true, 0.999)
    assert calibration_ratio(labels, twice, ones) == pytest.approx(2.0, abs=0.05)
    assert expected_calibration_error(labels, twice, ones) == pytest.approx(true.mean(), abs=0.01)
    assert area_under_curve(labels, twice, ones) == pytest.approx(
        area_under_curve(labels, true, ones), abs=1e-3
    )
    best = normalised_entropy(labels, true, ones)
    assert best < 1.0
    assert best < normalised_entropy(labels, twice, ones)


def test_a_ratio_of_one_can_hide_what_bins_show():
    labels = np.tile([True, False], 50)
    said = np.where(labels, 0.1, 0.9)  # the wrong way round
    assert calibration_ratio(labels, said, np.ones(100)) == pytest.approx(1.0)
    assert expected_calibration_error(labels, said, np.ones(100)) == pytest.approx(0.9)


@pytest.mark.parametrize("metric", ALL)
def test_pairs_of_one_kind_are_refused(metric):
    with pytest.raises(DataError, match="only one label"):
        metric(np.ones(3, dtype=bool), np.full(3, 0.5), np.ones(3))
    with pytest.raises(DataError, match="only one label"):
        metric(np.array([True, False]), np.full(2, 0.5), np.zeros(2))


def test_certainty_is_refused_because_it_may_cost_everything():
    with pytest.raises(DataError, match=r"strictly between 0 and 1; one of these is 0\.0"):
        log_losses(np.array([True, False]), np.array([0.0, 0.5]))


def test_the_examples_hold():
    found = doctest.testmod(pointwise)
    assert found.failed == 0
    assert found.attempted >= 4
