"""Areas under the curve and stability indices against loops over pairs of rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.generate.refining.separation import (
    FoldRankings,
    Ranking,
    feature_auc,
    feature_stability,
    stability_index,
)

scored = st.lists(
    st.tuples(st.integers(0, 6), st.booleans(), st.integers(1, 5)), min_size=2, max_size=25
).filter(lambda rows: len({real for _, real, _ in rows}) == 2)


def columns(rows):
    score, real, weight = zip(*rows, strict=True)
    return np.array(score, dtype=float), np.array(real), np.array(weight, dtype=float)


def auc_of_pairs(rows):
    won = total = 0.0
    for up, real, weight in rows:
        for down, other_real, other_weight in rows:
            if real and not other_real:
                pair = weight * other_weight
                total += pair
                won += pair * (1.0 if up > down else 0.5 if up == down else 0.0)
    return won / total


@given(scored)
def test_the_area_is_the_chance_that_a_real_row_outscores_a_synthetic_one(rows):
    score, real, weight = columns(rows)
    assert Ranking.of(score, real).auc(weight) == pytest.approx(auc_of_pairs(rows))
    alone = auc_of_pairs(rows)
    assert feature_auc(score, real, weight) == pytest.approx(max(alone, 1 - alone))


@given(scored, scored)
def test_folds_are_ranked_apart_and_averaged(one, other):
    score, real, weight = columns(one + other)
    fold = np.array([0] * len(one) + [1] * len(other))
    expected = (auc_of_pairs(one) + auc_of_pairs(other)) / 2
    # A shift of the scores of a fold says nothing: they come from another model.
    rankings = FoldRankings.of(score + 10 * fold, real, fold)
    assert rankings.auc(weight) == pytest.approx(expected)


def test_unknown_values_rank_lowest_and_have_a_bin_of_their_own():
    values = np.array([np.nan, np.nan, 1.0, 2.0])
    real = np.array([False, False, True, True])
    assert feature_auc(values, real, np.ones(4)) == 1.0
    assert feature_stability(values, real, np.ones(4)) > 5
    assert feature_stability(np.full(4, np.nan), real, np.ones(4)) == 0.0


def test_stability_against_the_formula_by_hand():
    by_hand = (0.2 - 0.5) * math.log(0.2 / 0.5) + (0.8 - 0.5) * math.log(0.8 / 0.5)
    assert stability_index(np.array([5.0, 5.0]), np.array([2.0, 8.0])) == pytest.approx(by_hand)
    # Two values of a feature are two bins; rows count by their weight.
    values, real = np.array([0.0, 1.0, 0.0, 1.0]), np.array([True, True, False, False])
    weight = np.array([5.0, 5.0, 2.0, 8.0])
    assert feature_stability(values, real, weight) == pytest.approx(by_hand)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        users = np.arange(300)
        real = rng.random(300) < 0.5
        # Two rows of a user are the same row twice: an interval over rows would be too narrow.
        score = np.repeat(rng.normal(size=300), 2)
        auc = FoldRankings.of(score, np.repeat(real, 2), np.zeros(600, dtype=int))
        keys = np.repeat(users, 2).astype(np.uint64)
        told = auc.auc_with_interval(np.ones(600), keys, seed=seed)
        covered += told.low <= 0.5 <= told.high
    assert covered >= 51


def test_the_interval_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    score, real, weight = rng.normal(size=200), rng.random(200) < 0.4, rng.random(200)
    fold, keys = rng.integers(0, 2, 200), rng.integers(0, 80, 200).astype(np.uint64)
    order = rng.permutation(200)
    one = FoldRankings.of(score, real, fold).auc_with_interval(weight, keys, seed=1)
    other = FoldRankings.of(score[order], real[order], fold[order]).auc_with_interval(
        weight[order], keys[order], seed=1
    )
    assert (one.low, one.high) == pytest.approx((other.low, other.high))
