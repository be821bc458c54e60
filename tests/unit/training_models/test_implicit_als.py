"""The library's ALS against the law that it is said to obey."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ranker_cases import PRIOR, all_scores, interactions, random_pairs

from training.models.implicit_als import ImplicitALS, ImplicitALSConfig

CONFIG = ImplicitALSConfig(prior=PRIOR, factors=3, regularisation=0.1, prior_weight=0.0)


def test_factors_minimise_the_law_whatever_the_weights():
    data = interactions(random_pairs(20, 15, 80), users=20, items=15)
    data = replace(data, weights=np.random.default_rng(1).choice([1e-6, 0.1, 1.0, 7.0], 80))
    ranker = ImplicitALS(CONFIG)
    ranker.fit(data, seed=0)
    users, items = ranker._factors()
    for item in range(15):
        confidence = np.ones(20)
        wanted = np.zeros(20)
        mine = data.cols == item
        confidence[data.rows[mine]] = data.weights[mine]
        wanted[data.rows[mine]] = 1.0
        gram = (users.T * confidence) @ users + CONFIG.regularisation * np.eye(3)
        best = np.linalg.solve(gram, users.T @ (confidence * wanted))
        np.testing.assert_allclose(items[item], best, atol=1e-4)


def test_a_very_small_weight_takes_a_pair_out_instead_of_passing_it_over():
    owner = np.arange(12)[:, None] % 2 == np.arange(8)[None, :] % 2
    faint = owner.copy()
    owner[0, 0] = False
    pairs = np.argwhere(owner)
    absent = interactions(pairs, users=12, items=8)
    both = interactions([*pairs, (0, 0)], users=12, items=8, weights=[*np.ones(len(pairs)), 1e-6])
    assert faint[0, 0]
    left_out = all_scores(ImplicitALS(CONFIG), both)[0, 0]
    passed_over = all_scores(ImplicitALS(CONFIG), absent)[0, 0]
    assert left_out > passed_over + 0.02
