"""In worlds whose truth is known, more data brings the likelihood nearer to it."""

from __future__ import annotations

import numpy as np
import pytest

from scalr_ray.translator import as_prior
from tests.bench.truth import (
    ask,
    calibration_error,
    count,
    divergence,
    expected_calibration_error,
)

SIZES = (150, 600, 2400)


@pytest.fixture(scope="module")
def worlds():
    return {users: ask(users, transfer=1.0) for users in SIZES}


@pytest.fixture(scope="module")
def fitted(worlds):
    return {users: count(asked).translator for users, asked in worlds.items()}


def test_the_divergence_from_the_truth_falls_with_data_and_is_never_below_zero(worlds, fitted):
    found = [divergence(fitted[users], worlds[users]) for users in SIZES]
    assert found[0] > 1.1 * found[1] > 1.1**2 * found[2] > 0
    # What transfers is learned: the prior stays where it is.
    for users in SIZES[1:]:
        assert fitted[users].alpha > 0
        prior = as_prior(fitted[users])
        assert divergence(fitted[users], worlds[users]) < divergence(prior, worlds[users])


def test_with_more_data_more_choices_fall_where_they_are_expected(worlds, fitted):
    errors = [calibration_error(fitted[users], worlds[users]) for users in SIZES]
    assert errors[-1] < 0.8 * min(errors[:-1])


def test_the_truth_itself_has_no_error(worlds):
    truth = worlds[SIZES[0]].truth
    assert expected_calibration_error(truth, truth) == 0
    too_sure = truth**2 / (truth**2).sum(axis=1, keepdims=True)
    assert expected_calibration_error(truth, too_sure) > 0.1


def test_the_error_is_the_share_of_choices_in_another_bin():
    truth = np.array([[0.5, 0.5], [0.5, 0.5]])
    guess = np.array([[0.9, 0.1], [0.9, 0.1]])
    # Two choices, of which 1.8 are expected on the first items and 1 falls there: 0.8 twice.
    assert expected_calibration_error(truth, guess) == pytest.approx(0.8)


@pytest.mark.parametrize("seed", [0, 1])
def test_where_nothing_transfers_alpha_is_zero(seed):
    found = count(ask(600, transfer=0.0, seed=seed))
    assert not found.transfers
    assert found.translator.alpha == 0
