"""PostgreSQLSource: tables and queries, read by binary COPY into Arrow batches.

Only the wanted columns and the rows within the bounds leave the server, in the types that
`postgres_types` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from adbc_driver_postgresql.dbapi import Cursor

from scalr_ray.core.duck import quote_name
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.offline_store.sources.postgres_server import fetch_rows, snapshot
from scalr_ray.offline_store.sources.postgres_types import (
    bound_sql,
    column_sql,
    has_infinite_time,
    key_sql,
    time_kind,
)
from scalr_ray.offline_store.sources.reading import (
    Access,
    Piece,
    Reading,
    check_columns,
    label,
)

if TYPE_CHECKING:
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )

_PIECE_PAGES = 16_384  # of 8 KiB: about a million event rows
_ALIAS = "source_rows"

_FIND_TABLE = """
SELECT format('%I.%I', n.nspname, c.relname), (
  SELECT CASE WHEN bool_and(p.relkind IN ('r', 'p', 'm') AND coalesce(am.amname, 'heap') = 'heap')
         THEN max(pg_relation_size(p.oid)) / current_setting('block_size')::int8 END
  FROM pg_class p LEFT JOIN pg_am am ON am.oid = p.relam
  WHERE p.oid = c.oid OR p.oid IN (SELECT relid FROM pg_partition_tree(c.oid))
)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1)"""


@dataclass(frozen=True, kw_only=True)
class PostgresRows:
    """Rows of a table or a query.

    Attributes:
        source: how messages call the source.
        url: where the server is; holds the password.
        select: the statement that gives all wanted rows; a predicate may be added to it.
        schema: the columns, under their names in the result.
        count: how many rows the planner expects.
        pages: how long the table is, or its longest partition; 0 where there are no pages to cut.
    """

    source: str
    url: str = field(repr=False)
    select: str
    schema: pa.Schema
    count: int
    pages: int

    def open(self, session: duckdb.DuckDBPyConnection, name: str) -> None:
        """Copy the rows, batch by batch, into a table of the session, which spills to disk."""
        table = quote_name(name)
        session.register("batch", self.schema.empty_table())
        session.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS FROM batch")
        for batch in self.read("true"):
            session.register("batch", pa.Table.from_batches([batch]))
            session.execute(f"INSERT INTO {table} FROM batch")
        session.unregister("batch")

    def pieces(self) -> Sequence[Piece]:
        """Ranges of 128 MiB of a table, by where its rows lie; a query or a view is one piece.

        Each piece sees one state of the database, that of the moment when it is read. A row that is
        written meanwhile may thus be seen by one piece and not by the next; in a table that only
        grows, rows are neither lost nor repeated, and with the availability cut-off such rows play
        no part. A row that is *updated* meanwhile moves, and may be seen twice or not at all: do
        not rewrite a table while it is read in pieces.
        """
        cuts = range(_PIECE_PAGES, self.pages, _PIECE_PAGES)
        places = [f"{_ALIAS}.ctid {{}} '({cut},0)'::tid" for cut in cuts]
        since = ["true", *(place.format(">=") for place in places)]
        until = [*(place.format("<") for place in places), "true"]
        return [
            _Range(rows=self, where=f"{first} AND {last}")
            for first, last in zip(since, until, strict=True)
        ]

    def read(self, where: str) -> Iterator[pa.RecordBatch]:
        """The rows for which the predicate `where` holds, in one snapshot."""
        with snapshot(self.url) as cursor:
            yield from _batches(cursor, f"{self.select} AND {where}", self.schema, self.source)


@dataclass(frozen=True, kw_only=True)
class _Range:
    """The rows of one range of a table."""

    rows: PostgresRows
    where: str

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows of the range, in one snapshot."""
        return self.rows.read(self.where)


@dataclass(frozen=True, kw_only=True)
class _Relation:
    """What stands behind FROM, its columns as PostgreSQL describes them, and its pages."""

    sql: str
    columns: Mapping[str, pa.Field]
    pages: int


def postgres_rows(source: PostgreSQLSource, reading: Reading, access: Access) -> PostgresRows:
    """The rows of a PostgreSQLSource.

    Raises:
        ConfigError: the server refuses this user, or its address is no address.
        DataError: the table is gone, a column is missing or no time, or the query is wrong.
        RetryLater: the server cannot be reached.
        UsageError: nobody said where the server is.
    """
    url = database_url(source, access)
    with snapshot(url) as cursor:
        relation = _relation(cursor, source)
        if relation is None:
            raise DataError(f"{label(source)}: the table {table_of(source)} is gone; restore it")
        columns = relation.columns
        check_columns(source, reading, {name: time_kind(columns[name]) for name in columns})
        shown = ", ".join(column_sql(columns[old]) for old in reading.columns.values())
        kept = [bound_sql(bound, columns[bound.column]) for bound in reading.bounds]
        kept += [key_sql(keys, columns[keys.column]) for keys in reading.keys]
        select = f"SELECT {shown} FROM {relation.sql} WHERE {' AND '.join(kept) or 'true'}"
        return PostgresRows(
            source=label(source),
            url=url,
            select=select,
            schema=_result_schema(cursor, select, list(reading.columns)),
            count=_expected_rows(cursor, select),
            pages=relation.pages,
        )


def postgres_schema(source: PostgreSQLSource, access: Access) -> pa.Schema | None:
    """The columns of a PostgreSQLSource, as they are read; None when its table is not there.

    Raises:
        ConfigError: the server refuses this user, or its address is no address.
        DataError: the query is wrong.
        RetryLater: the server cannot be reached.
        UsageError: nobody said where the server is.
    """
    with snapshot(database_url(source, access)) as cursor:
        relation = _relation(cursor, source)
        if relation is None:
            return None
        shown = ", ".join(map(column_sql, relation.columns.values()))
        return _result_schema(cursor, f"SELECT {shown} FROM {relation.sql}", [*relation.columns])


def query_rows(sql: str, source: PostgreSQLSource, access: Access) -> pa.Table:
    """The result of a SELECT, run in the database of `source`, in the order it comes.

    Raises:
        ConfigError: the server refuses this user, or its address is no address.
        DataError: the statement is no SELECT, is wrong, or gives an infinite time.
        RetryLater: the server cannot be reached.
        UsageError: nobody said where the server is.
    """
    with snapshot(database_url(source, access)) as cursor:
        relation = _query(cursor, sql)
        shown = ", ".join(map(column_sql, relation.columns.values()))
        select = f"SELECT {shown} FROM {relation.sql}"
        schema = _result_schema(cursor, select, list(relation.columns))
        return pa.Table.from_batches(_batches(cursor, select, schema, "entity_df"), schema)


def database_url(source: PostgreSQLSource, access: Access) -> str:
    """Where the server of `source` is.

    Raises:
        UsageError: nobody said.
    """
    if access.postgres_url is None:
        raise UsageError(
            f"{label(source)} lies in PostgreSQL; set offline_store.postgres_url in "
            "feature_store.yaml, for example to ${SCALR_POSTGRES_URL}"
        )
    return access.postgres_url


def table_of(source: PostgreSQLSource) -> str:
    """The table of a PostgreSQLSource, spelled as in SQL; empty for a query."""
    # Feast has no public name for either; this is how its own store and protos read them
    return str(source._postgres_options._table)  # noqa: SLF001


def find_table(cursor: Cursor, table: str) -> tuple[str, int] | None:
    """The quoted name and the pages of a table that is spelled as in SQL; None if not there."""
    found = fetch_rows(cursor, _FIND_TABLE, table)
    return (found[0][0], found[0][1] or 0) if found else None


def _relation(cursor: Cursor, source: PostgreSQLSource) -> _Relation | None:
    table = table_of(source)
    if not table:
        return _query(cursor, str(source._postgres_options._query))  # noqa: SLF001 - see table_of
    found = find_table(cursor, table)
    if found is None:
        return None
    name, pages = found
    sql = f"{name} AS {_ALIAS}"
    return _Relation(sql=sql, columns=_described(cursor, sql), pages=pages)


def _query(cursor: Cursor, query: str) -> _Relation:
    # the closing bracket stands on a line of its own, lest a comment swallow it
    sql = f"(\n{query.strip().removesuffix(';')}\n) AS {_ALIAS}"
    return _Relation(sql=sql, columns=_described(cursor, sql), pages=0)


def _described(cursor: Cursor, relation: str) -> dict[str, pa.Field]:
    return {
        column.name: column for column in cursor.adbc_execute_schema(f"SELECT * FROM {relation}")
    }


def _result_schema(cursor: Cursor, select: str, names: Sequence[str]) -> pa.Schema:
    types = cursor.adbc_execute_schema(select).types
    return pa.schema(list(zip(names, types, strict=True)))


def _expected_rows(cursor: Cursor, select: str) -> int:
    (plan,) = fetch_rows(cursor, f"EXPLAIN (FORMAT JSON) {select}")
    return int(json.loads(plan[0])[0]["Plan"]["Plan Rows"])


def _batches(
    cursor: Cursor, select: str, schema: pa.Schema, source: str
) -> Iterator[pa.RecordBatch]:
    cursor.execute(select)
    for batch in cursor.fetch_record_batch():
        rows = pa.RecordBatch.from_arrays(batch.columns, schema=schema)
        for name, column in zip(schema.names, rows.columns, strict=True):
            if has_infinite_time(column):
                raise DataError(
                    f"{source}: column {name!r} holds an infinite time; write null or a real time"
                )
        yield rows
