"""Selecting the rows of a training set: events of a window, as they were known at a time.

An event may be recorded again, corrected. As Feast does, the latest version counts, which is the
one with the greatest (event time, availability); what is visible as of T decides which that is, so
a later correction never reaches back.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.clock import parse_time
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_COLUMNS, EVENT_TIMESTAMP, TIMESTAMP

if TYPE_CHECKING:
    from feast import FeatureStore

TRAIN_CUTOFF = "train_cutoff"

_EVENT_TYPES: dict[str, pa.DataType] = {
    "event_id": pa.string(),
    "domain": pa.string(),
    "event_type": pa.string(),
    EVENT_TIMESTAMP: TIMESTAMP,
    AVAILABLE_AT: TIMESTAMP,
    "value": pa.float64(),
}
_MIX_TYPES: dict[str, pa.DataType] = {
    "is_synthetic": pa.bool_(),
    "label": pa.float64(),
    "sample_weight": pa.float64(),
    "likelihood": pa.float64(),
    "batch_id": pa.string(),
}
ROW_COLUMNS = (*EVENT_COLUMNS, *_MIX_TYPES)

_KEY_AND_TIMES = {"event_id", EVENT_TIMESTAMP, AVAILABLE_AT}
REAL_FEATURES = tuple(name for name in EVENT_COLUMNS if name not in _KEY_AND_TIMES)
SYNTHETIC_FEATURES = (
    *REAL_FEATURES,
    "label",
    "sample_weight",
    "likelihood",
    "batch_id",
    TRAIN_CUTOFF,
)


@dataclass(frozen=True, kw_only=True)
class Window:
    """`start <= event_timestamp < min(end, as_of)` and `available_at <= as_of`, all in UTC."""

    start: datetime
    end: datetime
    as_of: datetime

    @classmethod
    def of(cls, start: datetime | str, end: datetime | str, as_of: datetime | str) -> Window:
        """Check the three times.

        Raises:
            UsageError: one has no zone, or nothing can lie between them.
        """
        window = cls(
            start=parse_time(start, "start"),
            end=parse_time(end, "end"),
            as_of=parse_time(as_of, "as_of"),
        )
        for name, limit in (("end", window.end), ("as_of", window.as_of)):
            if window.start >= limit:
                raise UsageError(f"start {window.start} is not before {name} {limit}")
        return window

    @property
    def stop(self) -> datetime:
        """The end of the event times, excluded."""
        return min(self.end, self.as_of)

    def known(self, events: pa.Table) -> pa.Table:
        """The events that are visible as of T: the rule of `scalr_ray.core.clock` in Arrow."""
        cut = pa.scalar(self.as_of, TIMESTAMP)
        happened = pc.less(events[EVENT_TIMESTAMP], cut)
        return _kept(events, pc.and_(happened, pc.less_equal(events[AVAILABLE_AT], cut)))

    def inside(self, events: pa.Table) -> pa.Table:
        """The events from `start` to `stop`."""
        begun = pc.greater_equal(events[EVENT_TIMESTAMP], pa.scalar(self.start, TIMESTAMP))
        ended = pc.greater_equal(events[EVENT_TIMESTAMP], pa.scalar(self.stop, TIMESTAMP))
        return _kept(events, pc.and_not(begun, ended))


def pull(store: FeatureStore, view: str, features: Sequence[str], window: Window) -> pa.Table:
    """The events of a view in the window, each id once, as known at T.

    The read goes on to T even where the window ends before: a version that an event got later but
    before T takes the place of the one in the window.
    """
    job = store.get_historical_features(
        entity_df=None,
        features=[f"{view}:{name}" for name in features],
        start_date=window.start,
        end_date=window.as_of,
        filter_by_created_timestamp=True,
    )
    events = job.to_arrow().select(["event_id", *features, EVENT_TIMESTAMP, AVAILABLE_AT])
    return window.inside(_latest_versions(window.known(events)))


def as_rows(events: pa.Table, *, weight_scale: float | None) -> pa.Table:
    """Events with `ROW_COLUMNS` and `train_cutoff`, real and synthetic ones in the same types.

    Args:
        events: real or synthetic events.
        weight_scale: multiple of the `sample_weight` of synthetic ones; None says they are real.
    """
    count = events.num_rows
    columns: dict[str, Any] = {name: events[name] for name in EVENT_COLUMNS}
    columns["is_synthetic"] = pa.repeat(weight_scale is not None, count)
    if weight_scale is None:
        columns["label"] = columns["sample_weight"] = pa.repeat(1.0, count)
        columns |= {name: pa.nulls(count) for name in ("likelihood", "batch_id", TRAIN_CUTOFF)}
    else:
        columns["label"] = events["label"]
        columns["sample_weight"] = pc.multiply(events["sample_weight"], weight_scale)
        columns |= {name: events[name] for name in ("likelihood", "batch_id", TRAIN_CUTOFF)}
    rows = pa.table(columns)
    types = {**_EVENT_TYPES, **_MIX_TYPES, TRAIN_CUTOFF: TIMESTAMP}
    return rows.cast(
        pa.schema([(field.name, types.get(field.name, field.type)) for field in rows.schema])
    )


def of_batches(events: pa.Table, batch_ids: tuple[str, ...] | None) -> pa.Table:
    """The events of the named batches; None keeps all.

    Raises:
        DataError: a named batch has no event here.
    """
    if batch_ids is None:
        return events
    kept = events.filter(pc.is_in(events["batch_id"], pa.array(batch_ids, pa.string())))
    if missing := sorted(set(batch_ids) - set(pc.unique(kept["batch_id"]).to_pylist())):
        raise DataError(
            f"batch {missing[0]} has no published event in the window that was known as of the "
            "cut; `scalr runs` lists the batches"
        )
    return kept


def thinned(events: pa.Table, synthetic_frac: float | None, real_count: int) -> pa.Table:
    """As many synthetic events as make up at most `synthetic_frac` of all rows."""
    if synthetic_frac is None:
        return events
    # The tolerance keeps 0.2 / 0.8 * 4 at one row.
    return smallest_hashes(
        events, math.floor(synthetic_frac / (1 - synthetic_frac) * real_count + 1e-9)
    )


def smallest_hashes(events: pa.Table, count: int) -> pa.Table:
    """At most so many events: those whose ids have the smallest hashes.

    So neither order nor number decides which ones stay, and fewer are part of more.
    """
    hashes = [
        hashlib.blake2b(event_id.encode(), digest_size=16).digest()
        for event_id in events["event_id"].to_pylist()
    ]
    order = pc.sort_indices(pa.array(hashes, pa.binary()))
    return events.take(order[:count])


def _latest_versions(events: pa.Table) -> pa.Table:
    """One row per event id, the best by event time and availability; other columns break ties."""
    newest = [(EVENT_TIMESTAMP, "descending"), (AVAILABLE_AT, "descending")]
    others = [name for name in events.column_names if name not in _KEY_AND_TIMES]
    keys = [("event_id", "ascending"), *newest, *((name, "descending") for name in others)]
    ordered = events.take(pc.sort_indices(events, sort_keys=keys))
    ids = ordered["event_id"].combine_chunks()
    first = np.ones(len(ids), dtype=np.bool_)
    first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return _kept(ordered, pa.array(first))


def _kept(events: pa.Table, wanted: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The wanted events, without a copy where that is all."""
    if pc.all(wanted, skip_nulls=False).as_py():
        return events
    return events.filter(wanted)
