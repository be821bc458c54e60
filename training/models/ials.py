"""Implicit alternating least squares, with sample weights that mean what they say.

Hu, Koren and Volinsky (2008) in the form of Rendle, Krichene, Zhang and Koren (2021). With factors
x of users and y of items, it minimises

    Σ over rows  w (1 - x·y)²  +  a Σ over all pairs (x·y)²  +  λ Σ over users and items  s |·|²,
    s = (Σ of the weights in its rows + a · number of partners)^p.

Weights enter only as sums, so weight 2 is the row twice and weight 0 is no row. That is not so
where a weight is a confidence on top of 1: there a row of weight 0.1 is still nearly a whole
positive, and synthetic events of small weight do great harm to users with history.

A score is x·y plus a multiple of the log prior: factors know tastes, the prior knows the season.

By `fold-in`, real rows alone decide the factors of items and of the users who have any. Users with
synthetic rows only are then the minimum of the same sum for these items: their rows say who they
are, and move nobody else's scores by a bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import scipy.sparse as sp
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
from training.models.least_squares import Factors, Side
from training.models.popularity import PopularityConfig, log_popularity
from training.models.state import State

_STEPS = 2
_FIRST_STEPS = 8
_START_SCALE = 0.1


@dataclass(frozen=True, kw_only=True)
class IALSConfig:
    """The settings of `IALS`.

    Attributes:
        prior: the popularity that is added to the scores; its `as_of` is the training cut.
        factors: width of the factors.
        sweeps: how often both sides are solved.
        unobserved_weight: `a`, the weight of any pair, observed or not, as a negative.
        regularisation: λ.
        frequency_exponent: p; 1 regularises frequent users and items in proportion, 0 all alike.
        prior_weight: multiple of the log prior in a score.
        synthetic: how synthetic rows enter.
    """

    prior: PopularityConfig
    factors: int = 64
    sweeps: int = 15
    unobserved_weight: float = 0.05
    regularisation: float = 0.003
    frequency_exponent: float = 1.0
    prior_weight: float = 0.05
    synthetic: WayIn = "rows"

    def __post_init__(self) -> None:
        """Refuse what cannot be solved."""
        for name in ("factors", "sweeps", "unobserved_weight", "regularisation"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must lie above 0")
        checked_way(self.synthetic, get_args(WayIn))


class IALS:
    """Matrix factorisation of interactions, real and synthetic, plus the prior of real ones.

    Users without rows get no factors of their own: they are ranked by the prior.
    """

    kind = "ials"

    def __init__(self, config: IALSConfig) -> None:
        self._config = config
        self._fitted: tuple[Factors, Factors, NDArray[np.float32]] | None = None
        self._progress: dict[str, object] = {}

    def fit(
        self, interactions: Interactions, *, seed: int, checkpoint: Checkpoint | None = None
    ) -> None:
        """Learn the factors; `seed` draws where the items start."""
        factorised = deciding_rows(interactions, self._config.synthetic)
        factorised.refuse_empty()
        users, items = interactions.shape
        start = np.random.default_rng(seed).standard_normal((items, self._config.factors))
        start *= _START_SCALE / np.sqrt(self._config.factors)
        # Items without observations are not solved; they stay at zero, as users do.
        start[factorised.matrix().getnnz(axis=0) == 0] = 0.0
        log_prior = log_popularity(interactions, self._config.prior).astype(np.float32)
        nobody = np.zeros((users, self._config.factors), dtype=np.float32)
        self._fitted = nobody, start.astype(np.float32), log_prior
        self._progress = {"sweeps": 0, "rows": interactions.digest()}
        self._sweep(interactions, 0, checkpoint)

    def resume(self, interactions: Interactions, *, checkpoint: Checkpoint | None = None) -> None:
        """Do the sweeps that are left."""
        self._factors()
        same_rows(interactions, self._progress["rows"])
        self._sweep(interactions, int(str(self._progress["sweeps"])), checkpoint)

    def _sweep(self, interactions: Interactions, done: int, checkpoint: Checkpoint | None) -> None:
        users, items, log_prior = self._factors()
        # One thread: the products are so small that threads wait for each other (20 times slower on
        # a busy machine), and the result must not depend on the number of cores.
        with threadpool_limits(limits=1, user_api="blas"):
            weights = deciding_rows(interactions, self._config.synthetic).matrix()
            sweeps = _sweeps(weights, users, items, self._config, done)
            for sweep, (x, y) in enumerate(sweeps, start=done + 1):
                self._fitted = x, y, log_prior
                self._progress["sweeps"] = sweep
                if checkpoint:
                    checkpoint(self.state())
            if self._config.synthetic == "fold-in":
                self._fold_in(interactions)

    def _fold_in(self, interactions: Interactions) -> None:
        """Give users with synthetic rows only factors of their own."""
        newcomers, weights = interactions.newcomers()
        if not len(newcomers):
            return
        users, items, log_prior = self._factors()
        users = users.copy()
        users[newcomers] = _side(weights, len(items), self._config).fold_in(items)
        self._fitted = users, items, log_prior

    def scores(self, user_codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """x·y plus the weighted log prior of every item, (B, I)."""
        users, items, log_prior = self._factors()
        scores = rows_or_zero(users, user_codes) @ items.T
        scores += np.float32(self._config.prior_weight) * log_prior
        return scores

    def with_prior_weight(self, prior_weight: float) -> IALS:
        """The same fitted factors under another weight of the prior, which no training needs.

        Raises:
            UsageError: the ranker has not been fitted.
        """
        other = IALS(replace(self._config, prior_weight=prior_weight))
        other._fitted, other._progress = self._factors(), dict(self._progress)
        return other

    def state(self) -> State:
        """The factors, the log prior and how many sweeps were done."""
        users, items, log_prior = self._factors()
        return State(
            kind=self.kind,
            settings=self._config,
            tensors={"users": users, "items": items, "log_prior": log_prior},
            progress=dict(self._progress),
        )

    def restore(self, state: State) -> None:
        """Take the factors over."""
        state.check(self.kind, self._config)
        tensors = state.tensors
        self._fitted = tensors["users"], tensors["items"], tensors["log_prior"]
        self._progress = dict(state.progress)

    def _factors(self) -> tuple[Factors, Factors, NDArray[np.float32]]:
        if self._fitted is None:
            raise UsageError("fit the ranker before asking it for scores")
        return self._fitted


def _sweeps(
    weights: sp.csr_matrix, users: Factors, items: Factors, config: IALSConfig, done: int
) -> Iterator[tuple[Factors, Factors]]:
    """Factors of all users (U, F) and items (I, F) after each sweep that is left."""
    # Only rows and columns with observations are solved; the others stay at zero.
    owners = np.flatnonzero(weights.getnnz(axis=1))
    owned = np.flatnonzero(weights.getnnz(axis=0))
    dense = weights[owners][:, owned]
    user_side = _side(dense, weights.shape[1], config)
    item_side = _side(dense.T.tocsr(), weights.shape[0], config)
    x, y = users[owners], items[owned]
    for sweep in range(done, config.sweeps):
        x, y = user_side.solve(x, y, steps=_STEPS if sweep else _FIRST_STEPS)
        y, x = item_side.solve(y, x, steps=_STEPS)
        yield _scattered(x, owners, len(users)), _scattered(y, owned, len(items))


def _side(weights: sp.csr_matrix, partners: int, config: IALSConfig) -> Side:
    """The systems of one side; `partners` counts the whole other side, also what has no row."""
    mass = np.asarray(weights.sum(axis=1)).ravel() + config.unobserved_weight * partners
    ridge = config.regularisation * mass**config.frequency_exponent
    weights.sort_indices()
    return Side(
        weights.astype(np.float32),
        unobserved_weight=config.unobserved_weight,
        ridge=ridge.astype(np.float32),
    )


def _scattered(factors: Factors, places: NDArray[np.intp], count: int) -> Factors:
    everyone = np.zeros((count, factors.shape[1]), dtype=np.float32)
    everyone[places] = factors
    return everyone
