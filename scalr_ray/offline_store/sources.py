"""From a Feast data source to a relation in a DuckDB session.

Only the wanted columns and rows are read: bounds on times go down into the Parquet row groups or
the Iceberg manifests. A source that has no data yet (a folder or pattern without files, a table
nobody has created) is legal and is told apart from one that is broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from feast.infra.offline_stores.file_source import FileSource
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, LessThanOrEqual

from scalr_ray.core.clock import to_micros
from scalr_ray.core.duck import quote_name, quote_text
from scalr_ray.core.errors import DataError, UsageError

_TIME_TYPES = ("DATE", "TIMESTAMP")
_MAKERS = {"TIMESTAMP WITH TIME ZONE": "make_timestamptz", "TIMESTAMP": "make_timestamp"}


@dataclass(frozen=True, kw_only=True)
class TimeBound:
    """Keep the rows whose `column` lies between `since` and `until`, both included, None is open.

    A null time lies in no bound that has an end.
    """

    column: str
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What to read from a source.

    Attributes:
        columns: name in the result by column in the source.
        times: columns of the source that must be times.
        bounds: rows to keep, over columns of the source.
    """

    columns: Mapping[str, str]
    times: tuple[str, ...]
    bounds: tuple[TimeBound, ...] = ()


def open_source(
    session: duckdb.DuckDBPyConnection,
    name: str,
    source: DataSource,
    reading: Reading,
    repo: Path,
) -> bool:
    """Make `source` readable as the view `name`; returns whether it has any data yet.

    Relative paths of a FileSource are taken from `repo`.

    Raises:
        DataError: a single file is gone, a file is corrupt, a column is missing or no time.
        UsageError: the kind of source is not supported.
    """
    if isinstance(source, IcebergSource):
        return _open_iceberg(session, name, source, reading)
    files = parquet_files(source, repo)
    if files:
        _open_files(session, name, source, reading, files)
    return bool(files)


def source_schema(source: DataSource, repo: Path) -> pa.Schema | None:
    """The Arrow schema of `source` as it lies on disk, or None when it has no data yet.

    Raises:
        DataError: it is there but cannot be read.
        UsageError: the kind of source is not supported.
    """
    if isinstance(source, IcebergSource):
        table = _iceberg_table(source)
        return None if table is None else table.schema().as_arrow()
    files = parquet_files(source, repo)
    if not files:
        return None
    try:
        return pa.unify_schemas([pq.read_schema(file) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{_label(source)} cannot be read as Parquet: {error}") from error


def check_source(source: DataSource, repo: Path) -> None:
    """Check that `source` has its time columns, if it has any data yet.

    Raises:
        DataError: a time column is missing or is no time, or the source cannot be read.
        UsageError: the kind of source is not supported.
    """
    if _is_single_file(source) and not source_path(source, repo).exists():
        return
    schema = source_schema(source, repo)
    if schema is None:
        return
    original = {shown: column for column, shown in source.field_mapping.items()}
    for time in filter(None, (source.timestamp_field, source.created_timestamp_column)):
        column = original.get(time, time)
        if column not in schema.names:
            raise DataError(_missing(source, [column], schema.names))
        if not pa.types.is_temporal(schema.field(column).type):
            raise DataError(_no_time(source, column, str(schema.field(column).type)))


def parquet_files(source: DataSource, repo: Path) -> list[Path]:
    """The Parquet files of a FileSource, sorted, but for hidden and `_`-prefixed ones.

    Raises:
        DataError: its path names a single file, and that file is gone.
        UsageError: it is no local FileSource of Parquet files.
    """
    path = source_path(source, repo)
    if _is_single_file(source):
        if not path.is_file():
            raise DataError(f"{_label(source)}: the file {path} is gone; restore or rewrite it")
        return [path]
    root, pattern = _split_pattern(path)
    return sorted(
        file
        for file in root.glob(pattern)
        if not any(part.startswith((".", "_")) for part in file.relative_to(root).parts)
    )


def part_folder(source: DataSource, repo: Path) -> Path:
    """The folder where new files of a FileSource go: its path, or what its pattern looks into.

    Raises:
        UsageError: it names a single file, or a pattern that new parts would not match.
    """
    path = source_path(source, repo)
    if _is_single_file(source):
        raise UsageError(
            f"{_label(source)} is the single file {path}, which is never rewritten in place; "
            "point it at a folder or at <folder>/part-*.parquet"
        )
    if not _has_wildcard(str(path)):
        return path
    if path.name != "part-*.parquet" or _has_wildcard(str(path.parent)):
        raise UsageError(f"{_label(source)}: new files go only to <folder>/part-*.parquet")
    return path.parent


def source_path(source: DataSource, repo: Path) -> Path:
    """Where a FileSource lies: a file, a folder or a pattern, absolute.

    Raises:
        UsageError: it is no local FileSource of Parquet files.
    """
    if not isinstance(source, FileSource):
        raise UsageError(
            f"{_label(source)} is a {type(source).__name__}; use a FileSource or an IcebergSource"
        )
    if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
        raise UsageError(f"{_label(source)} is not Parquet; write it as Parquet or as Iceberg")
    text = str(source.path).removeprefix("file://")
    if "://" in text:
        raise UsageError(f"{_label(source)} lies at {text}; only local paths can be read as files")
    return repo / text


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


def _open_files(
    session: duckdb.DuckDBPyConnection,
    name: str,
    source: DataSource,
    reading: Reading,
    files: Sequence[Path],
) -> None:
    listed = ", ".join(quote_text(str(file)) for file in files)
    scan = f"read_parquet([{listed}], union_by_name = true)"
    try:
        kinds = dict(
            session.execute(
                f"SELECT column_name, column_type FROM (DESCRIBE FROM {scan})"
            ).fetchall()
        )
    except (duckdb.BinderException, duckdb.InvalidInputException, duckdb.IOException) as error:
        raise DataError(f"{_label(source)} cannot be read as Parquet: {error}") from error
    _check_columns(source, reading, kinds)
    selected = ", ".join(
        f"{quote_name(column)} AS {quote_name(shown)}" for shown, column in reading.columns.items()
    )
    kept = " AND ".join(_bound_sql(bound, kinds[bound.column]) for bound in reading.bounds)
    session.execute(
        f"CREATE OR REPLACE TEMP VIEW {quote_name(name)} AS "
        f"SELECT {selected} FROM {scan} WHERE {kept or 'true'}"
    )


def _open_iceberg(
    session: duckdb.DuckDBPyConnection, name: str, source: IcebergSource, reading: Reading
) -> bool:
    table = _iceberg_table(source)
    if table is None:
        return False
    schema = table.schema().as_arrow()
    # bounds on an Iceberg date would be rounded to the day, so only timestamps will do
    kinds = {
        field.name: "TIMESTAMP" if pa.types.is_timestamp(field.type) else str(field.type)
        for field in schema
    }
    _check_columns(source, reading, kinds)
    kept: Any = AlwaysTrue()
    for bound in reading.bounds:
        if bound.since is not None:
            kept = And(kept, GreaterThanOrEqual(bound.column, bound.since))
        if bound.until is not None:
            kept = And(kept, LessThanOrEqual(bound.column, bound.until))
    columns = tuple(dict.fromkeys(reading.columns.values()))
    rows = table.scan(row_filter=kept, selected_fields=columns).to_arrow()
    shown = {shown: rows[column] for shown, column in reading.columns.items()}
    session.register(name, pa.table(shown))
    return True


def _iceberg_table(source: IcebergSource) -> Any:  # noqa: ANN401 - pyiceberg publishes no types
    if source.catalog_type == "rest":
        raise UsageError(
            f"{_label(source)}: REST catalogs are not supported; use catalog_type 'sql'"
        )
    catalog = source.get_catalog_client()
    try:
        return catalog.load_table(f"{source.namespace}.{source.iceberg_table}")
    except (NoSuchNamespaceError, NoSuchTableError):
        return None
    finally:
        catalog.close()


def _check_columns(source: DataSource, reading: Reading, kinds: Mapping[str, str]) -> None:
    wanted = {*reading.columns.values(), *(bound.column for bound in reading.bounds)}
    if missing := sorted(wanted - kinds.keys()):
        raise DataError(_missing(source, missing, list(kinds)))
    for column in reading.times:
        if not kinds[column].startswith(_TIME_TYPES):
            raise DataError(_no_time(source, column, kinds[column]))


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


def _label(source: DataSource) -> str:
    return f"data source {source.name!r}"


def _missing(source: DataSource, missing: Sequence[str], present: Sequence[str]) -> str:
    return f"{_label(source)} lacks the column(s) {', '.join(missing)}; it has {', '.join(present)}"


def _no_time(source: DataSource, column: str, kind: str) -> str:
    return f"{_label(source)}: column {column!r} is {kind}, not a timestamp; rewrite it as one"
