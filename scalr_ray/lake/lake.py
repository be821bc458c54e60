"""`SyntheticEventLake`: the only door to the table of synthetic events."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
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
from scalr_ray.lake.catalog import TABLE_NAME, open_catalog, open_table
from scalr_ray.lake.commits import commit
from scalr_ray.lake.history import (
    PUBLISHED_PROPERTY,
    RETIRED_PROPERTY,
    PublishedBatch,
    published_batches,
    was_published,
)
from scalr_ray.lake.schemas import to_schema
from scalr_ray.lake.staging import StagingArea


class SyntheticEventLake:
    """Synthetic events, staged out of sight and published a batch at a time.

    Safe to use from several threads and processes: every call reads the newest metadata. Close it,
    or use it in a `with` statement.
    """

    def __init__(self, catalog: SqlCatalog, staging: StagingArea) -> None:
        self._catalog = catalog
        self._staging = staging

    @classmethod
    def open(cls, layout: Layout, ids: IdTypes) -> SyntheticEventLake:
        """The lake of a feature repository; namespace and table are created when absent.

        Raises:
            DataError: the table exists with another schema, or the database cannot be opened.
            RetryLater: the database stayed locked.
        """
        schema = synthetic_event_schema(ids.user_id, ids.item_id)
        catalog = open_catalog(layout)
        with ExitStack() as unless_done:
            unless_done.callback(catalog.close)
            table = open_table(catalog, schema)
            unless_done.pop_all()
        staging = StagingArea(folder=Path(table.location()) / "data", schema=schema)
        return cls(catalog, staging)

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

    def staging_dir(self, batch_id: str) -> Path:
        """The folder for the Parquet files of a batch, made if absent; readers never look there.

        Files need the lake's `schema`, nullability included. Names that start with `.` or `_` are
        ignored, so a file can be written under such a name and then renamed.

        Raises:
            UsageError: the id cannot name a folder.
        """
        folder = self._staging.batch_dir(batch_id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def staged_files(self, batch_id: str) -> list[Path]:
        """The finished Parquet files of a batch, in order of their names."""
        return self._staging.files(batch_id)

    def read_staged(self, batch_id: str) -> pa.Table:
        """The staged rows of a batch, with exactly the lake's `schema`.

        Raises:
            DataError: nothing is staged, or the files are not fit to publish.
        """
        return self._staging.read(batch_id)

    def write_staged(self, batch_id: str, table: pa.Table) -> Path:
        """Stage rows of a batch as one file, which appears whole or not at all.

        The name follows from the event ids: the same events again find their file and leave it.

        Raises:
            DataError: `table` has another schema or rows of another batch.
            UsageError: the batch has been published, so it can no longer grow.
        """
        self._refuse_published(batch_id, "add to")
        return self._staging.write(batch_id, table)

    def publish(self, batch_id: str) -> PublishedBatch:
        """Make a staged batch visible in one metadata commit.

        Publishing again changes nothing and returns the same batch with `already_published`.

        Raises:
            DataError: nothing is staged, or the files are not fit to publish.
            UsageError: the batch was retired.
            RetryLater: others kept committing first; nothing was published.
            StateUnknown: the answer to the commit was lost.
        """
        self._staging.batch_dir(batch_id)  # refuses an id that was never valid
        return commit(f"publish batch {batch_id}", lambda: self._publish_once(batch_id))

    def _publish_once(self, batch_id: str) -> PublishedBatch:
        table = self._table()
        if found := published_batches(table).get(batch_id):
            return replace(found, already_published=True)
        if was_published(table, batch_id):
            raise UsageError(f"batch {batch_id} was retired; generate a new batch instead")
        files = self._staging.audit(batch_id)
        if not files:
            raise DataError(f"batch {batch_id} holds no events; there is nothing to publish")
        table.add_files(
            [str(path) for path in files], snapshot_properties={PUBLISHED_PROPERTY: batch_id}
        )
        return published_batches(table)[batch_id]

    def discard(self, batch_id: str) -> int:
        """Delete the staged files of a batch that was never published; returns how many.

        Nobody may be publishing the batch meanwhile: move it to `rejected` in the ledger first.

        Raises:
            UsageError: the batch was published, so its files belong to the table's snapshots.
        """
        self._refuse_published(batch_id, "discard")
        return self._staging.remove(batch_id)

    def retire(self, batch_id: str) -> None:
        """Remove a batch from the table in one commit; older snapshots still show it.

        Raises:
            DataError: the batch is not published.
            RetryLater: others kept committing first; nothing was retired.
            StateUnknown: the answer to the commit was lost.
        """
        if batch_id not in self.published_batches():
            raise DataError(f"batch {batch_id} is not published; `scalr runs` lists what is")
        commit(f"retire batch {batch_id}", lambda: self._retire_once(batch_id))

    def _retire_once(self, batch_id: str) -> None:
        table = self._table()
        if batch_id in published_batches(table):
            table.delete(
                EqualTo("batch_id", batch_id), snapshot_properties={RETIRED_PROPERTY: batch_id}
            )

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
        table = self._table()
        if snapshot_id is not None and table.snapshot_by_id(snapshot_id) is None:
            raise DataError(f"the table of synthetic events has no snapshot {snapshot_id}")
        names = self.schema.names if columns is None else columns
        scan = table.scan(
            row_filter=_row_filter(as_of, batch_ids),
            selected_fields=tuple(names),
            snapshot_id=snapshot_id,
        )
        wanted = pa.schema([self.schema.field(name) for name in names])
        return to_schema(scan.to_arrow(), wanted)

    def _table(self) -> Table:
        return self._catalog.load_table(TABLE_NAME)

    def _refuse_published(self, batch_id: str, verb: str) -> None:
        if was_published(self._table(), batch_id):
            raise UsageError(f"cannot {verb} batch {batch_id}: it has been published")


def _row_filter(as_of: datetime | None, batch_ids: Sequence[str] | None) -> BooleanExpression:
    """The as-of rule of `scalr_ray.core.clock`, as an Iceberg expression."""
    wanted = AlwaysTrue() if batch_ids is None else In("batch_id", list(batch_ids))
    if as_of is None:
        return wanted
    cut = parse_time(as_of, "as_of").isoformat()
    return And(wanted, LessThan(EVENT_TIMESTAMP, cut), LessThanOrEqual(AVAILABLE_AT, cut))
