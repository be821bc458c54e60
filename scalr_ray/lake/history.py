"""What the table's metadata says about batches and snapshots.

Each batch that was ever published has a note among the properties of the table, written in the same
commit as the files: it outlives the snapshot that published the batch, so that a retired batch
cannot come back when that snapshot has expired, and telling what is published reads no file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from scalr_ray.core.clock import from_micros, to_micros

PUBLISHED_PROPERTY = "scalr.batch_id"
RETIRED_PROPERTY = "scalr.retired_batch_id"
ERASED_PROPERTY = "scalr.erased"
COMPACTED_PROPERTY = "scalr.compacted"
_NOTE = "scalr.batch."
_RETIRED = "retired"


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


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """A snapshot that can be read.

    Attributes:
        snapshot_id: its id.
        committed_at: when it became the newest, in UTC.
        what: `published`, `retired`, `erased`, `compacted`, or `other` if SCALR did not make it.
        batch_id: the batch that was published or retired.
    """

    snapshot_id: int
    committed_at: datetime
    what: str
    batch_id: str | None = None


def published_batches(table: Table) -> dict[str, PublishedBatch]:
    """The batches in the current snapshot, by id."""
    return {
        batch_id: PublishedBatch(
            batch_id=batch_id,
            rows=note["rows"],
            snapshot_id=note["snapshot_id"],
            committed_at=from_micros(note["committed_at_us"]),
        )
        for batch_id, note in sorted(_notes(table).items())
        if note["state"] != _RETIRED
    }


def was_published(table: Table, batch_id: str) -> bool:
    """Whether the batch was ever published, be it retired since or not."""
    return f"{_NOTE}{batch_id}" in table.metadata.properties


def note_published(batch: PublishedBatch) -> dict[str, str]:
    """The properties that say that a batch is published."""
    return _note(
        batch.batch_id,
        state="published",
        rows=batch.rows,
        snapshot_id=batch.snapshot_id,
        committed_at_us=to_micros(batch.committed_at),
    )


def note_retired(batch_id: str) -> dict[str, str]:
    """The properties that say that a batch is retired."""
    return _note(batch_id, state=_RETIRED)


def notes_without(table: Table, gone: Mapping[str, int]) -> dict[str, str]:
    """The properties once some batches have lost rows.

    Args:
        table: as the commit finds it.
        gone: how many rows, by batch.
    """
    now = published_batches(table)
    notes: dict[str, str] = {}
    for batch_id, rows in gone.items():
        notes |= note_published(replace(now[batch_id], rows=now[batch_id].rows - rows))
    return notes


def newest_snapshot(metadata: TableMetadata) -> Snapshot:
    """The current snapshot of metadata that has one."""
    snapshot = metadata.current_snapshot()
    assert snapshot is not None, "a commit has just been staged"
    return snapshot


def committed_at(snapshot: Snapshot) -> datetime:
    """When a snapshot was made, in UTC."""
    return from_micros(snapshot.timestamp_ms * 1000)


def snapshot_infos(table: Table) -> list[SnapshotInfo]:
    """The snapshots of the table, oldest first."""
    return [_info(snapshot) for snapshot in table.metadata.snapshots]


def _info(snapshot: Snapshot) -> SnapshotInfo:
    said = {} if snapshot.summary is None else snapshot.summary.additional_properties
    what = "other"
    for name, word in (
        (PUBLISHED_PROPERTY, "published"),
        (RETIRED_PROPERTY, "retired"),
        (ERASED_PROPERTY, "erased"),
        (COMPACTED_PROPERTY, "compacted"),
    ):
        what = word if name in said else what
    return SnapshotInfo(
        snapshot_id=int(snapshot.snapshot_id),
        committed_at=committed_at(snapshot),
        what=what,
        batch_id=said.get(PUBLISHED_PROPERTY, said.get(RETIRED_PROPERTY)),
    )


def _note(batch_id: str, **content: str | int) -> dict[str, str]:
    return {f"{_NOTE}{batch_id}": json.dumps(content, sort_keys=True)}


def _notes(table: Table) -> dict[str, dict[str, Any]]:
    return {
        name.removeprefix(_NOTE): json.loads(text)
        for name, text in table.metadata.properties.items()
        if name.startswith(_NOTE)
    }
