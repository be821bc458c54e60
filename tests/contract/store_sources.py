"""Where the rows behind the views of the contract lie: in Parquet files, or in PostgreSQL."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql

from scalr_ray.core.events import TIMESTAMP

# One a minute from 2020 on: all in the past, none twice.
_MOMENTS = count(1_577_836_800, 60)
_COLUMN_TYPES = {
    pa.string(): sql.SQL("text"),
    pa.int64(): sql.SQL("int8"),
    pa.list_(pa.int64()): sql.SQL("int8[]"),
    TIMESTAMP: sql.SQL("timestamptz"),
}


class Sources(Protocol):
    """What a bench needs of the place where its rows lie."""

    def write(self, view: str, table: pa.Table) -> None:
        """Make `table`, in its order, all that lies behind `view`."""

    def define(self, view: str, **options: Any) -> Any:
        """Return the Feast source of `view`, with the options that all sources have."""


@dataclass(frozen=True)
class FileSources:
    """One Parquet file per view, which all stores read that read files."""

    folder: Path

    def write(self, view: str, table: pa.Table) -> None:
        """Put the file in place at once, under a time of its own.

        A session that lives on, as that of the stock store does, tells by size and time whether
        what it remembers of a file still holds; two files written within a tick would pass for one.
        """
        fresh = self.folder / f"{view}.fresh"
        pq.write_table(table, fresh)
        moment = next(_MOMENTS)
        os.utime(fresh, (moment, moment))
        fresh.replace(self._file(view))

    def define(self, view: str, **options: Any) -> Any:
        from feast import FileSource

        return FileSource(name=f"{view}_source", path=str(self._file(view)), **options)

    def _file(self, view: str) -> Path:
        return self.folder / f"{view}.parquet"


@dataclass(frozen=True)
class TableSources:
    """One table per view, made anew for each write."""

    connection: psycopg.Connection

    def write(self, view: str, table: pa.Table) -> None:
        name = sql.Identifier(view)
        columns = [
            sql.SQL("{} {}").format(sql.Identifier(field.name), _COLUMN_TYPES[field.type])
            for field in table.schema
        ]
        listed = sql.SQL(", ").join(columns)
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
            cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(name, listed))
            with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(name)) as copy:
                for row in table.to_pylist():
                    copy.write_row(list(row.values()))

    def define(self, view: str, **options: Any) -> Any:
        from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
            PostgreSQLSource,
        )

        return PostgreSQLSource(name=f"{view}_source", table=view, **options)
