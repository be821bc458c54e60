"""Splitting a training set by time, never at random.

What trains is what an observer at the cut could have had; what tests happened after it, and is
real. A synthetic event that became available after the cut has come of a translator that may have
seen the test, so it is in neither part, and nor is a real event that happened before the cut and
became known after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.clock import parse_time
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP, TIMESTAMP
from training.dataset import MixedDataset
from training.manifest import part_of


@dataclass(frozen=True, kw_only=True)
class Split:
    """The two parts of a training set.

    Attributes:
        train: rows that were known at the cut.
        test: real rows from the cut on, or from the end of the embargo on.
        left_out: rows in neither part, by reason: `late` happened before the cut and became known
            after it, `embargo` happened in it, `synthetic` happened after the cut.
    """

    train: MixedDataset
    test: MixedDataset
    left_out: Mapping[str, int]


def split(dataset: MixedDataset, at: datetime | str, *, embargo: timedelta = timedelta(0)) -> Split:
    """Split a set at a time.

    Args:
        dataset: the set.
        at: the cut; a time, or ISO 8601 text with a zone.
        embargo: how long after the cut nothing tests, so that features which look back do not see
            over it, and what comes late has come.

    Raises:
        UsageError: the cut lies outside the set, the embargo is negative, or weights of the set
            follow from what came after the cut.
        DataError: a part would have no row.
    """
    cut = parse_time(at, "at")
    manifest = dataset.manifest
    start, end, as_of = (
        datetime.fromisoformat(manifest[name]) for name in ("start", "end", "as_of")
    )
    stop = min(end, as_of)
    if not start < cut < stop:
        raise UsageError(f"at {cut} is not between {start} and {stop}, where the set lies")
    if embargo < timedelta(0):
        raise UsageError(f"the embargo is {embargo}; write 0 or longer")
    if manifest.get("mix", {}).get("segment_weights"):
        raise UsageError(
            "segment_weights count events after the cut too; pull two sets, with as_of at the cut "
            "and after it"
        )
    rows = dataset.table
    limit, begin = (pa.scalar(moment, TIMESTAMP) for moment in (cut, cut + embargo))
    before = pc.less(rows[EVENT_TIMESTAMP], limit)
    known = pc.less_equal(rows[AVAILABLE_AT], limit)
    tests = pc.greater_equal(rows[EVENT_TIMESTAMP], begin)
    real = pc.invert(rows["is_synthetic"])
    after = pc.invert(before)
    left_out = {
        "late": _count(pc.and_not(before, known)),
        "embargo": _count(pc.and_(pc.and_not(after, tests), real)),
        "synthetic": _count(pc.and_not(after, real)),
    }
    parts = {
        "train": (pc.and_(before, known), {"end": cut, "as_of": cut}),
        "test": (pc.and_(tests, real), {"start": cut + embargo}),
    }
    made = {}
    for name, (mask, times) in parts.items():
        part = rows.filter(mask).combine_chunks()
        if not part.num_rows:
            raise DataError(
                f"the {name} part has no row: the set lies from {start} to {stop}, the cut is at "
                f"{cut} with an embargo of {embargo}; move it"
            )
        said: dict[str, Any] = {
            "part": name,
            "at": cut.isoformat(),
            "embargo_s": embargo.total_seconds(),
            "left_out": left_out,
        }
        made[name] = MixedDataset(
            table=part,
            manifest=part_of(manifest, part, times=times, split=said),
            store=dataset.store,
        )
    return Split(train=made["train"], test=made["test"], left_out=left_out)


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
