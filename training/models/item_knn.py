"""Item-based neighbours, by the library `implicit`: who took this took that.

With w the summed weight of a pair, and of all pairs of a user or an item, two items are as similar
as

    s(i, j) = Σ over users  w(u, i) w(u, j) / w(u)  /  √((w(i) + h) (w(j) + h)),

a cosine in which who has taken much says less of what goes together (the row normalisation of
Karypis, 2001), shrunk by h where there is little to go by. A user's score of j is the sum of
w(u, i) s(i, j) over the items i that have j among their neighbours, plus a multiple of the log
prior. An item is a neighbour of its own.

Weights enter as sums, so weight 2 is the row twice and weight 0 is no row, and small ones fade to
that: a user whose rows all have weight w counts as w users.

By `fold-in`, real rows alone decide what items are similar. The rows of users with synthetic rows
only are then looked up among these, and move nobody else's scores by a bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from scalr_ray.core.errors import UsageError
from training.models.base import Interactions, WayIn, checked_codes, checked_way, deciding_rows
from training.models.popularity import PopularityConfig, log_popularity
from training.models.state import State

_PARTS = ("data", "indices", "indptr")


@dataclass(frozen=True, kw_only=True)
class ItemKNNConfig:
    """The settings of `ItemKNN`.

    Attributes:
        prior: the popularity that is added to the scores; its `as_of` is the training cut.
        neighbours: how many items are kept for each, the most similar.
        shrinkage: h, in rows.
        prior_weight: multiple of the log prior in a score.
        synthetic: how synthetic rows enter.
    """

    prior: PopularityConfig
    neighbours: int = 100
    shrinkage: float = 0.3
    prior_weight: float = 0.02
    synthetic: WayIn = "rows"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        for name in ("neighbours", "shrinkage"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must lie above 0")
        checked_way(self.synthetic, get_args(WayIn))


class ItemKNN:
    """Similarities by `implicit`, plus the prior; users without rows are ranked by the prior."""

    kind = "item-knn"

    def __init__(self, config: ItemKNNConfig) -> None:
        self._config = config
        # Similarities, (I, I); weights of users, then of `UNSEEN`, (U + 1, I); log prior, (I,).
        self._fitted: tuple[sp.csr_matrix, sp.csr_matrix, NDArray[np.float32]] | None = None

    def fit(self, interactions: Interactions, *, seed: int) -> None:  # noqa: ARG002 - no draws
        """Find the neighbours; the seed changes nothing."""
        way = self._config.synthetic
        deciding = deciding_rows(interactions, way)
        deciding.refuse_empty()
        weights = (interactions.for_fold_in() if way == "fold-in" else interactions).matrix()
        weights.resize(weights.shape[0] + 1, weights.shape[1])
        log_prior = log_popularity(interactions, self._config.prior).astype(np.float32)
        similar = self._similar(deciding.matrix())
        self._fitted = similar, weights.astype(np.float32), log_prior

    def scores(self, user_codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """The summed similarity plus the weighted log prior of every item, (B, I)."""
        similar, weights, log_prior = self._found()
        checked_codes(user_codes, weights.shape[0] - 1)
        scores: NDArray[np.float32] = (weights[user_codes] @ similar).toarray()
        scores += np.float32(self._config.prior_weight) * log_prior
        return scores

    def state(self) -> State:
        """The similarities, the weights of users and the log prior."""
        similar, weights, log_prior = self._found()
        tensors = {"log_prior": log_prior.copy()}
        for name, matrix in (("similar", similar), ("weights", weights)):
            tensors |= {f"{name}.{part}": getattr(matrix, part).copy() for part in _PARTS}
        return State(kind=self.kind, settings=self._config, tensors=tensors)

    def restore(self, state: State) -> None:
        """Take them over."""
        state.check(self.kind, self._config)
        tensors = state.tensors
        items = len(tensors["log_prior"])
        similar, weights = (
            sp.csr_matrix(
                tuple(tensors[f"{name}.{part}"] for part in _PARTS),
                shape=(len(tensors[f"{name}.indptr"]) - 1, items),
            )
            for name in ("similar", "weights")
        )
        self._fitted = similar, weights, tensors["log_prior"]

    def _similar(self, weights: sp.csr_matrix) -> sp.csr_matrix:
        """The similarity of every item and its neighbours, (I, I)."""
        try:
            from implicit.nearest_neighbours import ItemItemRecommender
        except ImportError as error:
            raise UsageError("this ranker needs implicit: pip install 'scalr[trainers]'") from error
        user_mass, item_mass = (np.asarray(weights.sum(axis=axis)).ravel() for axis in (1, 0))
        users, items = weights.nonzero()
        weights.data /= np.sqrt(user_mass[users] * (item_mass[items] + self._config.shrinkage))
        model = ItemItemRecommender(K=self._config.neighbours, num_threads=1)
        model.fit(weights, show_progress=False)
        return model.similarity.astype(np.float32)

    def _found(self) -> tuple[sp.csr_matrix, sp.csr_matrix, NDArray[np.float32]]:
        if self._fitted is None:
            raise UsageError("fit the ranker before asking it for scores")
        return self._fitted
