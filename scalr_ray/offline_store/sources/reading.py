"""What is read from a source, and the face that every kind of source shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import duckdb
import pyarrow as pa

from scalr_ray.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from feast.data_source import DataSource

_TIME_TYPES = ("DATE", "TIMESTAMP")


@dataclass(frozen=True, kw_only=True)
class Access:
    """What reading a source takes besides its definition.

    Attributes:
        repo: the folder that relative paths are taken from.
        postgres_url: where the PostgreSQL sources lie, if it is known; holds the password.
        snapshots: name of an Iceberg source -> the snapshot to read it at.
    """

    repo: Path
    postgres_url: str | None = field(default=None, repr=False)
    snapshots: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TimeBound:
    """Keep the rows whose `column` lies between `since` and `until`, both included, None is open.

    A null time lies in no bound that has an end.
    """

    column: str
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class KeyFilter:
    """Only the rows whose `column` equals one of `values` will be looked at.

    A source may use it to read less, or leave it: rows of other keys do no harm. It must leave it
    where the column holds another kind of value.

    Attributes:
        column: of the source.
        values: each once, without null, all integers or all text; none means that no row is wanted.
    """

    column: str
    values: tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What to read from a source.

    Attributes:
        columns: name in the result -> column in the source.
        times: columns of the source that must be times.
        bounds: rows to keep, over columns of the source.
        keys: rows that are enough, over columns of the source; all of them apply.
    """

    columns: Mapping[str, str]
    times: tuple[str, ...]
    bounds: tuple[TimeBound, ...] = ()
    keys: tuple[KeyFilter, ...] = ()


class Piece(Protocol):
    """A part of a source's rows, small enough for one task; it can be pickled."""

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows of the piece within the bounds, in the schema of its `SourceRows`."""
        ...


class SourceRows(Protocol):
    """The wanted columns and rows of a source that has data; nothing is read before it is asked."""

    @property
    def schema(self) -> pa.Schema:
        """The columns, under their names in the result."""
        ...

    @property
    def count(self) -> int:
        """How many rows the source holds, within the bounds or not; may be an estimate."""
        ...

    def open(self, session: duckdb.DuckDBPyConnection, name: str) -> None:
        """Make the rows readable as the relation `name`, as often as wanted."""
        ...

    def pieces(self) -> Sequence[Piece]:
        """The rows, cut into parts that can be read side by side on several machines."""
        ...


def check_columns(source: DataSource, reading: Reading, kinds: Mapping[str, str]) -> None:
    """Check that the wanted columns are there and can be told apart, and that times are times.

    Args:
        source: named in the message.
        reading: what is wanted.
        kinds: DuckDB type, or what looks like it, by column of the source.

    Raises:
        DataError: a column is missing, or is no time.
        UsageError: two columns of the result differ in nothing but case, which DuckDB ignores.
    """
    spelled: dict[str, str] = {}
    for name in reading.columns:
        if (other := spelled.setdefault(name.lower(), name)) != name:
            raise UsageError(
                f"{label(source)}: the columns {other!r} and {name!r} differ only in case, so they "
                "cannot be told apart; rename one through field_mapping"
            )
    wanted = {*reading.columns.values(), *(bound.column for bound in reading.bounds)}
    if missing := sorted(wanted - kinds.keys()):
        raise DataError(missing_columns(source, missing, list(kinds)))
    for column in reading.times:
        if not kinds[column].startswith(_TIME_TYPES):
            raise DataError(no_time(source, column, kinds[column]))


def label(source: DataSource) -> str:
    """How messages call a source."""
    return f"data source {source.name!r}"


def missing_columns(source: DataSource, missing: Sequence[str], present: Sequence[str]) -> str:
    """The message for columns that a source should have."""
    return f"{label(source)} lacks the column(s) {', '.join(missing)}; it has {', '.join(present)}"


def no_time(source: DataSource, column: str, kind: str) -> str:
    """The message for a time column that holds something else."""
    return f"{label(source)}: column {column!r} is {kind}, not a timestamp; rewrite it as one"
