"""How far two samples lie apart: area under the curve, and population stability, with weights.

Legend: N rows, F features, B bins, U users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.keyed import keyed_uniform, stream_seed

_SHARE_FLOOR = 1e-4
_BINS = 10
_RESAMPLES = 200
_MOST_DRAWS = 12  # of one row in a resample; more has a chance of 1e-10


@dataclass(frozen=True, kw_only=True)
class Auc:
    """An area under the curve with its 95 % interval, resampled over users."""

    estimate: float
    low: float
    high: float


def stability_index(expected: NDArray[np.float64], observed: NDArray[np.float64]) -> float:
    """The population stability index of masses `observed` (B,) against `expected` (B,).

    PSI = sum (o - e) * ln(o / e) over shares floored at 1e-4. By convention below 0.1 is stable and
    above 0.25 has shifted.
    """
    share_e = np.maximum(expected / expected.sum(), _SHARE_FLOOR)
    share_o = np.maximum(observed / observed.sum(), _SHARE_FLOOR)
    return float(((share_o - share_e) * np.log(share_o / share_e)).sum())


def feature_stability(
    values: NDArray[np.float64], real: NDArray[np.bool_], weight: NDArray[np.float64]
) -> float:
    """PSI of the synthetic rows of a feature against the real ones, over ten bins of the real.

    Args:
        values: (N,) of the feature; NaN has a bin of its own.
        real: (N,) which rows are real.
        weight: (N,) of the rows.
    """
    unknown = np.isnan(values)
    known = real & ~unknown
    edges = _quantiles(values[known], weight[known])
    bins = np.where(unknown, len(edges) + 1, np.searchsorted(edges, values))
    size = len(edges) + 2
    expected, observed = (
        np.bincount(bins[side], weights=weight[side], minlength=size).astype(np.float64)
        for side in (real, ~real)
    )
    return stability_index(expected, observed)


def feature_auc(
    values: NDArray[np.float64], real: NDArray[np.bool_], weight: NDArray[np.float64]
) -> float:
    """How well one feature alone tells the rows apart, in [0.5, 1]; NaN ranks lowest."""
    auc = Ranking.of(np.where(np.isnan(values), -np.inf, values), real).auc(weight)
    return max(auc, 1.0 - auc)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Rows in order of a score, to take areas under the curve of under several weights.

    Attributes:
        place: (N,) the rank of each row's score; equal scores share one.
        real: (N,) which rows are real.
    """

    place: NDArray[np.int64]
    real: NDArray[np.bool_]

    @classmethod
    def of(cls, score: NDArray[np.float64], real: NDArray[np.bool_]) -> Ranking:
        """Sort by `score` (N,)."""
        place = np.unique(score, return_inverse=True)[1]
        return cls(place=np.asarray(place, dtype=np.int64), real=real)

    def auc(self, weight: NDArray[np.float64]) -> float:
        """Chance that a real row outscores a synthetic one, ties a half; rows count by `weight`."""
        size = int(self.place.max(initial=-1)) + 1
        up = np.bincount(self.place, weights=np.where(self.real, weight, 0.0), minlength=size)
        down = np.bincount(self.place, weights=np.where(self.real, 0.0, weight), minlength=size)
        below = np.cumsum(down) - 0.5 * down
        return float((up * below).sum() / (up.sum() * down.sum()))


@dataclass(frozen=True, kw_only=True)
class FoldRankings:
    """Rows ranked within each fold, because the scores of folds come from different models.

    Attributes:
        members: the rows of each fold.
        rankings: of these rows.
    """

    members: tuple[NDArray[np.int64], ...]
    rankings: tuple[Ranking, ...]

    @classmethod
    def of(
        cls, score: NDArray[np.float64], real: NDArray[np.bool_], fold: NDArray[np.int64]
    ) -> FoldRankings:
        """Rank by `score` (N,), higher for what looks real, within each `fold` (N,), from 0."""
        members = tuple(np.flatnonzero(fold == number) for number in range(int(fold.max()) + 1))
        return cls(
            members=members,
            rankings=tuple(Ranking.of(score[rows], real[rows]) for rows in members),
        )

    def auc(self, weight: NDArray[np.float64]) -> float:
        """The mean area under the curve of the folds; rows count by `weight` (N,)."""
        ranked = zip(self.rankings, self.members, strict=True)
        return float(np.mean([ranking.auc(weight[rows]) for ranking, rows in ranked]))

    def auc_with_interval(
        self, weight: NDArray[np.float64], user_key: NDArray[np.uint64], *, seed: int
    ) -> Auc:
        """The same with the interval of 200 Poisson resamples of users, whose rows are alike.

        How often a user is drawn is keyed by the user (N,), whatever the order of the rows.
        """
        keys, user = np.unique(user_key, return_inverse=True)
        stream = stream_seed("auc", seed)
        resampled = [
            self.auc(weight * _poisson(keyed_uniform(stream, keys, number))[user])
            for number in range(_RESAMPLES)
        ]
        low, high = np.quantile(resampled, (0.025, 0.975))
        return Auc(estimate=self.auc(weight), low=float(low), high=float(high))


def _poisson(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Poisson(1) numbers by inversion."""
    chances = np.exp(-1.0) / np.cumprod(np.maximum(np.arange(_MOST_DRAWS), 1.0))
    return np.searchsorted(np.cumsum(chances), uniform).astype(np.float64)


def _quantiles(values: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distinct inner edges of ten bins of equal weight; a value on an edge lies below it."""
    if not len(values):
        return np.zeros(0)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order]) / weight.sum()
    at = np.searchsorted(reached, np.arange(1, _BINS) / _BINS)
    return np.unique(values[order][np.minimum(at, len(values) - 1)])
