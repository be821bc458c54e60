"""IcebergSource: the rows of a table of Apache Iceberg, no more of them than are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, In, LessThanOrEqual
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import DataScan

from scalr_ray.core.duck import quote_name
from scalr_ray.core.errors import DataError
from scalr_ray.core.s3 import s3_error
from scalr_ray.offline_store.entity_rows import is_text
from scalr_ray.offline_store.sources.iceberg_table import (
    arrow_schema,
    metadata_at_pin,
    open_table,
)
from scalr_ray.offline_store.sources.reading import (
    Access,
    KeyFilter,
    Piece,
    Reading,
    check_columns,
    label,
)

if TYPE_CHECKING:
    from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

# pyiceberg decodes the files of one call side by side and holds them until they are taken: two
# keep both cores of a small machine busy, and the rest of the table stays on disk.
_FILES_AT_ONCE = 2
# As many may be held as Arrow, which saves DuckDB a copy of them.
_HELD_ROWS = 1_000_000
_PIECE = "iceberg_piece"


@dataclass(frozen=True, kw_only=True)
class IcebergRows:
    """Rows of one snapshot of a table.

    Attributes:
        name: how messages call the source.
        scan: pyiceberg's, with its filter and columns.
        shown: name in the result -> column of the table.
    """

    name: str
    scan: Any
    shown: dict[str, str]

    @property
    def schema(self) -> pa.Schema:
        """The columns, under their names in the result."""
        stored = arrow_schema(self.scan.projection())
        return pa.schema([stored.field(old).with_name(new) for new, old in self.shown.items()])

    @property
    def count(self) -> int:
        """How many rows lie in the files that the filter leaves."""
        with _files_of(self.name):
            return sum(int(task.file.record_count) for task in self.scan.plan_files())

    def open(self, session: duckdb.DuckDBPyConnection, name: str) -> None:
        """Make the rows readable as the relation `name`.

        Many are copied, a few files at a time, into a table that DuckDB can spill.

        Raises:
            DataError: a file of the snapshot is gone or cannot be read.
        """
        schema, target = self.schema, quote_name(name)
        with _files_of(self.name):
            tasks = list(self.scan.plan_files())
            if sum(int(task.file.record_count) for task in tasks) <= _HELD_ROWS:
                session.register(name, pa.Table.from_batches(self._read(tasks, schema), schema))
                return
            _feed(session, f"CREATE OR REPLACE TEMP TABLE {target} AS FROM", schema.empty_table())
            for start in range(0, len(tasks), _FILES_AT_ONCE):
                found = self._read(tasks[start : start + _FILES_AT_ONCE], schema)
                _feed(session, f"INSERT INTO {target} FROM", pa.Table.from_batches(found, schema))

    def pieces(self) -> Sequence[Piece]:
        """One piece for each data file."""
        with _files_of(self.name):
            return [_DataFile(rows=self, task=task) for task in self.scan.plan_files()]

    def read(self, tasks: Sequence[Any]) -> Iterator[pa.RecordBatch]:
        """The rows of some data files that pass the filter, deletes applied.

        Raises:
            DataError: a file is gone or cannot be read.
        """
        with _files_of(self.name):
            yield from self._read(tasks, self.schema)

    def _read(self, tasks: Sequence[Any], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        scan = self.scan
        reader = ArrowScan(scan.table_metadata, scan.io, scan.projection(), scan.row_filter)
        for batch in reader.to_record_batches(tasks):
            columns = [
                batch.column(old).cast(field.type)
                for old, field in zip(self.shown.values(), schema, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


@dataclass(frozen=True, kw_only=True)
class _DataFile:
    """One data file of a snapshot."""

    rows: IcebergRows
    task: Any

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows of the file that pass the filter, deletes applied."""
        yield from self.rows.read([self.task])


def iceberg_rows(source: IcebergSource, reading: Reading, access: Access) -> IcebergRows | None:
    """The rows of the pinned or newest snapshot; None when nobody has created the table.

    Raises:
        DataError: a column is missing or no time, or there is no such snapshot.
        UsageError: the kind of catalog is not supported, or the pin is no number.
        RetryLater: the catalog is busy.
    """
    with open_table(source) as table:
        if (metadata := metadata_at_pin(source, table, access)) is None:
            return None
        io = table.io
    stored = arrow_schema(metadata.schema())
    # bounds on an Iceberg date would be rounded to the day, so only timestamps will do
    kinds = {
        field.name: "TIMESTAMP" if pa.types.is_timestamp(field.type) else str(field.type)
        for field in stored
    }
    check_columns(source, reading, kinds)
    scan = DataScan(  # not table.scan(): that one holds on to the catalog and cannot be pickled
        table_metadata=metadata,
        io=io,
        row_filter=_row_filter(reading, stored),
        selected_fields=tuple(dict.fromkeys(reading.columns.values())),
    )
    return IcebergRows(name=label(source), scan=scan, shown=dict(reading.columns))


def iceberg_schema(source: IcebergSource, access: Access) -> pa.Schema | None:
    """The columns of the pinned or newest snapshot; None when nobody has created the table.

    Raises:
        DataError: there is no such snapshot.
        UsageError: the kind of catalog is not supported, or the pin is no number.
        RetryLater: the catalog is busy.
    """
    schema = _schema(source, access)
    return None if schema is None else arrow_schema(schema)


def iceberg_columns(source: IcebergSource, access: Access) -> list[tuple[str, str]] | None:
    """Name and Iceberg type of each column, which is what Feast infers value types from."""
    schema = _schema(source, access)
    if schema is None:
        return None
    return [(field.name, str(field.field_type)) for field in schema.fields]


def _schema(source: IcebergSource, access: Access) -> Any:  # noqa: ANN401 - pyiceberg has no types
    with open_table(source) as table:
        metadata = metadata_at_pin(source, table, access)
        return None if metadata is None else metadata.schema()


def _row_filter(reading: Reading, stored: pa.Schema) -> Any:  # noqa: ANN401
    kept: Any = AlwaysTrue()
    for bound in reading.bounds:
        if bound.since is not None:
            kept = And(kept, GreaterThanOrEqual(bound.column, bound.since))
        if bound.until is not None:
            kept = And(kept, LessThanOrEqual(bound.column, bound.until))
    for key in reading.keys:
        if (values := _storable(key, stored.field(key.column).type)) is not None:
            kept = And(kept, In(key.column, values))
    return kept


def _storable(key: KeyFilter, kind: pa.DataType) -> list[int | str] | None:
    """The values that a column of this type can hold; None where it holds another kind."""
    if pa.types.is_integer(kind) and all(isinstance(value, int) for value in key.values):
        limit = 1 << (kind.bit_width - 1)
        return [value for value in key.values if -limit <= int(value) < limit]
    if is_text(kind) and all(isinstance(value, str) for value in key.values):
        return list(key.values)
    return None


def _feed(session: duckdb.DuckDBPyConnection, statement: str, rows: pa.Table) -> None:
    session.register(_PIECE, rows)
    try:
        session.execute(f"{statement} {_PIECE}")
    finally:
        session.unregister(_PIECE)


@contextmanager
def _files_of(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        what = f"{name}: a file of its Iceberg table cannot be read"
        raise s3_error(what, error) or DataError(f"{what}: {error}; restore it") from error
