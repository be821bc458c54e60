"""IcebergSource: tables of Apache Iceberg in a SQL catalog."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, LessThanOrEqual
from pyiceberg.io.pyarrow import ArrowScan

from scalr_ray.core.errors import UsageError
from scalr_ray.offline_store.sources.reading import Piece, Reading, check_columns, label


@dataclass(frozen=True, kw_only=True)
class IcebergRows:
    """Rows of one snapshot of a table.

    Attributes:
        scan: pyiceberg's, with its filter and columns.
        shown: name in the result -> column of the table.
    """

    scan: Any
    shown: dict[str, str]

    @property
    def schema(self) -> pa.Schema:
        """The columns, under their names in the result."""
        stored = self.scan.projection().as_arrow()
        return pa.schema([stored.field(old).with_name(new) for new, old in self.shown.items()])

    @property
    def count(self) -> int:
        """How many rows lie in the files that the filter leaves."""
        return sum(int(task.file.record_count) for task in self.scan.plan_files())

    def open(self, session: duckdb.DuckDBPyConnection, name: str) -> None:
        """Make the rows readable as the relation `name`."""
        session.register(name, _renamed(self.scan.to_arrow(), self.shown).cast(self.schema))

    def pieces(self) -> Sequence[Piece]:
        """One piece for each data file."""
        return [
            _DataFile(scan=self.scan, task=task, shown=self.shown, schema=self.schema)
            for task in self.scan.plan_files()
        ]


@dataclass(frozen=True, kw_only=True)
class _DataFile:
    """One data file of a snapshot, its deletes applied."""

    scan: Any
    task: Any
    shown: dict[str, str]
    schema: pa.Schema

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows of the file that pass the filter."""
        reader = ArrowScan(
            self.scan.table_metadata, self.scan.io, self.scan.projection(), self.scan.row_filter
        )
        for batch in reader.to_record_batches([self.task]):
            rows = pa.Table.from_batches([batch])
            yield from _renamed(rows, self.shown).cast(self.schema).to_batches()


def iceberg_rows(source: IcebergSource, reading: Reading) -> IcebergRows | None:
    """The rows of the current snapshot; None when nobody has created the table.

    Raises:
        DataError: a column is missing or no time.
        UsageError: the kind of catalog is not supported.
    """
    table = _table(source)
    if table is None:
        return None
    # bounds on an Iceberg date would be rounded to the day, so only timestamps will do
    kinds = {
        field.name: "TIMESTAMP" if pa.types.is_timestamp(field.type) else str(field.type)
        for field in table.schema().as_arrow()
    }
    check_columns(source, reading, kinds)
    kept: Any = AlwaysTrue()
    for bound in reading.bounds:
        if bound.since is not None:
            kept = And(kept, GreaterThanOrEqual(bound.column, bound.since))
        if bound.until is not None:
            kept = And(kept, LessThanOrEqual(bound.column, bound.until))
    columns = tuple(dict.fromkeys(reading.columns.values()))
    scan = table.scan(row_filter=kept, selected_fields=columns)
    return IcebergRows(scan=scan, shown=dict(reading.columns))


def iceberg_schema(source: IcebergSource) -> pa.Schema | None:
    """The columns of the table; None when nobody has created it.

    Raises:
        UsageError: the kind of catalog is not supported.
    """
    table = _table(source)
    return None if table is None else table.schema().as_arrow()


def _table(source: IcebergSource) -> Any:  # noqa: ANN401 - pyiceberg publishes no types
    if source.catalog_type == "rest":
        raise UsageError(
            f"{label(source)}: REST catalogs are not supported; use catalog_type 'sql'"
        )
    catalog = source.get_catalog_client()
    try:
        return catalog.load_table(f"{source.namespace}.{source.iceberg_table}")
    except (NoSuchNamespaceError, NoSuchTableError):
        return None
    finally:
        catalog.close()


def _renamed(rows: pa.Table, shown: dict[str, str]) -> pa.Table:
    return pa.table({new: rows[old] for new, old in shown.items()})
