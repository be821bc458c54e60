"""The trainers of the verdict, each as a function of a prior and of how many users its arm has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from training.models import (
    IALS,
    IALSConfig,
    Interactions,
    Popularity,
    PopularityConfig,
    Ranker,
)
from training.models.base import WayIn
from training.models.implicit_als import ImplicitALS, ImplicitALSConfig
from training.models.item_knn import ItemKNN, ItemKNNConfig
from training.models.neural import Synthetic
from training.models.sequential import Sequential, SequentialConfig
from training.models.two_tower import TwoTower, TwoTowerConfig

BATCH_USERS = 128
CONFIDENCE = 20.0  # of a row against a pair without one, in `implicit`; in `ials` it is as much

# A ranker for a prior and the users of its arm over those of real only.
Trainer = Callable[[PopularityConfig, float], Ranker]


class Confident(ImplicitALS):
    """ALS by `implicit`, every row of a confidence in proportion to its weight."""

    def fit(self, interactions: Interactions, *, seed: int) -> None:
        """Learn from the rows at `CONFIDENCE` times their weight."""
        super().fit(replace(interactions, weights=interactions.weights * CONFIDENCE), seed=seed)


def two_tower(way: Synthetic) -> Trainer:
    """Two towers, synthetic rows entering by `way`."""

    def of(prior: PopularityConfig, growth: float) -> Ranker:
        real_first = way in {"pretrain", "fold-in"}
        batch = BATCH_USERS if real_first else round(BATCH_USERS * growth)
        return TwoTower(TwoTowerConfig(prior=prior, epochs=5, batch=batch, synthetic=way))

    return of


def sequential(way: Synthetic) -> Trainer:
    """Attention to the newest eight rows of a user."""

    def of(prior: PopularityConfig, growth: float) -> Ranker:
        batch = BATCH_USERS // 2 if way == "fold-in" else round(BATCH_USERS / 2 * growth)
        return Sequential(
            SequentialConfig(prior=prior, width=16, length=8, epochs=5, batch=batch, synthetic=way)
        )

    return of


def ials(way: WayIn) -> Trainer:
    """The factorisation of the trial."""
    return lambda prior, _: IALS(IALSConfig(prior=prior, synthetic=way))


def implicit(way: WayIn) -> Trainer:
    """ALS by the library."""
    settings = {"sweeps": 10, "regularisation": 5.0, "synthetic": way}
    return lambda prior, _: Confident(ImplicitALSConfig(prior=prior, **settings))


def item_knn(way: WayIn) -> Trainer:
    """Neighbours of items."""
    return lambda prior, _: ItemKNN(ItemKNNConfig(prior=prior, synthetic=way))


TRAINERS: dict[str, Trainer] = {
    "popularity": lambda prior, _: Popularity(prior),
    "ials, rows": ials("rows"),
    "ials, fold-in": ials("fold-in"),
    "implicit, rows": implicit("rows"),
    "implicit, fold-in": implicit("fold-in"),
    "item-knn, rows": item_knn("rows"),
    "item-knn, fold-in": item_knn("fold-in"),
    "two-tower, head": two_tower("head"),
    "two-tower, fold-in": two_tower("fold-in"),
    "sequential, head": sequential("head"),
    "sequential, fold-in": sequential("fold-in"),
    "two-tower, rows": two_tower("rows"),
    "two-tower, pretrain": two_tower("pretrain"),
}
# The other ways in are tried on two targets.
WAYS = ("two-tower, rows", "two-tower, pretrain")
WAYS_ON = ("food", "electronics")


def skipped(name: str, target: str) -> bool:
    """Whether a direction leaves this trainer out unless it is asked for."""
    return name in WAYS and target not in WAYS_ON
