"""Recent popularity: what an observer without any cross-domain knowledge would recommend.

All-time popularity is a weak baseline and recent popularity a strong one, so every claim of lift is
measured against the latter. Only real rows count: the prior describes what happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

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
    """

    as_of: datetime
    window_days: int | None = 90
    background: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        parse_time(self.as_of, "as_of")
        if self.window_days is not None and self.window_days <= 0:
            raise UsageError(f"window_days is {self.window_days}; write at least 1, or None")
        if self.background <= 0:
            raise UsageError(f"background is {self.background}; it must lie above 0")


def log_popularity(interactions: Interactions, config: PopularityConfig) -> NDArray[np.float64]:
    """The logarithm of every item's share of the popularity, (I,), finite.

    The popularity of an item is the weight of its recent real rows, plus `background` times the
    weight of all its real rows.
    """
    items = interactions.shape[1]
    cut = to_micros(config.as_of)
    counted = ~interactions.is_synthetic & (interactions.timestamps < cut)
    recent = counted
    if config.window_days is not None:
        first = cut - config.window_days * (DAY // _MICROSECOND)
        recent = counted & (interactions.timestamps >= first)
    row_mass = interactions.weights * (recent + config.background * counted)
    mass = np.bincount(interactions.cols, weights=row_mass, minlength=items)
    mass = np.maximum(mass, _UNSEEN_EVENTS * config.background)
    shares: NDArray[np.float64] = mass / mass.sum()
    return np.log(shares)


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
