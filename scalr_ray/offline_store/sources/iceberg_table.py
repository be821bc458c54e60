"""Tables of Apache Iceberg in a SQL catalog, as they are or as a snapshot left them.

A table is read as of one snapshot: the newest, or the one a pin names. A pin is either part of the
definition (the tag `snapshot_id` of the source, which Feast keeps in the registry), for a view that
everybody shall see frozen, or part of one session (`snapshots` in the `offline_store` section, by
source name, which wins), for pulling an old training set again without touching the registry.

A pinned table shows the columns it had then, under the names they had then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, NotInstalledError
from pyiceberg.io.pyarrow import schema_to_pyarrow
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from scalr_ray.core.databases import database_error
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.s3 import s3_error, s3_properties
from scalr_ray.offline_store.sources.reading import Access, label

if TYPE_CHECKING:
    from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

SNAPSHOT_TAG = "snapshot_id"


@contextmanager
def open_table(source: IcebergSource) -> Iterator[Any]:
    """The table behind `source` with its catalog open; None when nobody has created it.

    Raises:
        DataError: the catalog or the table's metadata cannot be read.
        UsageError: the kind of catalog is not supported.
        RetryLater: the catalog is busy.
    """
    if source.catalog_type == "rest":
        raise UsageError(
            f"{label(source)}: REST catalogs are not supported; use catalog_type 'sql'"
        )
    with _catalog_of(source):
        catalog = source.get_catalog_client()
    # Of the environment, and no part of the definition: that is the same for all who read it.
    catalog.properties = {**s3_properties(), **catalog.properties}
    try:
        with _catalog_of(source):
            table = _load(catalog, source)
        yield table
    finally:
        catalog.close()


def catalog_url(source: IcebergSource) -> str:
    """Where the catalog of `source` is, for messages: without a password."""
    parsed = make_url(source.catalog_properties.get("uri", source.endpoint))
    return parsed.set(query={}).render_as_string(hide_password=True)


def pinned_snapshot(source: IcebergSource, access: Access) -> int | None:
    """The snapshot that `source` shall be read at; None for the newest.

    Raises:
        UsageError: the tag is no number.
    """
    asked = access.snapshots.get(source.name, source.tags.get(SNAPSHOT_TAG))
    try:
        return None if asked is None else int(asked)
    except ValueError as error:
        raise UsageError(
            f"{label(source)}: tag {SNAPSHOT_TAG!r} is {asked!r}, not the number of a snapshot; "
            "correct it or drop the tag to read the newest"
        ) from error


def metadata_at_pin(source: IcebergSource, table: Any, access: Access) -> Any:  # noqa: ANN401
    """The table's metadata, with the pinned snapshot and its columns as the current ones.

    None where there is no table: it may be read as empty, but not at a snapshot it does not have.

    pyiceberg plans and filters by the current columns, whatever snapshot it is asked for: a filter
    on a column that was renamed since would fail.

    Raises:
        DataError: there is no such snapshot.
        UsageError: the tag is no number.
    """
    pin = pinned_snapshot(source, access)
    if pin is None:
        return None if table is None else table.metadata
    if table is None:
        raise DataError(
            f"{label(source)} is pinned to snapshot {pin}, but its table does not exist; "
            "restore it or drop the pin"
        )
    snapshot = table.snapshot_by_id(pin)
    if snapshot is None:
        kept = ", ".join(str(snapshot.snapshot_id) for snapshot in table.snapshots()[-5:])
        raise DataError(
            f"{label(source)} has no snapshot {pin}, or it has expired; "
            f"the newest it has: {kept or 'none'}; pin one of them or drop the pin"
        )
    then = {"current_snapshot_id": pin}
    if snapshot.schema_id is not None:
        then["current_schema_id"] = snapshot.schema_id
    return table.metadata.model_copy(update=then)


def arrow_schema(schema: Any) -> pa.Schema:  # noqa: ANN401 - pyiceberg publishes no types
    """An Iceberg schema in Arrow, without the ids of its fields."""
    return schema_to_pyarrow(schema, include_field_ids=False)


def _load(catalog: Any, source: IcebergSource) -> Any:  # noqa: ANN401 - pyiceberg has no types
    try:
        return catalog.load_table((*source.namespace.split("."), source.iceberg_table))
    except (NoSuchNamespaceError, NoSuchTableError):
        return None


@contextmanager
def _catalog_of(source: IcebergSource) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        told = database_error(
            f"read the catalog of {label(source)}", catalog_url(source), error, sent=False
        )
        raise told or _unreadable(source, error.orig) from error
    except SQLAlchemyError as error:
        raise _unreadable(source, error) from error
    except (OSError, ValueError, NotInstalledError) as error:
        told = s3_error(f"{label(source)}: its table cannot be opened", error)
        raise told or DataError(f"{label(source)}: its table cannot be opened: {error}") from error


def _unreadable(source: IcebergSource, reason: object) -> DataError:
    return DataError(f"{label(source)}: its catalog cannot be read: {reason}")
