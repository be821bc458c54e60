from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scalr_ray.translator.calibration import (
    ScoredUsers,
    normalised_entropy,
    reliability,
    temperature_for,
)
from scalr_ray.translator.protocol import log_softmax

ITEMS = 12
seeds = st.integers(0, 2**32 - 1)


def drawn(seed, *, users=40, events=6, sharpness=1.0, spread=2.0):
    """Users whose events are drawn from softmax(sharpness * scores)."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(0, spread, (users, ITEMS)).astype(np.float32)
    scores[draw.random((users, ITEMS)) < 0.2] = -np.inf
    scores[:, 0] = 0.0  # something is always left to choose
    scores -= scores.max(axis=1, keepdims=True)
    p = np.exp(log_softmax(np.float32(sharpness) * scores).astype(float))
    item = [draw.choice(ITEMS, size=events, p=row / row.sum()) for row in p]
    return ScoredUsers(
        scores=scores, user=np.repeat(np.arange(users), events), item=np.concatenate(item)
    )


def halves(chunk):
    """The same users in two chunks."""
    at = len(chunk.scores) // 2
    first = chunk.user < at
    return [
        ScoredUsers(scores=chunk.scores[:at], user=chunk.user[first], item=chunk.item[first]),
        ScoredUsers(
            scores=chunk.scores[at:], user=chunk.user[~first] - at, item=chunk.item[~first]
        ),
    ]


def mean_log_likelihood(chunk, log_p):
    return float(log_p[chunk.user, chunk.item].mean(dtype=np.float64))


def test_scored_users_are_masked_and_shifted():
    own = sparse.csr_matrix(np.array([[1, 0, 0], [0, 0, 0]], dtype=np.float32))
    relevant = sparse.csr_matrix(np.array([[0, 1, 1], [1, 0, 0]], dtype=np.float32))
    scores = np.array([[9.0, 2.0, 1.0], [3.0, 5.0, -np.inf]], dtype=np.float32)
    got = ScoredUsers.of(scores, own=own, relevant=relevant)
    assert got.scores.tolist() == [[-math.inf, 0.0, -1.0], [-2.0, 0.0, -math.inf]]
    assert (got.user.tolist(), got.item.tolist()) == ([0, 0, 1], [1, 2, 0])
    assert got.events.tolist() == [2, 1]


@given(seeds, st.sampled_from([0.5, 1.0, 3.0]))
def test_likelihood_against_plain_python(seed, temperature):
    chunk = drawn(seed, users=4, events=3)
    for user, value in enumerate(chunk.likelihood(temperature)):
        row = [math.exp(score / temperature) for score in chunk.scores[user].tolist()]
        chosen = chunk.item[chunk.user == user]
        expected = sum(math.log(row[item] / sum(row)) for item in chosen) / len(chosen)
        assert value == pytest.approx(expected, rel=1e-4)


@settings(deadline=None)
@given(seeds, st.sampled_from([0.5, 1.0, 2.0]))
def test_temperature_is_the_best_of_a_grid_however_the_users_are_cut(seed, sharpness):
    chunk = drawn(seed, sharpness=sharpness)
    temperature, likelihood = temperature_for([chunk])
    grid = [float(chunk.likelihood(t).mean()) for t in np.geomspace(0.25, 8, 40)]
    assert likelihood >= max(grid) - 1e-3
    assert likelihood == pytest.approx(float(chunk.likelihood(temperature).mean()))
    assert temperature_for(halves(chunk)) == pytest.approx((temperature, likelihood), rel=1e-5)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.0])
def test_temperature_recovers_what_was_planted(sharpness):
    temperature, _ = temperature_for([drawn(3, users=1500, sharpness=sharpness)])
    assert temperature == pytest.approx(1 / sharpness, rel=0.06)


def test_normalised_entropy_is_one_for_the_base_itself():
    base = np.log([0.5, 0.1])
    assert normalised_entropy(base, base) == 1.0
    assert normalised_entropy(np.log([0.6, 0.2]), base) < 1.0 < normalised_entropy(base - 0.1, base)


def test_normalised_entropy_refuses_to_compare_different_events():
    with pytest.raises(ValueError, match="same events"):
        normalised_entropy(np.log([0.5, 0.1]), np.log([0.5]))


@given(seeds, st.integers(1, 8), st.sampled_from([1.0, 2.0]))
def test_reliability_against_a_plain_sum_over_pairs(seed, bins, temperature):
    chunk = drawn(seed, users=5, events=4)
    log_p = log_softmax(chunk.scores / np.float32(temperature)).astype(float)
    possible = np.isfinite(log_p)
    got = reliability(halves(chunk), bins=bins, temperature=temperature)
    assert 1 <= len(got.pairs) <= bins
    assert got.pairs.sum() == 4 * possible.sum()
    assert got.expected.sum() == pytest.approx(20.0, rel=1e-5)
    assert got.hits.sum() == 20
    rate = got.expected / got.pairs
    assert (np.diff(rate) > 0).all()
    # Each bin holds the pairs between its neighbours, wherever exactly the borders lie.
    order = np.argsort(log_p[possible])
    expected = 4 * np.cumsum(np.exp(log_p[possible][order]))
    ends = (np.cumsum(got.pairs) / 4).astype(int) - 1
    np.testing.assert_allclose(np.cumsum(got.expected), expected[ends], rtol=1e-5)
    hits = np.zeros(log_p.shape)
    np.add.at(hits, (chunk.user, chunk.item), 1)
    np.testing.assert_allclose(np.cumsum(got.hits), np.cumsum(hits[possible][order])[ends])


def test_bins_have_about_the_same_expected_hits():
    got = reliability([drawn(1, users=2000)], bins=10)
    np.testing.assert_allclose(got.expected, 1200, rtol=0.05)


def test_error_of_a_calibrated_model_is_that_of_chance():
    got = reliability([drawn(2, users=3000)], bins=15)
    chance = math.sqrt(2 * 15 / (math.pi * 18_000))
    assert got.expected_calibration_error < 1.5 * chance
    sharp = reliability([drawn(2, users=3000)], bins=15, temperature=0.5)
    assert sharp.expected_calibration_error > 5 * chance
    assert sharp.absolute_calibration_error == pytest.approx(
        sharp.expected_calibration_error * sharp.hits.sum() / sharp.pairs.sum()
    )
