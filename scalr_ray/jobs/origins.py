"""Several origins: which are asked of, what each is measured on, and what all of them say together.

Each batch is an origin. It is measured on the outcomes from its cut up to the cut of the next batch
that was named, so that no outcome is used twice; `training.pooling` puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.errors import TooLittleData, UsageError
from scalr_ray.jobs.evaluation_result import Subject
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchRecord, BatchState, Ledger
from training.lift import ArmResult, Segments, judge, lifts_to_json, paired_lift
from training.pooling import AtOrigin, pooled_lift, pooled_sizes
from training.verdict import ndcg_of
from training.ways import better_way

_COMPARISONS = {
    "lift": ("synthetic", "real_only"),
    "lift_over_placebo": ("synthetic", "placebo"),
    "lift_placebo_over_real": ("placebo", "real_only"),
    "lift_upsampled_over_real": ("upsampled", "real_only"),
    "lift_folded_over_real": ("folded_in", "real_only"),
    "lift_folded_over_rows": ("folded_in", "synthetic"),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An origin that was asked of.

    Attributes:
        batch: what is measured, from its cut on.
        until: the outcomes end before this time; None takes all that came.
    """

    batch: BatchRecord
    until: datetime | None = None

    @property
    def title(self) -> str:
        """The origin in words."""
        return f"origin {self.batch.as_of:%Y-%m-%d %H:%M}, batch {self.batch.batch_id}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found at one origin.

    Attributes:
        ids: (U,) ids of the test users.
        segments: name to (U,) mask.
        arms: name of an arm to metric to (S, U) values.
        told: its row in the report.
    """

    ids: pa.Array
    segments: Segments
    arms: Mapping[str, Mapping[str, NDArray[np.float64]]]
    told: dict[str, Any]


def asked_of(ledger: Ledger, batch_ids: Sequence[str]) -> list[Asked]:
    """The origins of some batches, the newest first; of none named, the newest batch alone.

    Raises:
        UsageError: there is no such batch, or two have one cut.
    """
    if not batch_ids:
        newest = ledger.latest_batch()
        if newest is None:
            raise UsageError("there is no batch to evaluate; run `scalr run` first")
        return [Asked(batch=newest)]
    batches = sorted(map(ledger.batch, batch_ids), key=lambda batch: batch.as_of, reverse=True)
    for later, earlier in pairwise(batches):
        if later.as_of == earlier.as_of:
            names = sorted({later.batch_id, earlier.batch_id})
            raise UsageError(
                f"{' and '.join(names)}: two batches as of {later.as_of}; name one of each cut"
            )
    ends = [None, *(batch.as_of for batch in batches[:-1])]
    return [Asked(batch=batch, until=until) for batch, until in zip(batches, ends, strict=True)]


def measured_at(
    workspace: Workspace, asked: Asked, subject: Subject, arms: Mapping[str, ArmResult]
) -> Measured:
    """What is kept of an origin, once its arms have ranked the test users."""
    config, segments, sizes = workspace.config, subject.test.segments, subject.test.sizes
    how = {"bootstrap": config.evaluation.bootstrap, "seed": config.seed}
    lifts = {
        name: paired_lift(arms[treated], arms[control], segments, **how)
        for name, (treated, control) in _COMPARISONS.items()
    }
    verdict, _ = judge(lifts["lift"], lifts["lift_over_placebo"], users=sizes)
    return Measured(
        ids=subject.events.users.ids.take(pa.array(subject.test.users)),
        segments=segments,
        arms={
            name: dict(zip(arm.metric_names, (arm.ndcg, arm.recall), strict=False))
            for name, arm in arms.items()
        },
        told={
            "batch_id": asked.batch.batch_id,
            "as_of": asked.batch.as_of.isoformat(),
            "until": None if asked.until is None else asked.until.isoformat(),
            "published": asked.batch.state is BatchState.PUBLISHED,
            "verdict": verdict.value,
            "test_users": sizes,
            "ndcg": {
                name: {
                    segment: float(arm.ndcg[:, mask].mean()) if mask.any() else None
                    for segment, mask in segments.items()
                }
                for name, arm in arms.items()
            },
            "lifts": {
                name: {
                    segment: ndcg_of(metrics).to_json() for segment, metrics in lifts[name].items()
                }
                for name in _COMPARISONS
            },
        },
    )


def left_out(workspace: Workspace, asked: Asked, error: TooLittleData) -> dict[str, Any]:
    """What the report says of an origin at which nobody can be tested; it is noted too."""
    workspace.progress.note(f"{asked.title} is left out: {error.message}")
    return {
        "batch_id": asked.batch.batch_id,
        "as_of": asked.batch.as_of.isoformat(),
        "why": error.message,
    }


def refuse_fewer_than_two(measured: int, left: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a verdict over several origins of which one or none is left.

    Raises:
        TooLittleData: there are fewer than two.
    """
    if measured < 2:
        names = ", ".join(str(origin["batch_id"]) for origin in left)
        raise TooLittleData(
            f"a verdict over several cuts needs two with somebody to test, and nobody has source "
            f"events before and new target events after the cut of {names}, up to the next; name "
            "batches of cuts that lie further apart"
        )


def pooled_of(
    workspace: Workspace,
    newest: Mapping[str, Any],
    measured: Sequence[Measured],
    left: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The result of the newest origin, under the verdict of all.

    Args:
        workspace: an opened repository.
        newest: what `result_of` says of the newest origin.
        measured: all origins, at least two, the newest first.
        left: what `left_out` said of the others.
    """
    config = workspace.config
    origins = [
        AtOrigin(users=codes, segments=origin.segments, arms=origin.arms)
        for origin, codes in zip(measured, _codes([each.ids for each in measured]), strict=True)
    ]
    how = {"bootstrap": config.evaluation.bootstrap, "seed": config.seed}
    lifts = {
        name: pooled_lift(origins, treated, control, **how)
        for name, (treated, control) in _COMPARISONS.items()
    }
    users = pooled_sizes(origins)
    verdict, sentence = judge(lifts["lift"], lifts["lift_over_placebo"], users=users)
    way, compared = better_way(
        lifts["lift_folded_over_rows"],
        folded_over_real=lifts["lift_folded_over_real"],
        rows_over_real=lifts["lift"],
        users=users,
    )
    rows = [origin.told for origin in reversed(measured)]
    published = sum(bool(row["published"]) for row in rows)
    said = f"Over {len(rows)} cuts: {sentence} {compared}"
    if not published:
        said = f"Nothing was published. Had it been: {said}"
    names = ", ".join(f"{origin['batch_id']} ({origin['as_of']})" for origin in left)
    return {
        **newest,
        "verdict": verdict.value,
        "sentence": said,
        "better_way": way.value,
        "cautions": [
            *[f"Left out, because nobody can be tested there: {names}."] * bool(left),
            *(f"At the newest cut: {caution}" for caution in newest["cautions"]),
        ],
        "origins": {
            "rows": rows,
            "left_out": list(left),
            "published": published,
            "pooled": {
                "test_users": users,
                "ndcg": {
                    arm: {segment: _mean(rows, arm, segment) for segment in users}
                    for arm in rows[0]["ndcg"]
                },
                **{name: lifts_to_json(lift) for name, lift in lifts.items()},
            },
        },
    }


def batches_of(result: Mapping[str, Any]) -> list[str]:
    """The batches that a result measures, the newest first."""
    if "origins" not in result:
        return [result["batch_id"]]
    return [row["batch_id"] for row in reversed(result["origins"]["rows"])]


def _mean(rows: Sequence[Mapping[str, Any]], arm: str, segment: str) -> float | None:
    """NDCG of all pairs of an origin and a user; None where there is none."""
    users = sum(row["test_users"][segment] for row in rows)
    sums = (
        row["test_users"][segment] * row["ndcg"][arm][segment]
        for row in rows
        if row["test_users"][segment]
    )
    return sum(sums) / users if users else None


def _codes(ids: Sequence[pa.Array]) -> list[NDArray[np.int64]]:
    """The same code for the same id, wherever it stands."""
    codes = pa.concat_arrays(ids).dictionary_encode().indices.to_numpy().astype(np.int64)
    return np.split(codes, np.cumsum([len(each) for each in ids])[:-1])
