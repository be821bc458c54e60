"""New rows for an Iceberg table: one batch, one commit, once.

A batch is known by its key, the fingerprint of its rows, which its snapshot carries as the property
`scalr.write-key`. A write looks for the key among the snapshots that led to the newest one, before
it commits and again after it lost a race: a repeated write finds its key and changes nothing, even
where the rows were deleted since, so that no retry brings back what was erased. The memory is as
long as the table's: a snapshot that has expired is forgotten.

The table of synthetic events is not written here, but by `scalr publish`. It is known by its
lineage columns, which no other table has and which it cannot lose.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NotInstalledError,
)
from pyiceberg.table import TableProperties
from pyiceberg.table.snapshots import ancestors_of
from sqlalchemy.exc import DBAPIError

from scalr_ray.core.databases import SentCommits, database_error
from scalr_ray.core.errors import DataError, RetryLater, StateUnknown, UsageError
from scalr_ray.core.events import LINEAGE_COLUMNS
from scalr_ray.offline_store.entity_rows import is_text
from scalr_ray.offline_store.parts import rows_fingerprint
from scalr_ray.offline_store.sources.iceberg_table import (
    arrow_schema,
    catalog_url,
    open_table,
    pinned_snapshot,
)
from scalr_ray.offline_store.sources.reading import Access, label

WRITE_KEY = "scalr.write-key"
_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0)


def append_to_iceberg(
    source: IcebergSource,
    rows: pa.Table,
    access: Access,
    *,
    needed: Sequence[str],
    original: Mapping[str, str],
    view: str,
) -> None:
    """Add `rows` to the table behind `source` in one commit, unless that was done before.

    A lost race leaves data files behind that no snapshot names, as any failed Iceberg commit does.

    Args:
        source: where they go; its table must be there, because nobody else knows its partitions.
        rows: columns under the names of the view or of the table.
        access: what reading the source takes.
        needed: columns of the view that `rows` must have.
        original: name in the table, where it differs from the name in the view.
        view: whose rows these are, for messages.

    Raises:
        DataError: a column is missing, unknown, or holds what the table cannot hold exactly.
        UsageError: the table is not there, is pinned, holds synthetic events, or is partitioned in
            a way that takes more packages, or its catalog may not be written.
        RetryLater: others kept committing first, or the database stayed locked or was lost before
            the commit was sent; nothing has changed.
        StateUnknown: the answer to the commit was lost.
    """
    if (pin := pinned_snapshot(source, access)) is not None:
        raise UsageError(
            f"{label(source)} is pinned to snapshot {pin}, where new rows would not be seen; "
            "drop the pin to write"
        )
    with open_table(source) as table:
        if table is None:
            raise UsageError(
                f"{label(source)}: the table {source.namespace}.{source.iceberg_table} does not "
                "exist; create it, partitioned as you need it, and write again"
            )
        if set(LINEAGE_COLUMNS) <= set(table.schema().column_names):
            raise UsageError(
                f"feature view {view!r} is the Iceberg table of synthetic events; "
                "publish events to it with `scalr publish`"
            )
        batch = _fit(rows, arrow_schema(table.schema()), needed, original, view)
        if batch.num_rows:
            _commit(table, batch, label(source), catalog_url(source))


def _commit(
    table: Any,  # noqa: ANN401 - no types published
    batch: pa.Table,
    name: str,
    url: str,
) -> None:
    key, sent = rows_fingerprint(batch), SentCommits(table.catalog.engine)
    for pause_s in _PAUSES_S:
        sent.forget()
        try:
            table.refresh()
            if key in _write_keys(table):
                return
            _without_retries(table).append(batch, snapshot_properties={WRITE_KEY: key})
        except CommitFailedException:
            # losers of one round must not meet again in the next
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        except NotInstalledError as error:
            raise UsageError(f"{name}: {error}") from error
        except CommitStateUnknownException as error:
            raise _unknown(name) from error
        except DBAPIError as error:
            told = database_error(f"write to {name}", url, error, sent=sent.any)
            if isinstance(told, StateUnknown):
                raise _unknown(name) from error
            raise told or DataError(
                f"{name}: its catalog cannot be written: {error.orig}"
            ) from error
        else:
            return
    raise RetryLater(f"{name}: other writers kept committing first; write again")


def _unknown(name: str) -> StateUnknown:
    return StateUnknown(
        f"{name}: the answer to the commit was lost; write the same rows again, which adds them "
        "once"
    )


def _write_keys(table: Any) -> set[str]:  # noqa: ANN401 - no types published
    snapshots = ancestors_of(table.current_snapshot(), table.metadata)
    return {
        snapshot.summary[WRITE_KEY]
        for snapshot in snapshots
        if snapshot.summary is not None and WRITE_KEY in snapshot.summary
    }


def _without_retries(table: Any) -> Any:  # noqa: ANN401 - no types published
    """The table as this process sees it, told not to repeat a lost commit by itself.

    Repeated blindly, a commit that was lost to the same batch of another process would double it.
    """
    properties = {**table.metadata.properties, TableProperties.COMMIT_NUM_RETRIES: "0"}
    table.metadata = table.metadata.model_copy(update={"properties": properties})
    return table


def _fit(
    rows: pa.Table,
    schema: pa.Schema,
    needed: Iterable[str],
    original: Mapping[str, str],
    view: str,
) -> pa.Table:
    """`rows` under the names and in exactly the types of the table; what it may lack is null."""
    kept = rows.rename_columns([original.get(name, name) for name in rows.column_names])
    if twice := sorted({name for name in kept.column_names if kept.column_names.count(name) > 1}):
        raise DataError(f"rows for {view!r} have the column(s) {', '.join(twice)} twice")
    # Feast makes Arrow of pandas rows together with their index
    kept = kept.select([name for name in kept.column_names if not _is_index(name)])
    wanted = {original.get(name, name) for name in needed}
    wanted |= {field.name for field in schema if not field.nullable}
    if missing := sorted(wanted - set(kept.column_names)):
        raise DataError(f"rows for {view!r} lack the column(s) {', '.join(missing)}")
    if unknown := sorted(set(kept.column_names) - set(schema.names)):
        raise DataError(
            f"rows for {view!r} have the column(s) {', '.join(unknown)}, which the table has not; "
            f"it has {', '.join(schema.names)}"
        )
    columns = [
        _as_stored(kept[field.name], field, view)
        if field.name in kept.column_names
        else pa.nulls(kept.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _is_index(name: str) -> bool:
    return name.startswith("__index_level_")


def _as_stored(column: pa.ChunkedArray, field: pa.Field, view: str) -> pa.ChunkedArray:
    """The column in the type of `field`, every value unchanged."""
    wrong = f"rows for {view!r}: {field.name!r} is {column.type}, but the table holds {field.type}"
    if column.null_count and not field.nullable:
        raise DataError(f"rows for {view!r}: {field.name!r} has nulls, which the table refuses")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return column.cast(field.type)
    if _kind(column.type) != _kind(field.type):
        raise DataError(f"{wrong}; convert it first")
    try:
        stored = column.cast(field.type)
        same = stored.type == column.type or _equal(stored.cast(column.type), column)
    except pa.ArrowException as error:
        raise DataError(f"{wrong}, and {error}; convert it first") from error
    if not same:
        raise DataError(f"{wrong}, which cannot hold all values exactly; convert it first")
    return stored


def _kind(found: pa.DataType) -> str:
    """What a value is, whatever its width: a cast never makes text of a number or a time of it."""
    if is_text(found):
        return "text"
    if pa.types.is_temporal(found):
        return "time"
    if pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found):
        return "number"
    return "list" if _is_list(found) else str(found).removeprefix("large_")


def _is_list(found: pa.DataType) -> bool:
    return bool(pa.types.is_list(found) or pa.types.is_large_list(found))


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    """Whether all values agree, where no number agrees with no number."""
    while _is_list(right.type):
        left, right = pc.list_flatten(left), pc.list_flatten(right)
    if pa.types.is_floating(right.type):
        left, right = (pc.if_else(pc.is_nan(side), None, side) for side in (left, right))
    return bool(left.equals(right))
