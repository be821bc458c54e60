"""`SyntheticEventLake`: the only door to the table of synthetic events."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    In,
    LessThan,
    LessThanOrEqual,
)
from pyiceberg.table import Table

from scalr_ray.core.clock import parse_time
from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP, synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.lake.catalog import TABLE_NAME, existing_table, open_catalog, open_table
from scalr_ray.lake.commits import Committer, refuse_clock_behind
from scalr_ray.lake.compacting import CompactedFiles, Compaction
from scalr_ray.lake.erasing import ErasedRows, Erasure
from scalr_ray.lake.files import TableFiles
from scalr_ray.lake.history import (
    PUBLISHED_PROPERTY,
    RETIRED_PROPERTY,
    PublishedBatch,
    SnapshotInfo,
    committed_at,
    newest_snapshot,
    note_published,
    note_retired,
    published_batches,
    snapshot_infos,
    was_published,
)
from scalr_ray.lake.named import NamedFiles
from scalr_ray.lake.replacing import Removal, batch_of, replace_files
from scalr_ray.lake.rows import Values, find_row
from scalr_ray.lake.schemas import to_schema
from scalr_ray.lake.staging import StagedFile, StagingArea
from scalr_ray.lake.transactions import FrugalTransaction
from scalr_ray.lake.upkeep import Upkeep


class SyntheticEventLake:
    """Synthetic events, staged out of sight and published a batch at a time.

    Safe to use from several threads and processes: every call reads the newest metadata. Close it,
    or use it in a `with` statement.
    """

    def __init__(self, catalog: SqlCatalog, staging: StagingArea) -> None:
        self._catalog = catalog
        self._staging = staging
        self._committer = Committer(catalog.engine)

    @classmethod
    def open(cls, layout: Layout, ids: IdTypes) -> SyntheticEventLake:
        """The lake of a feature repository; namespace and table are created when absent.

        Raises:
            DataError: the table exists with another schema, or the database cannot be opened.
            ConfigError: the database refuses the login, or is not there.
            RetryLater: the database stayed locked, or it or S3 does not answer.
            UsageError: writing is not allowed.
        """
        schema = synthetic_event_schema(ids.user_id, ids.item_id)
        catalog = open_catalog(layout)
        with ExitStack() as unless_done:
            unless_done.callback(catalog.close)
            with Committer(catalog.engine).errors(f"open the table in {layout.warehouse}"):
                table = open_table(catalog, schema)
            unless_done.pop_all()
        return cls(catalog, StagingArea(files=TableFiles.at(table.location()), schema=schema))

    @staticmethod
    def published_in(layout: Layout) -> dict[str, PublishedBatch]:
        """The batches that readers of a repository see, by id; creates nothing, not even the table.

        Raises:
            DataError: the database cannot be opened, or S3 refuses.
            ConfigError: the database refuses the login, or is not there.
            RetryLater: it or S3 does not answer.
        """
        table = existing_table(layout)
        return {} if table is None else published_batches(table)

    def close(self) -> None:
        """Release the database connections."""
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def schema(self) -> pa.Schema:
        """The schema of every staged file and of every table that `read` returns."""
        return self._staging.schema

    @property
    def local_folders(self) -> list[Path]:
        """Where staged files take room on a local disk: nowhere, or in the table's folder."""
        return [Path(self._staging.files.root)] if self._staging.files.local else []

    def stage(self, batch_id: str, folder: Path) -> int:
        """Take over the finished Parquet files of a local folder; returns how many rows they hold.

        The batch is staged whole or not at all, in place of what was staged of it. Files need the
        lake's `schema`, nullability included; names that start with `.` or `_` are ignored. They
        are gone from the folder afterwards; on the disk of a local warehouse nothing is copied.

        Raises:
            DataError: a file is no Parquet file, has another schema or holds rows of another batch;
                or an event is there twice.
            UsageError: the batch has been published, or the id cannot name a folder.
            RetryLater: the disk is full, or S3 does not answer.
        """
        self._refuse_published(batch_id, "stage")
        with self._committer.errors(f"stage batch {batch_id}"):
            return self._staging.stage(batch_id, folder)

    def staged_batches(self) -> dict[str, int]:
        """The rows of every batch that is staged and was not published, by its id."""
        with self._committer.errors("look at the staged batches"):
            table = self._load()
            return {
                batch_id: sum(file.rows for file in self._staging.listed(batch_id) or [])
                for batch_id in self._staging.batches()
                if not was_published(table, batch_id)
            }

    def staged_files(self, batch_id: str) -> list[str]:
        """The locations of the staged files of a batch, in order of their names."""
        with self._committer.errors(f"look at batch {batch_id}"):
            files = self._staging.listed(batch_id) or []
        return [self._staging.location(batch_id, file) for file in files]

    def read_staged(self, batch_id: str) -> pa.Table:
        """The staged rows of a batch, with exactly the lake's `schema`.

        Raises:
            DataError: nothing is staged, or a file is gone or damaged.
        """
        with self._committer.errors(f"read batch {batch_id}"):
            return self._staging.read(batch_id)

    def write_staged(self, batch_id: str, table: pa.Table) -> str:
        """Stage rows of a batch as one more file, which appears whole or not at all.

        The name follows from the event ids: the same events again find their file and leave it.

        Raises:
            DataError: `table` has another schema, rows of another batch or rows twice.
            UsageError: the batch has been published, so it can no longer grow.
        """
        self._refuse_published(batch_id, "add to")
        with self._committer.errors(f"stage rows of batch {batch_id}"):
            return self._staging.write(batch_id, table)

    def publish(self, batch_id: str) -> PublishedBatch:
        """Make a staged batch visible in one metadata commit.

        Publishing again changes nothing and returns the same batch with `already_published`.
        Footers are read, rows are not.

        Raises:
            DataError: nothing is staged, or the files are not those that were staged.
            UsageError: the batch was retired, or writing is not allowed.
            RetryLater: others kept committing first, the database or S3 does not answer, a disk is
                full, or the clock is behind; nothing was published.
            StateUnknown: the answer to the commit was lost; publish again to find out.
        """
        self._staging.batch_dir(batch_id)  # refuses an id that was never valid
        what = f"publish batch {batch_id}"
        published = self._committer.commit(what, lambda: self._publish_once(batch_id, what))
        with self._committer.errors(f"tidy up after batch {batch_id}"):
            self._staging.forget(batch_id)
        return published

    def _publish_once(self, batch_id: str, what: str) -> PublishedBatch:
        table = self._load()
        if found := published_batches(table).get(batch_id):
            return replace(found, already_published=True)
        try:
            files = self._publishable(table, batch_id)
        except DataError:
            # Whoever published it since the table was loaded has forgotten what was staged.
            if found := published_batches(self._load()).get(batch_id):
                return replace(found, already_published=True)
            raise
        refuse_clock_behind(what, table)
        with FrugalTransaction(table) as transaction:
            transaction.add_files(
                [self._staging.location(batch_id, file) for file in files],
                snapshot_properties={PUBLISHED_PROPERTY: batch_id},
                check_duplicate_files=False,  # they are of a batch that was never published
            )
            snapshot = newest_snapshot(transaction.table_metadata)
            batch = PublishedBatch(
                batch_id=batch_id,
                rows=sum(file.rows for file in files),
                snapshot_id=int(snapshot.snapshot_id),
                committed_at=committed_at(snapshot),
            )
            transaction.set_properties(note_published(batch))
        return batch

    def publish_preview(self, batch_id: str) -> dict[str, Any]:
        """What `publish` would do, found out without changing anything.

        Returns:
            `batch_id`; `already_published`; `files`, `rows` and `size_bytes` that would become
            visible; and `batches_before`, `rows_before`, `batches_after`, `rows_after` of the
            table.

        Raises:
            DataError, UsageError: as `publish`.
        """
        with self._committer.errors(f"look at batch {batch_id}"):
            table = self._load()
            before = published_batches(table)
            already = batch_id in before
            files = [] if already else self._publishable(table, batch_id)
        rows_before = sum(batch.rows for batch in before.values())
        rows = sum(file.rows for file in files)
        return {
            "batch_id": batch_id,
            "already_published": already,
            "files": len(files),
            "rows": rows,
            "size_bytes": sum(file.size_bytes for file in files),
            "batches_before": len(before),
            "rows_before": rows_before,
            "batches_after": len(before) + (not already),
            "rows_after": rows_before + rows,
        }

    def _publishable(self, table: Table, batch_id: str) -> list[StagedFile]:
        if was_published(table, batch_id):
            raise UsageError(f"batch {batch_id} was retired; generate a new batch instead")
        files = self._staging.checked(batch_id)
        if not files:
            raise DataError(f"batch {batch_id} holds no events; there is nothing to publish")
        return files

    def discard(self, batch_id: str) -> int:
        """Delete the staged files of a batch that was never published; returns how many.

        Nobody may be publishing the batch meanwhile: move it to `rejected` in the ledger first.

        Raises:
            UsageError: the batch was published, so its files belong to the table's snapshots.
        """
        self._refuse_published(batch_id, "discard")
        with self._committer.errors(f"discard batch {batch_id}"):
            return self._staging.remove(batch_id)

    def retire(self, batch_id: str) -> None:
        """Remove a batch from the table in one commit; older snapshots still show it.

        Raises:
            DataError: the batch is not published.
            RetryLater: others kept committing first, or as `publish`; nothing was retired.
            StateUnknown: the answer to the commit was lost.
        """
        if batch_id not in self.published_batches():
            raise DataError(f"batch {batch_id} is not published; `scalr runs` lists what is")
        what = f"retire batch {batch_id}"
        kind = self.schema.field("batch_id").type
        removal = Removal(files=self._staging.files, values=Values.of("batch_id", [batch_id], kind))
        self._committer.commit(what, lambda: self._retire_once(batch_id, removal, what))

    def _retire_once(self, batch_id: str, removal: Removal, what: str) -> None:
        table = self._load()
        if batch_id not in published_batches(table):
            return
        refuse_clock_behind(what, table)
        files = NamedFiles(table).current()
        whole = [place for place in files if batch_of(place) == batch_id]
        parts = removal.holders([place for place in files if batch_of(place) is None])
        replace_files(
            table,
            [files[place] for place in (*whole, *parts)],
            [new.location for new in removal.rewrite(parts) if new.location is not None],
            said={RETIRED_PROPERTY: batch_id},
            notes=note_retired(batch_id),
        )

    def erase(self, user_ids: Sequence[object]) -> ErasedRows:
        """Erase the rows of some users from every snapshot and from every file.

        One commit takes them out of the table; then each older snapshot that still names a file
        with such rows is expired and the files are deleted. Other snapshots stay readable. Staged
        files are written again. Repeating it changes nothing, and finishes what was cut off.

        Raises:
            DataError: an id is not of the type of `user_id`.
            RetryLater: as `publish`; what was done stays done.
            StateUnknown: the answer to a commit was lost; erase again.
        """
        return self._erasure.run(user_ids)

    def erase_preview(self, user_ids: Sequence[object]) -> tuple[dict[str, int], dict[str, int]]:
        """How many published and how many staged rows `erase` would take away, by batch.

        Raises:
            DataError: an id is not of the type of `user_id`.
        """
        return self._erasure.preview(user_ids)

    def compact(self) -> CompactedFiles | None:
        """Put few files in the place of many small ones in one commit; None if there are not.

        Rows and batches stay as they are, and older snapshots keep their files.

        Raises:
            RetryLater: others kept committing first, or as `publish`; nothing has changed.
            StateUnknown: the answer to the commit was lost.
        """
        return Compaction(
            catalog=self._catalog, committer=self._committer, staging=self._staging
        ).run()

    def snapshots(self) -> list[SnapshotInfo]:
        """The snapshots that can be read, oldest first."""
        return snapshot_infos(self._table())

    def expire(self, *, before: datetime, keep: Collection[int]) -> list[int]:
        """Expire old snapshots, never the newest; their files become orphans.

        Args:
            before: snapshots committed at or after this stay.
            keep: snapshots that stay however old they are.

        Returns:
            The ids of those that are gone.

        Raises:
            RetryLater: others kept committing first, or as `publish`.
            StateUnknown: the answer to the commit was lost.
        """
        return self._upkeep.expire(before=before, keep=keep)

    def orphans(
        self, *, older_than: datetime, staged: Collection[str], gone: Collection[int] = ()
    ) -> list[str]:
        """The files below the table's location that no snapshot that can be read needs.

        Args:
            older_than: younger files may be of somebody who is still writing, and are left out.
            staged: batches whose staged files are in use.
            gone: snapshots that count as expired, to see what expiring them would leave.
        """
        return self._upkeep.orphans(older_than=older_than, staged=staged, gone=gone)

    def size_bytes(self, files: Iterable[str]) -> int:
        """How large some files are together; those that are gone count nothing."""
        with self._committer.errors("look at the size of files"):
            return self._staging.files.size_bytes(files)

    def remove(self, files: Iterable[str]) -> int:
        """Delete files that `orphans` named; returns how many were still there."""
        return self._upkeep.remove(files)

    @property
    def _erasure(self) -> Erasure:
        return Erasure(catalog=self._catalog, committer=self._committer, staging=self._staging)

    @property
    def _upkeep(self) -> Upkeep:
        return Upkeep(catalog=self._catalog, committer=self._committer, staging=self._staging)

    def published_batches(self) -> dict[str, PublishedBatch]:
        """The batches that readers see now, by id."""
        return published_batches(self._table())

    def current_snapshot_id(self) -> int | None:
        """The snapshot seen now, or None before the first commit; keep it to read it again."""
        snapshot = self._table().current_snapshot()
        return None if snapshot is None else int(snapshot.snapshot_id)

    def read(
        self,
        *,
        snapshot_id: int | None = None,
        as_of: datetime | None = None,
        batch_ids: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Published synthetic events, with exactly the lake's `schema`, in no promised order.

        Files and row groups that cannot hold a wanted row are not read.

        Args:
            snapshot_id: read the table as this snapshot left it; None reads the newest.
            as_of: T; keeps rows with `event_timestamp < T` and `available_at <= T`.
            batch_ids: keeps rows of these batches.
            columns: reads only these, of the schema, in this order; None reads all.

        Raises:
            DataError: there is no such snapshot.
            UsageError: `as_of` has no time zone.
        """
        names = self.schema.names if columns is None else columns
        wanted = pa.schema([self.schema.field(name) for name in names])
        with self._committer.errors("read the table of synthetic events"):
            while True:
                table = self._load()
                if snapshot_id is not None and table.snapshot_by_id(snapshot_id) is None:
                    raise DataError(
                        f"the table of synthetic events has no snapshot {snapshot_id}, or it has "
                        "expired"
                    )
                scan = table.scan(
                    row_filter=_row_filter(as_of, batch_ids),
                    selected_fields=tuple(names),
                    snapshot_id=snapshot_id,
                )
                try:
                    return to_schema(scan.to_arrow(), wanted)
                except FileNotFoundError:
                    # An erasure deletes files under the eyes of readers: they start again.
                    if self._load().metadata_location == table.metadata_location:
                        raise

    def find_event(self, event_id: str) -> dict[str, object] | None:
        """The row of an event, published or in a snapshot that can still be read; None if unknown.

        The newest snapshot is looked at first.
        """
        values = Values.of("event_id", [event_id], self.schema.field("event_id").type)
        with self._committer.errors(f"look for event {event_id}"):
            table = self._load()
            named = NamedFiles(table)
            locations = dict.fromkeys(named.current())
            for snapshot in reversed(table.snapshots()):
                locations |= dict.fromkeys(named.of(snapshot))
            for location in locations:
                row = find_row(self._staging.files, location, values)
                if row is not None:
                    return {name: row[name] for name in self.schema.names}
        return None

    def _table(self) -> Table:
        with self._committer.errors("look at the table of synthetic events"):
            return self._load()

    def _load(self) -> Table:
        return self._catalog.load_table(TABLE_NAME)

    def _refuse_published(self, batch_id: str, verb: str) -> None:
        self._staging.batch_dir(batch_id)  # refuses an id that was never valid
        if was_published(self._table(), batch_id):
            raise UsageError(f"cannot {verb} batch {batch_id}: it has been published")


def _row_filter(as_of: datetime | None, batch_ids: Sequence[str] | None) -> BooleanExpression:
    """The as-of rule of `scalr_ray.core.clock`, as an Iceberg expression."""
    wanted = AlwaysTrue() if batch_ids is None else In("batch_id", list(batch_ids))
    if as_of is None:
        return wanted
    cut = parse_time(as_of, "as_of").isoformat()
    return And(wanted, LessThan(EVENT_TIMESTAMP, cut), LessThanOrEqual(AVAILABLE_AT, cut))
