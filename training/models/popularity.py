"""Recent popularity: what an observer without any cross-domain knowledge would recommend.

All-time popularity is a weak baseline and recent popularity a strong one, so every claim of lift is
measured against the latter. Only real rows count: the prior describes what happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.clock import DAY, parse_time, to_micros
from scalr_ray.core.errors import UsageError
from training.models.base import Interactions
from training.models.state import State

_MICROSECOND = timedelta(microseconds=1)
# An item that nobody has touched weighs half an all-time event, so its logarithm is finite.
_UNSEEN_EVENTS = 0.5


@dataclass(frozen=True, kw_only=True)
class PopularityConfig:
    """How the popularity of an item is counted.

    Attributes:
        as_of: T; rows at T or later do not count.
        window_days: rows of the last so many days before T are recent; None takes all for recent.
        background: weight of any row, recent or not, against a recent one.
        mix: look-backs as (days, weight), ascending, None (all time) the last: the shares that
            items have in them are mixed, and `window_days` and `background` are not asked. A
            look-back without rows stands for the next longer one.
    """

    as_of: datetime
    window_days: int | None = 90
    background: float = 0.01
    mix: tuple[tuple[int | None, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        parse_time(self.as_of, "as_of")
        if self.window_days is not None and self.window_days <= 0:
            raise UsageError(f"window_days is {self.window_days}; write at least 1, or None")
        if self.background <= 0:
            raise UsageError(f"background is {self.background}; it must lie above 0")
        if self.mix:
            self._check_mix()

    def _check_mix(self) -> None:
        *days, last = [days for days, _ in self.mix]
        weights = [weight for _, weight in self.mix]
        ascending = all(
            one is not None and other is not None and one < other
            for one, other in pairwise([0, *days])
        )
        if last is not None or not ascending or min(weights) < 0 or weights[-1] <= 0:
            raise UsageError(
                f"mix is {self.mix}; write (days, weight) by days, ascending, and (None, weight), "
                "all time, last, whose weight lies above 0"
            )


def log_popularity(interactions: Interactions, config: PopularityConfig) -> NDArray[np.float64]:
    """The logarithm of every item's share of the popularity, (I,), finite.

    The popularity of an item is the weight of its recent real rows, plus `background` times the
    weight of all its real rows.
    """
    ever = _mass_since(interactions, config.as_of, None)
    if config.mix:
        mass = _mixed_shares(interactions, config)
        unseen = _UNSEEN_EVENTS * config.mix[-1][1] / max(ever.sum(), _UNSEEN_EVENTS)
    else:
        recent = _mass_since(interactions, config.as_of, config.window_days)
        mass = recent + config.background * ever
        unseen = _UNSEEN_EVENTS * config.background
    mass = np.maximum(mass, unseen)
    shares: NDArray[np.float64] = mass / mass.sum()
    return np.log(shares)


def _mixed_shares(interactions: Interactions, config: PopularityConfig) -> NDArray[np.float64]:
    """(I,) the shares of the look-backs, mixed; 0 for an item without rows."""
    shares = mixed = np.zeros(interactions.shape[1])
    for days, weight in reversed(config.mix):
        mass = _mass_since(interactions, config.as_of, days)
        if mass.any():
            shares = mass / mass.sum()
        mixed = mixed + weight * shares
    return mixed


def _mass_since(
    interactions: Interactions, as_of: datetime, days: int | None
) -> NDArray[np.float64]:
    """(I,) the weight of each item's real rows of so many days before a time, None for all."""
    cut = to_micros(as_of)
    counted = ~interactions.is_synthetic & (interactions.timestamps < cut)
    if days is not None:
        counted &= interactions.timestamps >= cut - days * (DAY // _MICROSECOND)
    weights, items = interactions.weights * counted, interactions.shape[1]
    return np.bincount(interactions.cols, weights, minlength=items).astype(np.float64, copy=False)


class Popularity:
    """Ranks every user the same items: the most popular ones as of a time."""

    kind = "popularity"

    def __init__(self, config: PopularityConfig) -> None:
        self._config = config
        self._scores: NDArray[np.float32] | None = None

    def fit(self, interactions: Interactions, *, seed: int) -> None:  # noqa: ARG002 - no draws
        """Count; the seed changes nothing."""
        interactions.refuse_empty()
        self._scores = log_popularity(interactions, self._config).astype(np.float32)

    def scores(self, user_codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """The log popularity of every item, repeated for every user, (B, I), read-only."""
        scores = self._fitted()
        return np.broadcast_to(scores, (len(user_codes), len(scores)))

    def state(self) -> State:
        """The log popularities."""
        return State(kind=self.kind, settings=self._config, tensors={"scores": self._fitted()})

    def restore(self, state: State) -> None:
        """Take the log popularities over."""
        state.check(self.kind, self._config)
        self._scores = state.tensors["scores"]

    def _fitted(self) -> NDArray[np.float32]:
        if self._scores is None:
            raise UsageError("fit the ranker before asking it for scores")
        return self._scores
