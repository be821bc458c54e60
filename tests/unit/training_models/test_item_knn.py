"""The neighbours of items against the law that they are said to obey."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ranker_cases import PRIOR, all_scores, interactions, random_pairs

from scalr_ray.core.errors import UsageError
from training.models.item_knn import ItemKNN, ItemKNNConfig

CONFIG = ItemKNNConfig(prior=PRIOR, neighbours=15, shrinkage=2.0, prior_weight=0.0)


@pytest.mark.parametrize("neighbours", [1, 4, 15])
def test_scores_are_the_law_whatever_the_weights(neighbours):
    data = interactions(random_pairs(20, 15, 80), users=20, items=15)
    data = replace(data, weights=np.random.default_rng(1).choice([1e-6, 0.1, 1.0, 7.0], 80))
    weights = data.matrix().toarray()
    norms = np.sqrt(weights.sum(axis=0) + CONFIG.shrinkage)
    shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    similar = weights.T @ shares / np.outer(norms, norms)
    similar[similar < np.sort(similar, axis=1)[:, -neighbours, None]] = 0.0
    scores = all_scores(ItemKNN(replace(CONFIG, neighbours=neighbours)), data)
    np.testing.assert_allclose(scores, weights @ similar, rtol=1e-4, atol=1e-6)


def test_users_of_weight_two_count_as_two_users():
    pairs = random_pairs(10, 8, 40)
    heavy = interactions(pairs, users=20, items=8, weights=np.full(40, 2.0))
    twice = np.concatenate([pairs, pairs + np.array([10, 0])])
    scores = all_scores(ItemKNN(CONFIG), heavy)[:10]
    again = all_scores(ItemKNN(CONFIG), interactions(twice, users=20, items=8))[:10]
    np.testing.assert_allclose(scores, 2 * again, rtol=1e-5)


@pytest.mark.parametrize("wrong", [{"neighbours": 0}, {"shrinkage": -1.0}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(UsageError, match="it must lie above 0"):
        replace(CONFIG, **wrong)
