"""Adding rows to a table of PostgreSQL: in one transaction, and once however often it is repeated.

The fingerprint of what is written is recorded beside the table, in `scalr_write_batches`, in the
same transaction: a batch whose fingerprint is there has been written, and is not written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
from adbc_driver_postgresql.dbapi import Cursor
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

from scalr_ray.core.duck import quote_name
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.offline_store.entity_rows import is_text
from scalr_ray.offline_store.parts import rows_fingerprint
from scalr_ray.offline_store.sources.postgres import database_url, find_table, table_of
from scalr_ray.offline_store.sources.postgres_server import fetch_rows, transaction
from scalr_ray.offline_store.sources.reading import Access, label, missing_columns

_INCOMING = "scalr_incoming"
_BATCHES = "scalr_write_batches"
_SCHEMA = """
SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1)"""
# without their lengths: a cast to varchar(3) would cut a text where an insert refuses it
_COLUMN_TYPES = """
SELECT attname, format_type(atttypid, -1) FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"""


def append_rows(
    source: PostgreSQLSource,
    table: pa.Table,
    access: Access,
    *,
    needed: Sequence[str],
    original: Mapping[str, str],
    view: str,
) -> None:
    """Add the rows of `table` to the table behind `source`, all or none.

    Args:
        source: where they go.
        table: rows under the names of the view.
        access: where the server is.
        needed: columns it must have.
        original: name in the database, where it differs from the name in the view.
        view: whose rows these are, for the message.

    Raises:
        ConfigError: the server refuses this user, or its address is no address.
        DataError: a column is missing, or a value does not fit its column; nothing is written.
        RetryLater: the server cannot be reached; repeating the write is safe.
        UsageError: the source is a query, or its table is not there.
    """
    if not table_of(source):
        raise UsageError(f"{label(source)} is a query; rows can be written to a table only")
    if missing := sorted(set(needed) - set(table.column_names)):
        raise DataError(f"rows for {view!r} lack the column(s) {', '.join(missing)}")
    rows = table.rename_columns([original.get(name, name) for name in table.column_names])
    rows = rows.replace_schema_metadata(None).combine_chunks()
    with transaction(database_url(source, access)) as cursor:
        found = find_table(cursor, table_of(source))
        if found is None:
            raise UsageError(
                f"{label(source)}: the table {table_of(source)} is not there; create it first"
            )
        target, _ = found
        types = dict(fetch_rows(cursor, _COLUMN_TYPES, target))
        if unknown := sorted(set(rows.column_names) - types.keys()):
            raise DataError(missing_columns(source, unknown, list(types)))
        if _is_new(cursor, target, rows_fingerprint(rows)):
            _insert(cursor, target, rows, types)


def _is_new(cursor: Cursor, target: str, batch: str) -> bool:
    """Record a batch; False when it had been. Waits for whoever is writing the same one."""
    ((schema,),) = fetch_rows(cursor, _SCHEMA, target)
    batches = f"{schema}.{_BATCHES}"
    if find_table(cursor, batches) is None:
        # two that create it at the same time would break each other's transaction
        fetch_rows(cursor, "SELECT pg_advisory_xact_lock(hashtext($1))", batches)
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {batches} (target text, batch text, "
            "written_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (target, batch))"
        )
    recorded = fetch_rows(
        cursor,
        f"INSERT INTO {batches} (target, batch) VALUES ($1, $2) "
        "ON CONFLICT DO NOTHING RETURNING batch",
        target,
        batch,
    )
    return bool(recorded)


def _insert(cursor: Cursor, target: str, rows: pa.Table, types: Mapping[str, str]) -> None:
    """Through a table of the session, since COPY takes nothing but the very types of the target."""
    cursor.adbc_ingest(_INCOMING, rows, mode="create", temporary=True)
    names = ", ".join(map(quote_name, rows.column_names))
    # text becomes uuid, json or an enum only when told; numbers must fit of themselves
    values = ", ".join(
        f"{quote_name(name)}::{types[name]}" if is_text(kind) else quote_name(name)
        for name, kind in zip(rows.column_names, rows.schema.types, strict=True)
    )
    cursor.execute(f"INSERT INTO {target} ({names}) SELECT {values} FROM pg_temp.{_INCOMING}")
