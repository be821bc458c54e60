"""What the table's metadata says about batches: which are there, and which ever were."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from scalr_ray.core.clock import from_micros

PUBLISHED_PROPERTY = "scalr.batch_id"
RETIRED_PROPERTY = "scalr.retired_batch_id"


@dataclass(frozen=True, kw_only=True)
class PublishedBatch:
    """A batch that readers can see.

    Attributes:
        batch_id: its id.
        rows: its synthetic events.
        snapshot_id: the snapshot that made it visible.
        committed_at: when that was, in UTC.
        already_published: whether it was there before the call that returned this.
    """

    batch_id: str
    rows: int
    snapshot_id: int
    committed_at: datetime
    already_published: bool = False


def published_batches(table: Table) -> dict[str, PublishedBatch]:
    """The batches in the current snapshot, by id.

    The files decide what is there; the snapshot summaries only tell which commit brought it.
    """
    if table.current_snapshot() is None:
        return {}
    commits = _commits(table)
    snapshots = {snapshot.snapshot_id: snapshot for snapshot in table.metadata.snapshots}
    batches = {}
    for partition in table.inspect.partitions().to_pylist():
        batch_id = partition["partition"]["batch_id"]
        snapshot = commits.get(batch_id) or snapshots[partition["last_updated_snapshot_id"]]
        batches[batch_id] = PublishedBatch(
            batch_id=batch_id,
            rows=partition["record_count"],
            snapshot_id=snapshot.snapshot_id,
            committed_at=from_micros(snapshot.timestamp_ms * 1000),
        )
    return batches


def was_published(table: Table, batch_id: str) -> bool:
    """Whether some snapshot, current or old, was made by publishing the batch."""
    return batch_id in _commits(table)


def _commits(table: Table) -> dict[str, Snapshot]:
    return {
        snapshot.summary[PUBLISHED_PROPERTY]: snapshot
        for snapshot in table.metadata.snapshots
        if snapshot.summary is not None and PUBLISHED_PROPERTY in snapshot.summary
    }
