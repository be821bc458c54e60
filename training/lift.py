"""Lift: the relative change of a metric between two arms of one experiment, with an interval.

An arm is a way to build the training set (real only, + synthetic, + placebo) or a ranker. All arms
rank the same test users, in the same order, with the same seeds, so two arms are compared pair by
pair:

    lift = mean over seeds and users of the treated arm / the same of the control arm - 1

`training.bootstrap` gives the intervals, `training.verdict` reads them.
Shapes: `S` seeds, `U` users, `I` items, `k` length of a ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from scalr_ray.core.errors import DataError
from scalr_ray.core.keyed import stream_seed
from training.bootstrap import UNDEFINED, Draws, Interval, coverage_lift, mean_lifts
from training.metrics import (
    coverage_at_k,
    gini_at_k,
    mrr_at_k,
    ndcg_at_k,
    novelty_at_k,
    recall_at_k,
)
from training.verdict import Verdict, judge

__all__ = [
    "ArmResult",
    "Interval",
    "Lifts",
    "Segments",
    "Verdict",
    "judge",
    "lifts_to_json",
    "paired_lift",
    "summarise",
]

Segments = Mapping[str, NDArray[np.bool_]]
Lifts = dict[str, dict[str, Interval]]


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """What one arm recommended to the test users, and how good it was.

    Attributes:
        top: (S, U, k) item codes, best first, padded with `training.metrics.NO_ITEM`.
        ndcg: (S, U) NDCG@k.
        recall: (S, U) recall@k.
        catalogue_size: number of rankable items.
    """

    top: NDArray[np.int64]
    ndcg: NDArray[np.float64]
    recall: NDArray[np.float64]
    catalogue_size: int

    @classmethod
    def of(
        cls, tops: Sequence[NDArray[np.int64]], relevant: sp.csr_matrix, catalogue_size: int
    ) -> ArmResult:
        """Measure one (U, k) ranking per seed against the (U, I) test items.

        Raises:
            DataError: there is no ranking, the shapes do not fit, or a user has no relevant item.
        """
        if not tops:
            raise DataError("an arm needs the rankings of at least one seed")
        return cls(
            top=np.stack(tops),
            ndcg=np.stack([ndcg_at_k(top, relevant) for top in tops]),
            recall=np.stack([recall_at_k(top, relevant) for top in tops]),
            catalogue_size=catalogue_size,
        )

    @property
    def metric_names(self) -> tuple[str, str, str]:
        """The names of NDCG, recall and coverage at this arm's k."""
        k = self.top.shape[2]
        return f"ndcg_at_{k}", f"recall_at_{k}", f"coverage_at_{k}"


def summarise(
    arm: ArmResult,
    segments: Segments,
    *,
    relevant: sp.csr_matrix | None = None,
    shares: NDArray[np.float64] | None = None,
) -> dict[str, dict[str, float | None]]:
    """The metrics of an arm per segment, averaged over users and seeds.

    Coverage, Gini and novelty are those of one seed's recommendations to the users of the segment,
    averaged over seeds. The metrics of a segment without users are None.

    Args:
        arm: what was recommended.
        segments: name to (U,) mask.
        relevant: (U, I) test items; with them MRR is told too.
        shares: (I,) of all interactions; with them Gini and novelty are told too.
    """
    names = list(arm.metric_names)
    k = arm.top.shape[2]
    names += [f"mrr_at_{k}"] * (relevant is not None)
    names += [f"gini_at_{k}", f"novelty_at_{k}"] * (shares is not None)
    summary: dict[str, dict[str, float | None]] = {}
    for name, mask in segments.items():
        if not mask.any():
            summary[name] = dict.fromkeys(names)
            continue
        tops = list(arm.top[:, mask])
        size = arm.catalogue_size
        values: list[Any] = [arm.ndcg[:, mask], arm.recall[:, mask]]
        values.append([coverage_at_k(top, size) for top in tops])
        if relevant is not None:
            values.append([mrr_at_k(top, relevant[mask]) for top in tops])
        if shares is not None:
            values.append([gini_at_k(top, size) for top in tops])
            values.append([novelty_at_k(top, shares) for top in tops])
        summary[name] = {
            told: float(np.mean(each)) for told, each in zip(names, values, strict=True)
        }
    return summary


def paired_lift(
    treated: ArmResult,
    control: ArmResult,
    segments: Segments,
    *,
    bootstrap: int,
    seed: int,
    level: float = 0.95,
) -> Lifts:
    """The lift of `treated` over `control` per segment and metric, with paired intervals.

    A segment's draws depend on `seed`, its name and its size only: lifts over different controls
    share them, and adding a segment changes no other. The lifts of a segment without users are
    undefined (`nan`).

    Args:
        treated: the arm of interest.
        control: the arm it is compared with.
        segments: name to (U,) mask.
        bootstrap: number of draws, at least 1; coverage uses the first 200 of them.
        seed: of the draws.
        level: probability content of the intervals.

    Raises:
        DataError: the arms differ in users, seeds or k, or a mask does not fit.
    """
    _check_paired(treated, control, segments)
    lifts: Lifts = {}
    for name, mask in segments.items():
        users = np.flatnonzero(mask)
        intervals = [UNDEFINED] * len(treated.metric_names)
        if users.size:
            draws = Draws(
                seed=stream_seed(seed, "paired lift", name),
                users=users.size,
                seeds=len(treated.top),
                count=bootstrap,
                level=level,
            )
            intervals = _segment_lifts(treated, control, users, draws)
        lifts[name] = dict(zip(treated.metric_names, intervals, strict=True))
    return lifts


def lifts_to_json(lifts: Lifts) -> dict[str, dict[str, dict[str, float | None]]]:
    """`lifts` as plain JSON values; see `Interval.to_json` for what None means."""
    return {
        segment: {metric: interval.to_json() for metric, interval in metrics.items()}
        for segment, metrics in lifts.items()
    }


def _segment_lifts(
    treated: ArmResult, control: ArmResult, users: NDArray[np.intp], draws: Draws
) -> list[Interval]:
    """The lifts in the order of `metric_names`."""
    arms = (treated, control)
    means = np.stack([[arm.ndcg[:, users], arm.recall[:, users]] for arm in arms])
    tops = np.stack([arm.top[:, users] for arm in arms])
    sizes = (treated.catalogue_size, control.catalogue_size)
    return [*mean_lifts(means, draws), coverage_lift(tops, sizes, draws)]


def _check_paired(treated: ArmResult, control: ArmResult, segments: Segments) -> None:
    if treated.top.shape != control.top.shape:
        raise DataError(
            f"the arms are not paired: {treated.top.shape} and {control.top.shape} "
            "seeds, users and places"
        )
    for name, mask in segments.items():
        if mask.shape != treated.top.shape[1:2]:
            raise DataError(
                f"segment {name!r} marks {mask.shape[0]} users of {treated.top.shape[1]}"
            )
