"""FileSource: Parquet files, alone, in a folder or behind a pattern, on local disk or in S3.

DuckDB reads local files itself. Files in S3 reach it through Arrow datasets, which take its columns
and bounds down to the row groups that are fetched. Either way columns are matched by name, in the
type that suits all files, and what the names of hive folders say is columns like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from scalr_ray.core.clock import to_micros
from scalr_ray.core.duck import duck, quote_name
from scalr_ray.offline_store.sources.parquet import (
    Said,
    Scan,
    dataset,
    fragment,
    runs,
    shown_schema,
)
from scalr_ray.offline_store.sources.paths import parquet_files
from scalr_ray.offline_store.sources.reading import (
    Access,
    Piece,
    Reading,
    TimeBound,
    check_columns,
    label,
)
from scalr_ray.offline_store.storage import Place, storage_errors

if TYPE_CHECKING:
    from feast.data_source import DataSource

_MAKERS = {"TIMESTAMP WITH TIME ZONE": "make_timestamptz", "TIMESTAMP": "make_timestamp"}
_PIECE_ROWS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """What is taken from files.

    Attributes:
        select: the wanted columns, as SQL.
        where: the rows to keep, as SQL.
        kinds: the columns that these two need, in the DuckDB types that suit all files.
    """

    select: str
    where: str
    kinds: Mapping[str, str]

    def sql(self, relation: str) -> str:
        """The statement for the wanted columns and rows of another one."""
        return f"SELECT {self.select} FROM ({relation}) WHERE {self.where}"

    def one_file_sql(self, relation: str, present: Iterable[str]) -> str:
        """The same for a relation of which one file gave only the `present` columns."""
        there = {name.casefold() for name in present}  # as DuckDB matches them
        typed = ", ".join(
            f"CAST({quote_name(name) if name.casefold() in there else 'NULL'} AS {kind}) "
            f"AS {quote_name(name)}"
            for name, kind in self.kinds.items()
        )
        return self.sql(f"SELECT {typed} FROM {quote_name(relation)}")


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """Rows of Parquet files.

    Attributes:
        scan: the files.
        cut: what is taken from them.
        schema: the columns, under their names in the result.
        what: how messages call the source.
    """

    scan: Scan
    cut: _Cut
    schema: pa.Schema
    what: str

    @property
    def count(self) -> int:
        """How many rows the files hold."""
        with storage_errors(self.what):
            return sum(found.metadata.num_rows for found in self.scan.fragments)

    def open(self, session: duckdb.DuckDBPyConnection, name: str) -> None:
        """Make the rows readable as the relation `name`."""
        rows = self.cut.sql(self.scan.show(session, name))
        session.execute(f"CREATE OR REPLACE TEMP VIEW {quote_name(name)} AS {rows}")

    def pieces(self) -> Sequence[Piece]:
        """Runs of row groups of about a million rows, each within one file."""
        scan = self.scan
        with storage_errors(self.what):
            return [
                _RowGroups(place=place, said=said, groups=groups, cut=self.cut, what=self.what)
                for place, said, found in zip(
                    scan.files.places, scan.said, scan.fragments, strict=True
                )
                for groups in runs(found, _PIECE_ROWS)
            ]


@dataclass(frozen=True, kw_only=True)
class _RowGroups:
    """Some row groups of one file."""

    place: Place
    said: Said
    groups: tuple[int, ...]
    cut: _Cut
    what: str

    def read(self) -> Iterator[pa.RecordBatch]:
        """The wanted columns of the rows to keep."""
        with storage_errors(self.what), duck(threads=1) as session:
            found = fragment(self.place, self.place.filesystem(), self.said, self.groups)
            schema = shown_schema(found, self.said)
            session.register("piece", dataset([found], schema))
            rows = session.sql(self.cut.one_file_sql("piece", schema.names))
            yield from rows.to_arrow_reader()


def file_rows(source: DataSource, reading: Reading, access: Access) -> FileRows | None:
    """The rows of the files behind a FileSource; None when there is no file yet.

    Raises:
        DataError: a single file is gone, a file is corrupt, a column is missing or no time.
        RetryLater: S3 does not answer.
        UsageError: it is no FileSource of Parquet files on local disk or in S3.
    """
    files = parquet_files(source, access)
    if files is None:
        return None
    what = label(source)
    with storage_errors(what), duck(threads=1) as session:
        scan = Scan.of(files, session)
        described = session.sql(scan.show(session, "described"))
        kinds = dict(zip(described.columns, map(str, described.types), strict=True))
        check_columns(source, reading, kinds)
        used = (*reading.columns.values(), *(bound.column for bound in reading.bounds))
        cut = _Cut(
            select=", ".join(
                f"{quote_name(column)} AS {quote_name(shown)}"
                for shown, column in reading.columns.items()
            ),
            where=" AND ".join(_bound_sql(b, kinds[b.column]) for b in reading.bounds) or "true",
            kinds={column: kinds[column] for column in used},
        )
        schema = described.project(cut.select).limit(0).to_arrow_table().schema
        return FileRows(scan=scan, cut=cut, schema=schema, what=what)


def file_schema(source: DataSource, access: Access) -> pa.Schema | None:
    """The Arrow schema in which a FileSource is read; None when there is no file yet.

    Raises:
        DataError: a single file is gone, or a file cannot be read.
        RetryLater: S3 does not answer.
        UsageError: it is no FileSource of Parquet files on local disk or in S3.
    """
    files = parquet_files(source, access)
    if files is None:
        return None
    with storage_errors(label(source)), duck(threads=1) as session:
        scan = Scan.of(files, session)
        shown = session.sql(scan.show(session, "described")).limit(0).to_arrow_table().schema
        return pa.schema([field.with_type(_as_feast_spells(field.type)) for field in shown])


def _as_feast_spells(kind: pa.DataType) -> pa.DataType:
    """A list whose values go by the name that Feast's inference looks for."""
    return pa.list_(_as_feast_spells(kind.value_type)) if pa.types.is_list(kind) else kind


def _bound_sql(bound: TimeBound, kind: str) -> str:
    """A predicate that DuckDB can push into the Parquet scan, for the usual types."""
    maker = _MAKERS.get(kind)
    column = quote_name(bound.column)
    value = column if maker else f"epoch_us({column})"
    ends = ((">=", bound.since), ("<=", bound.until))
    parts = [
        f"{value} {sign} {maker or ''}({to_micros(end)})" for sign, end in ends if end is not None
    ]
    return " AND ".join(parts) or "true"
