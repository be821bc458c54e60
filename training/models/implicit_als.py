"""Implicit ALS by the library `implicit`, as it is.

With factors x of users and y of items, and c the summed weight of a pair, it minimises

    Σ over pairs with rows  c (1 - x·y)²  +  Σ over other pairs (x·y)²  +  λ (Σ|x|² + Σ|y|²).

Weight 2 is the row twice and weight 0 is no row. But the law has a gap at zero: a pair of very
small weight is neither taken nor passed over, it is left out, while a pair without rows counts as
one that was passed over. So small weights do not fade to absence here; in `training.models.ials`
they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from scalr_ray.core.errors import UsageError
from training.models.base import (
    Checkpoint,
    Interactions,
    WayIn,
    checked_way,
    deciding_rows,
    rows_or_zero,
    same_rows,
)
from training.models.popularity import PopularityConfig, log_popularity
from training.models.state import State


@dataclass(frozen=True, kw_only=True)
class ImplicitALSConfig:
    """The settings of `ImplicitALS`.

    Attributes:
        prior: the popularity that is added to the scores; its `as_of` is the training cut.
        factors: width of the factors.
        sweeps: how often both sides are solved.
        regularisation: λ.
        prior_weight: multiple of the log prior in a score.
        synthetic: how synthetic rows enter; `fold-in` as in `training.models.ials`.
    """

    prior: PopularityConfig
    factors: int = 64
    sweeps: int = 15
    regularisation: float = 0.01
    prior_weight: float = 0.05
    synthetic: WayIn = "rows"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        checked_way(self.synthetic, get_args(WayIn))


class ImplicitALS:
    """Factors by `implicit`, plus the prior; users without rows are ranked by the prior."""

    kind = "implicit"

    def __init__(self, config: ImplicitALSConfig) -> None:
        self._config = config
        self._tensors: dict[str, NDArray[Any]] = {}
        self._progress: dict[str, Any] = {}

    def fit(
        self, interactions: Interactions, *, seed: int, checkpoint: Checkpoint | None = None
    ) -> None:
        """Learn the factors; `seed` draws where they start."""
        deciding_rows(interactions, self._config.synthetic).refuse_empty()
        log_prior = log_popularity(interactions, self._config.prior).astype(np.float32)
        self._tensors = {"log_prior": log_prior}
        self._progress = {"sweeps": 0, "seed": seed, "rows": interactions.digest()}
        self._sweep(interactions, checkpoint)

    def resume(self, interactions: Interactions, *, checkpoint: Checkpoint | None = None) -> None:
        """Do the sweeps that are left."""
        self._factors()
        same_rows(interactions, self._progress["rows"])
        self._sweep(interactions, checkpoint)

    def scores(self, user_codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """x·y plus the weighted log prior of every item, (B, I)."""
        users, items = self._factors()
        scores: NDArray[np.float32] = rows_or_zero(users, user_codes) @ items.T
        scores += np.float32(self._config.prior_weight) * self._tensors["log_prior"]
        return scores

    def state(self) -> State:
        """The factors, the log prior and how many sweeps were done."""
        self._factors()
        return State(
            kind=self.kind,
            settings=self._config,
            tensors={name: array.copy() for name, array in self._tensors.items()},
            progress=dict(self._progress),
        )

    def restore(self, state: State) -> None:
        """Take the factors over."""
        state.check(self.kind, self._config)
        self._tensors, self._progress = dict(state.tensors), dict(state.progress)

    def _factors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if "items" not in self._tensors:
            raise UsageError("fit the ranker before asking it for scores")
        return self._tensors["users"], self._tensors["items"]

    def _sweep(self, interactions: Interactions, checkpoint: Checkpoint | None) -> None:
        try:
            from implicit.cpu.als import AlternatingLeastSquares
        except ImportError as error:
            raise UsageError("this ranker needs implicit: pip install 'scalr[trainers]'") from error
        config, done = self._config, int(self._progress["sweeps"])
        # Its own threads and those of BLAS would wait for each other, and it warns of that.
        with threadpool_limits(limits=1, user_api="blas"):
            model = AlternatingLeastSquares(
                factors=config.factors,
                regularization=config.regularisation,
                iterations=config.sweeps - done,
                use_cg=False,  # each half of a sweep is then the minimum, whatever was before
                num_threads=1,
                random_state=self._progress["seed"],
            )
            if done:
                model.user_factors, model.item_factors = (f.copy() for f in self._factors())

            def keep(sweep: int, *_: object) -> None:
                self._tensors |= {"users": model.user_factors, "items": model.item_factors}
                self._progress["sweeps"] = done + sweep + 1
                if checkpoint:
                    checkpoint(self.state())

            rows = deciding_rows(interactions, config.synthetic)
            model.fit(rows.matrix().astype(np.float32), show_progress=False, callback=keep)
            if config.synthetic == "fold-in":
                newcomers, weights = interactions.newcomers()
                users = model.user_factors.copy()
                users[newcomers] = model.recalculate_user(newcomers, weights.astype(np.float32))
                self._tensors["users"] = users
