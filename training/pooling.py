"""The lift over several origins: one estimate, and an interval that does not take them for alike.

An origin is a cut with test users of its own. All pairs of an origin and a user count alike:

    lift = mean over pairs and seeds of the treated arm / the same of the control arm - 1

The interval is the wider, on either side, of two that each answer one question:

1. Had there been other origins? A t-interval over origins, of the linearised ratio: the origins'
   residuals from the common lift, which hold the noise of their users and seeds too. Weights w are
   the origins' shares of the control arm, and variance and degrees of freedom are corrected for
   them as Bell and McCaffrey do (Survey Methodology 28, 2002; Imbens and Kolesar, Review of
   Economics and Statistics 98, 2016), so that one large origin among small ones does not pass for
   many. With equal origins it is the textbook's interval with G - 1 degrees of freedom.
2. Had there been other users and seeds at these origins? The paired bootstrap of
   `training.bootstrap`, in which a user of several origins is one user. It holds the interval open
   where few origins agree by luck.

Origins are not drawn again and users again within them: the percentiles of such a bootstrap of two
levels are far too narrow for few origins that differ, and too wide for many that do not, because
what an origin measured has the noise of its users in it already (Davison and Hinkley, Bootstrap
Methods and their Application, 1997, section 3.8). A test shows both.

It assumes that origins are a sample of origins like them, independent of one another but for the
users that they share, and that their lifts are not too far from a normal distribution. One origin
says nothing of how origins differ, so its interval is without bound.

Shapes: `G` origins, `S` seeds, `U` users of an origin, `N` users of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scalr_ray.core.errors import DataError
from scalr_ray.core.keyed import stream_seed
from training.bootstrap import UNDEFINED, Draws, Interval, mean_lifts
from training.lift import Lifts, Segments

_LEAST = -1.0  # a metric cannot fall below zero


@dataclass(frozen=True, kw_only=True)
class AtOrigin:
    """What the arms reached at one origin.

    Attributes:
        users: (U,) codes of the test users, the same of a user at every origin.
        segments: name to (U,) mask.
        arms: name of an arm to metric to (S, U) values; the metric is a mean over users.
    """

    users: NDArray[np.int64]
    segments: Segments
    arms: Mapping[str, Mapping[str, NDArray[np.float64]]]


def pooled_lift(
    origins: Sequence[AtOrigin],
    treated: str,
    control: str,
    *,
    bootstrap: int,
    seed: int,
    level: float = 0.95,
) -> Lifts:
    """The lift of an arm over another per segment and metric, over all origins.

    The lifts of a segment without users are undefined (`nan`).

    Args:
        origins: at least one; all have the same segments, arms, metrics and seeds.
        treated: the arm of interest.
        control: the arm it is compared with.
        bootstrap: number of draws of users and seeds, at least 1.
        seed: of the draws.
        level: probability content of the intervals.

    Raises:
        DataError: there is no origin, or they differ in metrics or seeds.
    """
    names = _common_metrics(origins, treated, control)
    lifts: Lifts = {}
    for segment in origins[0].segments:
        values, users = _of_segment(origins, (treated, control), names, segment)
        intervals = [UNDEFINED] * len(names)
        if users:
            sums, totals = _by_user(values, users)
            draws = Draws(
                seed=stream_seed(seed, "pooled lift", segment),
                users=sums.shape[-1],
                seeds=sums.shape[-2],
                count=bootstrap,
                level=level,
            )
            intervals = [
                _wider(of_users, half_width(*total, level=level))
                for of_users, total in zip(mean_lifts(sums, draws), totals, strict=True)
            ]
        lifts[segment] = dict(zip(names, intervals, strict=True))
    return lifts


def half_width(
    treated: NDArray[np.float64], control: NDArray[np.float64], *, level: float = 0.95
) -> float:
    """Half the width of the t-interval over origins of sum(treated) / sum(control).

    Args:
        treated: (G,) sums of the treated arm, at least 0.
        control: (G,) sums of the control arm, at least 0.
        level: probability content.

    Returns:
        Infinity where fewer than two origins have anything of the control arm.
    """
    total = control.sum()
    shares = control / total if total > 0 else control
    if np.count_nonzero(shares) < 2:
        return math.inf
    residuals = (treated - treated.sum() / total * control) / total
    # Of lifts that vary alike, the residuals have the covariance `spread` times their variance.
    centred = np.diag(shares) @ (np.eye(len(shares)) - shares)
    spread = centred @ centred.T
    trace = float(np.trace(spread))
    variance = float(residuals @ residuals) * float(shares @ shares) / trace
    freedom = trace**2 / float((spread**2).sum())
    return float(stats.t.ppf((1.0 + level) / 2.0, freedom)) * math.sqrt(variance)


def pooled_sizes(origins: Sequence[AtOrigin]) -> dict[str, int]:
    """Number of pairs of an origin and a test user, per segment."""
    return {
        segment: sum(int(origin.segments[segment].sum()) for origin in origins)
        for segment in origins[0].segments
    }


def _wider(of_users: Interval, half: float) -> Interval:
    """An interval of users and seeds, as wide at least as that of origins."""
    if not math.isfinite(of_users.estimate):
        return of_users
    return Interval(
        estimate=of_users.estimate,
        low=min(of_users.low, max(of_users.estimate - half, _LEAST)),
        high=max(of_users.high, of_users.estimate + half),
    )


def _common_metrics(origins: Sequence[AtOrigin], treated: str, control: str) -> list[str]:
    if not origins:
        raise DataError("a lift over origins needs an origin")
    names = list(origins[0].arms[treated])
    shapes = {
        (tuple(origin.arms[arm]), values.shape[0])
        for origin in origins
        for arm in (treated, control)
        for values in origin.arms[arm].values()
    }
    if len(shapes) != 1:
        raise DataError("origins that are pooled need the same metrics and seeds")
    return names


def _of_segment(
    origins: Sequence[AtOrigin], arms: tuple[str, str], names: Sequence[str], segment: str
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.int64]]]:
    """Of each origin with users of the segment: values (2, M, S, U), and the users' codes."""
    values, users = [], []
    for origin in origins:
        mask = origin.segments[segment]
        if mask.any():
            told = [[origin.arms[arm][name][:, mask] for name in names] for arm in arms]
            values.append(np.array(told))
            users.append(origin.users[mask])
    return values, users


def _by_user(
    values: Sequence[NDArray[np.float64]], users: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums per user over origins (2, M, S, N), and per origin over users (M, 2, G)."""
    distinct, places = np.unique(np.concatenate(users), return_inverse=True)
    sums = np.zeros((*values[0].shape[:-1], len(distinct)))
    start = 0
    for told, codes in zip(values, users, strict=True):
        sums[..., places[start : start + len(codes)]] += told
        start += len(codes)
    totals = np.stack([told.mean(axis=2).sum(axis=-1) for told in values], axis=-1)
    return sums, totals.swapaxes(0, 1)
