"""The paired bootstrap behind `training.lift`: arrays in, intervals out.

Users and seeds are drawn with replacement, the same draws in both arms, so what is common to both
(hard users, lucky seeds) cancels. The draws of a run are matrices of multiplicities, and all means
of a chunk of draws are one matrix product.

Shapes: `A` arms (treated, control), `M` mean metrics, `S` seeds, `N` users, `k` length of a
ranking, `B` draws of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from training.metrics import NO_ITEM

# Cells of one chunk of multiplicities: 16 MB as float64.
_CHUNK_CELLS = 1 << 21
# Coverage is no mean, so each of its draws costs a sparse product; the verdict does not rest on it.
COVERAGE_DRAWS = 200
_Z_80, _Z_975 = 0.841621, 1.959964


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A relative lift (0.5 is +50 %) and the bounds of its interval.

    `nan` where a segment has no users; infinite where the control's mean is zero and the treated
    arm's is not. A lift of nothing over nothing is 0.
    """

    estimate: float
    low: float
    high: float

    @property
    def detectable(self) -> float:
        """The least lift, either way, that is told from zero in four of five such measurements.

        A 95 % interval reaches z(0.975) standard errors to each side, and a lift of z(0.975) +
        z(0.8) standard errors lies beyond its reach with a chance of 0.8.
        """
        return (self.high - self.low) / 2.0 * (1.0 + _Z_80 / _Z_975)

    def to_json(self) -> dict[str, float | None]:
        """The three numbers; None stands for what JSON cannot say (undefined or infinite)."""
        numbers = {"estimate": self.estimate, "low": self.low, "high": self.high}
        return {name: value if math.isfinite(value) else None for name, value in numbers.items()}

    @classmethod
    def from_json(cls, told: Mapping[str, float | None]) -> Interval:
        """What `to_json` gave; what JSON could not say is undefined."""
        numbers = {name: math.nan if value is None else value for name, value in told.items()}
        return cls(**numbers)


UNDEFINED = Interval(estimate=math.nan, low=math.nan, high=math.nan)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The draws of one comparison; a longer run starts with the draws of a shorter one.

    Attributes:
        seed: of the random streams.
        users: N.
        seeds: S.
        count: number of draws, at least 1.
        level: probability content of the intervals.
    """

    seed: int
    users: int
    seeds: int
    count: int
    level: float

    def chunks(self, limit: int) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """How often each user (B, N) and each seed (B, S) was drawn, `limit` rows at most."""
        # One stream each, so that the draws do not depend on the size of a chunk.
        of_users, of_seeds = np.random.default_rng(self.seed).spawn(2)
        step = max(1, _CHUNK_CELLS // self.users)
        count = min(self.count, limit)
        for start in range(0, count, step):
            rows = min(step, count - start)
            yield (
                _multiplicities(of_users, rows, self.users),
                _multiplicities(of_seeds, rows, self.seeds),
            )

    def interval(self, ratio: float, sample: NDArray[np.float64]) -> Interval:
        """The percentile interval of the lift, from ratios of treated to control."""
        tail = (1.0 - self.level) / 2.0
        # Order statistics, not interpolated: an infinite draw must not turn a bound into NaN.
        low = float(np.quantile(sample, tail, method="lower"))
        high = float(np.quantile(sample, 1.0 - tail, method="higher"))
        return Interval(estimate=ratio - 1.0, low=low - 1.0, high=high - 1.0)


def mean_lifts(values: NDArray[np.float64], draws: Draws) -> list[Interval]:
    """The lift of each of the M mean metrics.

    Args:
        values: (A, M, S, N) metric values, the treated arm first.
        draws: the draws to take.
    """
    flat = values.reshape(-1, draws.users).T
    means = []
    for user_weights, seed_weights in draws.chunks(draws.count):
        per_seed = (user_weights @ flat).reshape(-1, *values.shape[:3])
        means.append(np.einsum("bams,bs->bam", per_seed, seed_weights))
    sample = np.concatenate(means)
    ratios = _ratio(sample[:, 0], sample[:, 1])
    treated, control = values.mean(axis=(2, 3))
    return [
        draws.interval(float(estimate), column)
        for estimate, column in zip(_ratio(treated, control), ratios.T, strict=True)
    ]


def coverage_lift(
    tops: NDArray[np.int64], catalogue_sizes: tuple[int, int], draws: Draws
) -> Interval:
    """The lift of the mean over seeds of catalogue coverage.

    A draw sees only some two thirds of the users, which costs an arm with many rarely recommended
    items more coverage than its rival. So the draws are re-centred on the ratio over all users.

    Args:
        tops: (A, S, N, k) rankings, the treated arm first.
        catalogue_sizes: rankable items per arm.
        draws: the draws to take, at most `COVERAGE_DRAWS` of them.
    """
    incidences = [[_incidence(top) for top in seeds] for seeds in tops]
    everyone = np.ones((draws.users, 1), dtype=np.float32)
    sizes = np.array(catalogue_sizes, dtype=np.float64)
    estimate = _coverage_ratio(incidences, everyone, np.ones((1, draws.seeds)), sizes)[0]
    samples = [
        _coverage_ratio(incidences, (users.T > 0).astype(np.float32), seeds, sizes)
        for users, seeds in draws.chunks(COVERAGE_DRAWS)
    ]
    ratios = np.concatenate(samples)
    centre = np.median(ratios)
    if np.isfinite(estimate) and np.isfinite(centre) and centre > 0:
        ratios *= estimate / centre
    return draws.interval(float(estimate), ratios)


def _multiplicities(rng: np.random.Generator, rows: int, size: int) -> NDArray[np.float64]:
    # Counting uniform draws is several times faster than asking for multinomial ones.
    drawn = rng.integers(0, size, (rows, size)) + np.arange(rows)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def _coverage_ratio(
    incidences: list[list[sp.csr_matrix]],
    drawn: NDArray[np.float32],
    seed_weights: NDArray[np.float64],
    sizes: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Treated over control coverage, (B,), for (N, B) drawn users and (B, S) seed weights."""
    covered = np.array(
        [[((items @ drawn) > 0).sum(axis=0) for items in seeds] for seeds in incidences]
    )  # (A, S, B)
    share = np.einsum("asb,bs->ab", covered.astype(np.float64), seed_weights) / sizes[:, None]
    return _ratio(share[0], share[1])


def _incidence(top: NDArray[np.int64]) -> sp.csr_matrix:
    """(distinct items, N): where an item was recommended to a user."""
    user, place = np.nonzero(top != NO_ITEM)
    codes, row = np.unique(top[user, place], return_inverse=True)
    ones = np.ones(row.size, dtype=np.float32)
    return sp.csr_matrix((ones, (row, user)), shape=(codes.size, len(top)))


def _ratio(treated: NDArray[np.float64], control: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ratio of two arms, where 0 / 0 is 1 (nothing changed) and x / 0 is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((treated == 0) & (control == 0), 1.0, treated / control))
