"""Entropy and calibration of a ranking by segment, with 95 % intervals over users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalr_ray.translator.calibration import ScoredUsers, binned_users
from training.bootstrap import Draws, Interval, mean_lifts

BINS = 20
BOOTSTRAP = 1000


@dataclass(frozen=True, kw_only=True)
class UserBins:
    """Expected and observed hits of U users in F bins of ascending probability.

    Attributes:
        expected: (U, F) float32.
        hits: (U, F) float32.
    """

    expected: NDArray[np.float32]
    hits: NDArray[np.float32]

    @classmethod
    def of(cls, chunks: Iterable[ScoredUsers], temperature: float) -> UserBins:
        """Of all users of the chunks, each of whom has events."""
        users = [user[1:, ::-1].astype(np.float32) for user in binned_users(chunks, temperature)]
        expected, hits = np.stack(users, axis=1)
        return cls(expected=expected, hits=hits)

    def merged(self, mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(N, K) expected and observed hits of some users, in bins of about equal expected hits."""
        expected, hits = (side[mask].astype(np.float64) for side in (self.expected, self.hits))
        total = expected.sum(axis=0)
        middle = np.cumsum(total) - total / 2
        group = np.minimum((middle / total.sum() * BINS).astype(np.int64), BINS - 1)
        _, start = np.unique(group, return_index=True)
        return np.add.reduceat(expected, start, axis=1), np.add.reduceat(hits, start, axis=1)


def relative_entropy(
    log_likelihood: NDArray[np.float64], base: NDArray[np.float64], mask: NDArray[np.bool_]
) -> Interval:
    """NE of some users: their log loss over that under the base; (U,) nats of each user go in."""
    losses = -np.stack([log_likelihood[mask], base[mask]])[:, None, None, :]
    (found,) = mean_lifts(losses, _draws(int(mask.sum())))
    return _shifted(found, 1.0)


def calibration_error(seeds: Sequence[UserBins], mask: NDArray[np.bool_]) -> Interval:
    """ECE of some users, the mean over seeds.

    A draw of users has noise of its own, which an absolute difference only adds up: the interval is
    moved so that its draws have the mean that was observed.
    """
    draws = _draws(int(mask.sum()))
    observed, drawn = [], []
    for bins in seeds:
        expected, hits = bins.merged(mask)
        observed.append(_error(expected.sum(axis=0), hits.sum(axis=0)))
        drawn.append(
            np.concatenate(
                [
                    _error(weights @ expected, weights @ hits)
                    for weights, _ in draws.chunks(draws.count)
                ]
            )
        )
    estimate = float(np.mean(observed))
    sample = np.mean(drawn, axis=0)
    sample = np.maximum(sample + (estimate - sample.mean()), 0.0)
    return _shifted(draws.interval(estimate, sample), 1.0)


def _error(
    expected: NDArray[np.float64], hits: NDArray[np.float64]
) -> NDArray[np.float64] | np.float64:
    """The share of the hits that fall into another bin than expected."""
    return np.abs(hits - expected).sum(axis=-1) / hits.sum(axis=-1)


def _draws(users: int) -> Draws:
    return Draws(seed=0, users=users, seeds=1, count=BOOTSTRAP, level=0.95)


def _shifted(found: Interval, by: float) -> Interval:
    """An interval of lifts as one of ratios."""
    return Interval(estimate=found.estimate + by, low=found.low + by, high=found.high + by)
