"""FileSource: Parquet files, alone, in a folder or behind a pattern."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource

from scalr_ray.core.clock import to_micros
from scalr_ray.core.duck import duck, quote_name, quote_text
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.offline_store.sources.reading import (
    Access,
    Piece,
    Reading,
    TimeBound,
    check_columns,
    label,
)

_MAKERS = {"TIMESTAMP WITH TIME ZONE": "make_timestamptz", "TIMESTAMP": "make_timestamp"}
_PIECE_ROWS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """Rows of Parquet files.

    Attributes:
        files: where they lie.
        select: the wanted columns, as SQL.
        where: the rows to keep, as SQL.
        stored: the columns that SQL reads, in the types that suit all files.
        schema: the columns, under their names in the result.
    """

    files: tuple[Path, ...]
    select: str
    where: str
    stored: pa.Schema
    schema: pa.Schema

    @property
    def count(self) -> int:
        """How many rows the files hold."""
        return sum(pq.read_metadata(file).num_rows for file in self.files)

    def open(self, session: duckdb.DuckDBPyConnection, name: str) -> None:
        """Make the rows readable as the relation `name`."""
        session.execute(
            f"CREATE OR REPLACE TEMP VIEW {quote_name(name)} AS "
            f"SELECT {self.select} FROM {_scan(self.files)} WHERE {self.where}"
        )

    def pieces(self) -> Sequence[Piece]:
        """Runs of row groups of about a million rows, each within one file."""
        return [
            _RowGroups(rows=self, file=file, groups=groups)
            for file in self.files
            for groups in _runs(pq.read_metadata(file))
        ]


@dataclass(frozen=True, kw_only=True)
class _RowGroups:
    """Some row groups of one file."""

    rows: FileRows
    file: Path
    groups: tuple[int, ...]

    def read(self) -> Iterator[pa.RecordBatch]:
        """The wanted columns of the rows to keep."""
        wanted = self.rows
        with pq.ParquetFile(self.file) as file, duck(threads=1) as session:
            present = [name for name in wanted.stored.names if name in file.schema_arrow.names]
            piece = file.read_row_groups(list(self.groups), columns=present)
            columns = {
                field.name: piece[field.name].cast(field.type)
                if field.name in present
                else pa.nulls(piece.num_rows, field.type)
                for field in wanted.stored
            }
            session.register("piece", pa.table(columns))
            found = session.sql(f"SELECT {wanted.select} FROM piece WHERE {wanted.where}")
            yield from found.to_arrow_reader()


def file_rows(source: DataSource, reading: Reading, access: Access) -> FileRows | None:
    """The rows of the files behind a FileSource; None when there is no file yet.

    Raises:
        DataError: a single file is gone, a file is corrupt, a column is missing or no time.
        UsageError: it is no local FileSource of Parquet files.
    """
    files = parquet_files(source, access)
    if not files:
        return None
    with duck(threads=1) as session:
        try:
            described = session.sql(f"FROM {_scan(files)}")
            kinds = dict(zip(described.columns, map(str, described.types), strict=True))
        except (duckdb.BinderException, duckdb.InvalidInputException, duckdb.IOException) as error:
            raise DataError(f"{label(source)} cannot be read as Parquet: {error}") from error
        check_columns(source, reading, kinds)
        select = ", ".join(
            f"{quote_name(column)} AS {quote_name(shown)}"
            for shown, column in reading.columns.items()
        )
        used = dict.fromkeys((*reading.columns.values(), *(b.column for b in reading.bounds)))
        stored = described.project(", ".join(map(quote_name, used)))
        return FileRows(
            files=tuple(files),
            select=select,
            where=" AND ".join(_bound_sql(b, kinds[b.column]) for b in reading.bounds) or "true",
            stored=stored.limit(0).to_arrow_table().schema,
            schema=described.project(select).limit(0).to_arrow_table().schema,
        )


def file_schema(source: DataSource, access: Access) -> pa.Schema | None:
    """The Arrow schema of the files behind a FileSource; None when there is no file yet.

    Raises:
        DataError: a single file is gone, or a file cannot be read.
        UsageError: it is no local FileSource of Parquet files.
    """
    files = parquet_files(source, access)
    if not files:
        return None
    try:
        return pa.unify_schemas([pq.read_schema(file) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{label(source)} cannot be read as Parquet: {error}") from error


def may_be_absent(source: DataSource, access: Access) -> bool:
    """Whether `source` names a single file that is not there, as before its first write."""
    return _is_single_file(source) and not source_path(source, access).exists()


def parquet_files(source: DataSource, access: Access) -> list[Path]:
    """The Parquet files of a FileSource, sorted, but for hidden and `_`-prefixed ones.

    Raises:
        DataError: its path names a single file, and that file is gone.
        UsageError: it is no local FileSource of Parquet files.
    """
    path = source_path(source, access)
    if _is_single_file(source):
        if not path.is_file():
            raise DataError(f"{label(source)}: the file {path} is gone; restore or rewrite it")
        return [path]
    root, pattern = _split_pattern(path)
    return sorted(
        file
        for file in root.glob(pattern)
        if not any(part.startswith((".", "_")) for part in file.relative_to(root).parts)
    )


def part_folder(source: DataSource, access: Access) -> Path:
    """The folder where new files of a FileSource go: its path, or what its pattern looks into.

    Raises:
        UsageError: it names a single file, or a pattern that new parts would not match.
    """
    path = source_path(source, access)
    if _is_single_file(source):
        raise UsageError(
            f"{label(source)} is the single file {path}, which is never rewritten in place; "
            "point it at a folder or at <folder>/part-*.parquet"
        )
    if not _has_wildcard(str(path)):
        return path
    if path.name != "part-*.parquet" or _has_wildcard(str(path.parent)):
        raise UsageError(f"{label(source)}: new files go only to <folder>/part-*.parquet")
    return path.parent


def source_path(source: DataSource, access: Access) -> Path:
    """Where a FileSource lies: a file, a folder or a pattern, absolute.

    Raises:
        UsageError: it is no local FileSource of Parquet files.
    """
    if not isinstance(source, FileSource):
        raise UsageError(
            f"{label(source)} is a {type(source).__name__}; use a FileSource or an IcebergSource"
        )
    if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
        raise UsageError(f"{label(source)} is not Parquet; write it as Parquet or as Iceberg")
    text = str(source.path).removeprefix("file://")
    if "://" in text:
        raise UsageError(f"{label(source)} lies at {text}; only local paths can be read as files")
    return access.repo / text


def _is_single_file(source: DataSource) -> bool:
    if not isinstance(source, FileSource):
        return False
    return source.path.endswith(".parquet") and not _has_wildcard(source.path)


def _has_wildcard(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _split_pattern(path: Path) -> tuple[Path, str]:
    """The fixed folder and the pattern under it; a plain folder means all Parquet files below."""
    for place, part in enumerate(path.parts):
        if _has_wildcard(part):
            return Path(*path.parts[:place]), str(Path(*path.parts[place:]))
    return path, "**/*.parquet"


def _scan(files: Sequence[Path]) -> str:
    listed = ", ".join(quote_text(str(file)) for file in files)
    return f"read_parquet([{listed}], union_by_name = true)"


def _runs(metadata: pq.FileMetaData) -> Iterator[tuple[int, ...]]:
    """The row groups of a file, in order, in runs of about `_PIECE_ROWS` rows."""
    run: list[int] = []
    rows = 0
    for group in range(metadata.num_row_groups):
        run.append(group)
        rows += metadata.row_group(group).num_rows
        if rows >= _PIECE_ROWS:
            yield tuple(run)
            run, rows = [], 0
    if run:
        yield tuple(run)


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
