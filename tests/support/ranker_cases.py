"""Rankers to hold against the contract, and rows to learn from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from scalr_ray.core.clock import to_micros
from training.models import IALS, IALSConfig, Interactions, Popularity, PopularityConfig
from training.models.dcn import DCN, DCNConfig
from training.models.implicit_als import ImplicitALS, ImplicitALSConfig
from training.models.item_knn import ItemKNN, ItemKNNConfig
from training.models.sequential import Sequential, SequentialConfig
from training.models.trees import Trees, TreesConfig
from training.models.two_tower import TwoTower, TwoTowerConfig

CUT = datetime(2026, 3, 1, tzinfo=UTC)
DAY_US = to_micros(datetime(1970, 1, 2, tzinfo=UTC))
BLOCKS = 3
PRIOR = PopularityConfig(as_of=CUT)
# Short and held back: longer training would learn that what is held out is never taken.
SHORT = {"prior": PRIOR, "epochs": 30, "learning_rate": 0.03, "prior_weight": 0.3}
TOWERS = TwoTowerConfig(width=4, weight_decay=2e-3, **SHORT)
SEQUENTIAL = SequentialConfig(width=8, length=16, weight_decay=2e-3, **SHORT)
CROSS = DCNConfig(prior=PRIOR, width=8, epochs=100, learning_rate=0.02, weight_decay=0.0005)

RANKERS = {
    "popularity": lambda: Popularity(PRIOR),
    "all-time popularity": lambda: Popularity(replace(PRIOR, window_days=None)),
    # As many factors as the planted blocks need: more would fit what is held out as absent.
    "ials": lambda: IALS(IALSConfig(prior=PRIOR, factors=BLOCKS)),
    "ials, folded in": lambda: IALS(IALSConfig(prior=PRIOR, factors=BLOCKS, synthetic="fold-in")),
    "two-tower": lambda: TwoTower(TOWERS),
    "two-tower, auxiliary head": lambda: TwoTower(replace(TOWERS, synthetic="head")),
    "two-tower, pretrained": lambda: TwoTower(replace(TOWERS, synthetic="pretrain")),
    "two-tower, folded in": lambda: TwoTower(replace(TOWERS, synthetic="fold-in")),
    "dcn": lambda: DCN(CROSS),
    "dcn, auxiliary head": lambda: DCN(replace(CROSS, synthetic="head")),
    "trees": lambda: Trees(TreesConfig(prior=PRIOR, trees=20, prior_weight=0.3)),
    "implicit": lambda: ImplicitALS(ImplicitALSConfig(prior=PRIOR, factors=BLOCKS)),
    "item-knn": lambda: ItemKNN(ItemKNNConfig(prior=PRIOR)),
    "item-knn, folded in": lambda: ItemKNN(ItemKNNConfig(prior=PRIOR, synthetic="fold-in")),
    "sequential": lambda: Sequential(SEQUENTIAL),
    "sequential, auxiliary head": lambda: Sequential(replace(SEQUENTIAL, synthetic="head")),
}
PERSONAL = ("ials", "two-tower", "two-tower, pretrained", "trees", "implicit", "item-knn")
OVERFITTING = (*PERSONAL, "dcn")
# The others obey laws of their own, which tests/unit/training_models holds them to.
FADING = tuple(name for name in RANKERS if name not in ("trees", "implicit"))
STEPLESS = ("popularity", "item-knn")
ITERATIVE = tuple(name for name in RANKERS if not any(stepless in name for stepless in STEPLESS))


def interactions(pairs, *, users, items, weights=None, synthetic=None):
    """Rows at one instant per day before the cut, the first pair being the newest."""
    rows, cols = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    days = np.arange(len(rows)) % 30 + 1
    return Interactions(
        users=pa.array([f"u{code}" for code in range(users)]),
        items=pa.array([f"i{code}" for code in range(items)]),
        rows=rows,
        cols=cols,
        weights=np.ones(len(rows)) if weights is None else np.array(weights, dtype=np.float64),
        timestamps=to_micros(CUT) - days * DAY_US,
        is_synthetic=np.zeros(len(rows), dtype=bool) if synthetic is None else np.array(synthetic),
    )


def random_pairs(users, items, count, seed=0):
    random = np.random.default_rng(seed)
    cells = random.choice(users * items, size=count, replace=False)
    return np.stack([cells // items, cells % items], axis=1)


def shuffled(pairs, seed=0):
    return np.random.default_rng(seed).permutation(np.array(pairs))


def taken(data, keep):
    """The rows of `data` at the places `keep`, repeated ones included."""
    columns = ("rows", "cols", "weights", "timestamps", "is_synthetic")
    return replace(data, **{name: getattr(data, name)[keep] for name in columns})


def all_scores(ranker, data, seed=0):
    ranker.fit(data, seed=seed)
    return ranker.scores(np.arange(data.shape[0]))
