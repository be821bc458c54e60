"""The weight of the events: each clause of the rule by itself, and the rule against a plain one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scalr_ray.jobs.weight_rule import least_harmless

WARM = np.arange(40) < 20
NOISE = np.random.default_rng(0).normal(scale=0.1, size=40)
NOISE[WARM] -= NOISE[WARM].mean()
NOISE[~WARM] -= NOISE[~WARM].mean()
ERROR = float(stats.sem(NOISE))


def gains(warm: float, hidden: float) -> np.ndarray:
    """(40,) gains of these means, the same for all users of a segment."""
    return np.where(WARM, warm, hidden)


def test_the_most_gain_wins_where_it_is_clear():
    assert least_harmless({0.03: gains(0.0, 0.1), 0.1: gains(0.1, 0.3)}, WARM) == 0.1
    assert least_harmless({0.03: gains(0.1, 0.3), 0.1: gains(0.0, 0.1)}, WARM) == 0.03


@pytest.mark.parametrize("loss", [1e-9, 0.01, 0.5])
def test_any_loss_of_warm_users_is_out_whatever_others_gain(loss):
    # Far within its interval, too: the noise of these 20 users is 0.02.
    tried = {0.03: gains(0.0, 0.1) + NOISE, 0.1: gains(-loss, 9.0) + NOISE}
    assert least_harmless(tried, WARM) == 0.03


@pytest.mark.parametrize("warm", [0.0, 0.2])
def test_no_loss_is_in(warm):
    assert least_harmless({0.03: gains(0.0, 0.1), 0.1: gains(warm, 0.3)}, WARM) == 0.1


def test_where_every_weight_costs_warm_users_there_is_none():
    assert least_harmless({0.03: gains(-0.01, 0.1), 0.1: gains(-0.5, 9.0)}, WARM) is None


def test_asked_for_sure_losses_alone_it_lets_others_in():
    tried = {0.03: gains(-0.01, 0.1) + NOISE, 0.1: gains(-0.01, 0.3) + NOISE}
    assert least_harmless(tried, WARM) is None
    assert least_harmless(tried, WARM, surely=True) == 0.1
    tried[0.1] = gains(-0.1, 0.9) + NOISE
    assert least_harmless(tried, WARM, surely=True) == 0.03
    assert least_harmless({0.1: tried[0.1]}, WARM, surely=True) is None


@pytest.mark.parametrize("means", [(-0.3, 0.1), (-0.05, 0.2), (-0.01, 0.3), (0.01, 0.3)])
def test_a_loss_is_sure_where_its_interval_says_so(means):
    found = gains(*means) + NOISE
    high = stats.norm.interval(0.95, loc=means[0], scale=stats.sem(found[WARM]))[1]
    assert least_harmless({0.1: found}, WARM, surely=True) == (None if high < 0 else 0.1)


@pytest.mark.parametrize(("behind", "chosen"), [(0.9, 0.03), (1.1, 0.1)])
def test_a_little_less_weight_does_where_it_lies_within_a_standard_error(behind, chosen):
    better = gains(0.3, 0.3)
    assert least_harmless({0.03: better - behind * ERROR + NOISE, 0.1: better}, WARM) == chosen


def test_the_error_is_that_of_the_paired_difference():
    # Users differ much, the two weights hardly: 0.02 more for each of them is sure.
    users = np.random.default_rng(1).normal(scale=5.0, size=40)
    users[WARM] += 10.0 - users[WARM].mean()
    assert least_harmless({0.03: users, 0.1: users + 0.02}, WARM) == 0.1


def test_what_harms_is_no_measure_of_the_others():
    tried = {0.03: gains(0.1, 0.1), 0.1: gains(0.1, 0.2), 0.3: gains(-0.1, 9.0)}
    assert least_harmless(tried, WARM) == 0.1


def test_weights_of_two_parts_are_taken_in_the_order_they_come():
    tried = {(0.0, 0.1): gains(0.2, 0.2), (3.0, 0.03): gains(0.2, 0.2)}
    assert least_harmless(tried, WARM) == (0.0, 0.1)


@pytest.mark.parametrize("warm", [0, 1])
def test_fewer_than_two_warm_users_are_not_asked(warm):
    tried = {0.03: gains(-0.5, -0.5), 0.1: gains(-0.2, -0.2)}
    assert least_harmless(tried, np.arange(40) < warm) == 0.1


def test_a_single_user_decides_without_an_error():
    nobody = np.zeros(1, dtype=bool)
    assert least_harmless({0.03: np.array([0.1]), 0.1: np.array([0.1])}, nobody) == 0.03
    assert least_harmless({0.03: np.array([0.1]), 0.1: np.array([0.2])}, nobody) == 0.1


@given(
    st.lists(st.lists(st.floats(-1, 1, width=16), min_size=6, max_size=6), min_size=1, max_size=5)
)
def test_it_is_what_the_words_of_the_rule_say(rows):
    warm = np.array([True, True, False, False, True, False])
    tried = {float(n): np.array(row) for n, row in enumerate(rows)}
    left = [weight for weight, gain in tried.items() if gain[warm].mean() >= 0]
    found = least_harmless(tried, warm)
    if not left:
        assert found is None
        return
    best = max(left, key=lambda weight: tried[weight].mean())
    gaps = {weight: tried[best] - tried[weight] for weight in left}
    # Not `stats.sem`: the last bit decides where a gap is just its error.
    error = {weight: gap.std(ddof=1) / 6**0.5 for weight, gap in gaps.items()}
    assert found == min(weight for weight in left if gaps[weight].mean() <= error[weight])
