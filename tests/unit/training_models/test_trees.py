"""Trees: what they see of a pair, and what small weights do to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ranker_cases import PRIOR, all_scores, interactions, random_pairs, taken

from scalr_ray.core.keyed import stream_seed
from training.models.negatives import drawn_items
from training.models.trees import Trees, TreesConfig, _features, _pair_features

CONFIG = TreesConfig(prior=PRIOR, trees=20)


def test_features_are_their_definition():
    data = interactions(random_pairs(12, 9, 50), users=12, items=9)
    data = replace(data, weights=np.random.default_rng(1).choice([0.5, 1.0, 3.0], 50))
    weights = data.matrix()
    w = weights.toarray()
    found = _features(weights, np.arange(12))
    for user in range(12):
        others = np.delete(w, user, axis=0)
        for item in range(9):
            rest = np.delete(np.arange(9), item)
            together = sum(w[user, j] * (others[:, item] @ others[:, j]) for j in rest)
            expected = [
                together,
                together / (others[:, item].sum() + 1.0),
                w[user, rest].sum(),
            ]
            np.testing.assert_allclose(found[user, item], expected, atol=1e-4)
    users, items = random_pairs(12, 9, 30, seed=5).T
    np.testing.assert_array_equal(_pair_features(weights, users, items), found[users, items])


def test_rows_of_small_weight_leave_the_pairs_that_others_were_trained_on():
    data = interactions(random_pairs(20, 15, 80), users=20, items=15, synthetic=np.arange(80) >= 60)
    kept = taken(data, np.arange(60))
    faint = replace(data, weights=np.where(data.is_synthetic, 1e-6, 1.0))
    without, beside = (all_scores(Trees(CONFIG), rows) for rows in (kept, faint))
    kept = kept.merged()
    seed = stream_seed("negatives", 0)
    items = drawn_items(kept, np.arange(60), CONFIG.negatives, seed)
    users = np.repeat(kept.rows, items.shape[1])
    pairs = users, items.ravel()
    np.testing.assert_allclose(beside[pairs], without[pairs], atol=1e-3)


def test_probabilities_start_at_the_share_and_are_calibrated_on_unseen_negatives():
    data = interactions(random_pairs(40, 12, 300), users=41, items=12)
    ranker = Trees(CONFIG)
    ranker.fit(data, seed=0)
    share = data.matrix().toarray().sum(axis=0) + 0.1
    odds = share / share.sum() * 12 / CONFIG.negatives
    nobody = ranker.probabilities(np.full(12, 40), np.arange(12))
    np.testing.assert_allclose(nobody, odds / (1 + odds))
    kept = data.merged()
    items = drawn_items(kept, np.arange(len(kept.rows)), CONFIG.negatives, 99)
    said = ranker.probabilities(np.repeat(kept.rows, items.shape[1]), items.ravel())
    assert said.sum() / len(items) == pytest.approx(1.0, abs=0.1)
