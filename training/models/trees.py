"""Gradient-boosted trees by LightGBM, pointwise: what is taken against negatives drawn beside it.

Trees see how a pair hangs together, not who it is: C, how often the item was taken together with
what else the user took, by other users alone. Rows of a user say nothing about that user's own
pairs, or training would see what scoring cannot.

    C(u, i) = Σ over items j ≠ i  w_uj Σ over users v ≠ u  w_vi w_vj

The odds that the item's share alone gives are where boosting starts, and the log prior stands in
their place in a score. What trees add counts in proportion to m / (m + 1), m being the weight of
the user's rows.

Leaves and gains go by weight, the places where a feature may be split by presence: a row of very
small weight leaves the scores of the pairs that the others were trained on as they are, and may
move those of pairs in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import expit

from scalr_ray.core.errors import UsageError
from scalr_ray.core.keyed import stream_seed
from training.models.base import UNSEEN, Checkpoint, Interactions, checked_codes, same_rows
from training.models.negatives import drawn_items
from training.models.popularity import PopularityConfig, log_popularity
from training.models.state import State

_UNTAKEN = 0.1  # rows that an item counts for beyond those that it has
_BLOCK_USERS = 256


@dataclass(frozen=True, kw_only=True)
class TreesConfig:
    """The settings of `Trees`.

    Attributes:
        prior: the popularity that is added to the scores; its `as_of` is the training cut.
        trees: how many.
        leaves: of each tree, at most.
        learning_rate: what each tree counts.
        least_weight: the sum of hessians that a leaf has at least.
        negatives: pairs that are drawn beside each row.
        prior_weight: multiple of the log prior in a score.
    """

    prior: PopularityConfig
    trees: int = 100
    leaves: int = 15
    learning_rate: float = 0.1
    least_weight: float = 1.0
    negatives: int = 4
    prior_weight: float = 1.0


class Trees:
    """Ranks by what the trees say beyond popularity, plus the prior."""

    kind = "trees"

    def __init__(self, config: TreesConfig) -> None:
        self._config = config
        self._weights: sp.csr_matrix | None = None
        self._log_prior = np.zeros(0, dtype=np.float32)
        self._texts: list[str] = []  # of the models, whose sum is the model
        self._progress: dict[str, Any] = {}

    def fit(
        self, interactions: Interactions, *, seed: int, checkpoint: Checkpoint | None = None
    ) -> None:
        """Boost; `seed` draws the negatives."""
        interactions.refuse_empty()
        self._weights = interactions.matrix()
        self._log_prior = log_popularity(interactions, self._config.prior).astype(np.float32)
        self._texts = []
        self._progress = {"trees": 0, "seed": seed, "rows": interactions.digest()}
        self._boost(interactions.merged(), checkpoint)

    def resume(self, interactions: Interactions, *, checkpoint: Checkpoint | None = None) -> None:
        """Add the trees that are left."""
        self._taken()
        same_rows(interactions, self._progress["rows"])
        self._boost(interactions.merged(), checkpoint)

    def scores(self, user_codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the trees say plus the weighted log prior of every item, (B, I)."""
        taken = self._taken()
        checked_codes(user_codes, taken.shape[0])
        scores = np.tile(self._config.prior_weight * self._log_prior, (len(user_codes), 1))
        seen = np.flatnonzero(user_codes != UNSEEN)
        mass = np.asarray(taken.sum(axis=1)).ravel()
        for start in range(0, len(seen), _BLOCK_USERS):
            places = seen[start : start + _BLOCK_USERS]
            users = user_codes[places]
            features = _features(taken, users)
            said = self._said(features.reshape(-1, features.shape[-1]))
            shrunk = mass[users] / (mass[users] + 1.0)
            scores[places] += shrunk[:, None] * said.reshape(features.shape[:2])
        return scores.astype(np.float32)

    def probabilities(
        self, user_codes: NDArray[np.int64], item_codes: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The probability that a pair, among its negatives, is one that was taken, (B,).

        Raises:
            UsageError: the ranker has not been fitted.
        """
        taken = self._taken()
        mass = np.asarray(taken.sum(axis=1)).ravel()[user_codes]
        said = mass / (mass + 1.0) * self._said(_pair_features(taken, user_codes, item_codes))
        probabilities: NDArray[np.float64] = expit(said + self._odds()[item_codes])
        return probabilities

    def state(self) -> State:
        """The trees as LightGBM's text, the weights of all pairs and the log prior."""
        taken = self._taken()
        tensors = {
            "data": taken.data,
            "indices": taken.indices,
            "indptr": taken.indptr,
            "shape": np.array(taken.shape),
            "log_prior": self._log_prior,
        }
        progress = self._progress | {"texts": list(self._texts)}
        return State(kind=self.kind, settings=self._config, tensors=tensors, progress=progress)

    def restore(self, state: State) -> None:
        """Take the trees over."""
        state.check(self.kind, self._config)
        tensors, progress = state.tensors, dict(state.progress)
        parts = (tensors["data"], tensors["indices"], tensors["indptr"])
        self._weights = sp.csr_matrix(parts, shape=tuple(tensors["shape"]))
        self._log_prior, self._texts = tensors["log_prior"], progress.pop("texts")
        self._progress = progress

    def _taken(self) -> sp.csr_matrix:
        if self._weights is None:
            raise UsageError("fit the ranker before asking it for scores")
        return self._weights

    def _said(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        said = np.zeros(len(features))
        for text in self._texts:
            said += (
                _lightgbm().Booster(model_str=text).predict(features, raw_score=True, num_threads=1)
            )
        return said

    def _odds(self) -> NDArray[np.float64]:
        """The log odds of a pair by the item's share (I,); see `training.models.negatives`."""
        share = np.asarray(self._taken().sum(axis=0)).ravel() + _UNTAKEN
        odds: NDArray[np.float64] = np.log(
            share / share.sum() * len(share) / self._config.negatives
        )
        return odds

    def _boost(self, data: Interactions, checkpoint: Checkpoint | None) -> None:
        lightgbm, config = _lightgbm(), self._config
        taken, before, done = self._taken(), list(self._texts), int(self._progress["trees"])
        seed = stream_seed("negatives", self._progress["seed"])
        items = drawn_items(data, np.arange(len(data.rows)), config.negatives, seed)
        users = np.repeat(data.rows, items.shape[1])
        features = _pair_features(taken, users, items.ravel())
        labels = np.tile(np.arange(items.shape[1]) == 0, len(items))
        rows = lightgbm.Dataset(
            features,
            label=labels,
            weight=np.repeat(data.weights, items.shape[1]),
            init_score=self._odds()[items.ravel()] + self._said(features),
        )

        def keep(env: Any) -> None:  # noqa: ANN401 - LightGBM's
            last = done + env.iteration + 1 == config.trees
            if checkpoint or last:
                self._texts = [*before, env.model.model_to_string()]
                self._progress["trees"] = done + env.iteration + 1
            if checkpoint:
                checkpoint(self.state())

        if done < config.trees:
            lightgbm.train(self._params(), rows, config.trees - done, callbacks=[keep])

    def _params(self) -> dict[str, Any]:
        """Nothing goes by the number of rows, and nothing is drawn."""
        return {
            "objective": "binary",
            "num_leaves": self._config.leaves,
            "learning_rate": self._config.learning_rate,
            "min_sum_hessian_in_leaf": self._config.least_weight,
            "min_data_in_leaf": 1,
            "min_data_in_bin": 1,
            "feature_pre_filter": False,
            "boost_from_average": False,
            "lambda_l2": 1.0,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }


def _features(taken: sp.csr_matrix, users: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of all items for each of `users`, (B, I, 3): C, C by the item's weight, the user's weight."""
    own = taken[users].toarray()
    squares = (own**2).sum(axis=1, keepdims=True)
    item_squares = np.asarray(taken.multiply(taken).sum(axis=0)).ravel()
    together = ((taken[users] @ taken.T) @ taken).toarray()
    # Without j = i, and without what the user brought in for the other j.
    together -= own * item_squares + own * (squares - own**2)
    together = np.maximum(together, 0.0)
    item_mass = np.asarray(taken.sum(axis=0)).ravel() - own
    user_mass = np.broadcast_to(own.sum(axis=1, keepdims=True) - own, own.shape)
    found = np.stack([together, together / (item_mass + 1.0), user_mass], axis=-1)
    # What is the same in exact arithmetic must not fall into two bins.
    return np.round(found, 4)


def _pair_features(
    taken: sp.csr_matrix, users: NDArray[np.int64], items: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of some pairs, (N, 3), as `_features` has them."""
    found = np.empty((len(users), 3))
    distinct, place = np.unique(users, return_inverse=True)
    order = np.argsort(place, kind="stable")
    bounds = np.searchsorted(place[order], np.arange(0, len(distinct) + _BLOCK_USERS, _BLOCK_USERS))
    for block, (first, end) in enumerate(pairwise(bounds)):
        start = block * _BLOCK_USERS
        of_block = _features(taken, distinct[start : start + _BLOCK_USERS])
        rows = order[first:end]
        found[rows] = of_block[place[rows] - start, items[rows]]
    return found


def _lightgbm() -> Any:  # noqa: ANN401 - a module
    try:
        import lightgbm
    except ImportError as error:
        raise UsageError("this ranker needs LightGBM: pip install 'scalr[trainers]'") from error
    return lightgbm
