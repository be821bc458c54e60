"""Opening the Iceberg catalog and the table, creating what is absent.

The catalog shares its database file with the registry and the ledger, so a writer waits for a lock
instead of failing. pyiceberg would repeat a conflicting append on top of the new snapshot; when the
conflict was another publisher of the same batch, that doubles it. The table therefore switches
these retries off, and `scalr_ray.lake.commits` looks again before it tries again.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import (
    DoubleType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)
from sqlalchemy import make_url
from sqlalchemy.exc import DatabaseError, IntegrityError

from scalr_ray.core.errors import DataError, RetryLater
from scalr_ray.core.layout import ICEBERG_CATALOG, ICEBERG_NAMESPACE, ICEBERG_TABLE, Layout
from scalr_ray.lake.schemas import schema_problem

TABLE_NAME = (ICEBERG_NAMESPACE, ICEBERG_TABLE)
LOCK_WAIT_S = 30
_OPEN_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
_ICEBERG_TYPES = {
    "string": StringType(),
    "int64": LongType(),
    "double": DoubleType(),
    "timestamp[us, tz=UTC]": TimestamptzType(),
}


def open_catalog(layout: Layout) -> SqlCatalog:
    """The catalog with its namespace; several processes may open a new one at the same time.

    The warehouse is given as a plain path: pyiceberg cuts a `file://` URI at a `#` or `?`.

    Raises:
        DataError: the database cannot be opened.
        RetryLater: it stayed locked.
    """
    layout.data.mkdir(parents=True, exist_ok=True)
    url = make_url(layout.database_url).update_query_dict({"timeout": str(LOCK_WAIT_S)})
    uri = url.render_as_string(hide_password=False)
    for pause_s in _OPEN_PAUSES_S:
        try:
            catalog = SqlCatalog(ICEBERG_CATALOG, uri=uri, warehouse=layout.warehouse)
        except DatabaseError as error:
            reason = str(error.orig)
            if "locked" in reason:
                raise RetryLater(f"{layout.database_url} is busy; try again") from error
            # Two processes that open a new catalog at the same time both create its tables.
            if "already exists" not in reason:
                raise DataError(
                    f"cannot open {layout.database_url}: {reason}; check data_dir in scalr.yaml"
                ) from error
            time.sleep(pause_s)
            continue
        _ensure_namespace(catalog)
        return catalog
    raise RetryLater(f"{layout.database_url} is busy; try again")


def open_table(catalog: SqlCatalog, schema: pa.Schema) -> Table:
    """The table of synthetic events, created when absent.

    Raises:
        DataError: it exists with another schema.
    """
    # Only where it is not there: a creation that fails leaves its metadata file behind.
    table = (
        catalog.load_table(TABLE_NAME)
        if catalog.table_exists(TABLE_NAME)
        else _create_table(catalog, schema)
    )
    found = schema_to_pyarrow(table.schema(), include_field_ids=False)
    if problem := schema_problem(found, schema):
        raise DataError(
            f"the table of synthetic events at {table.location()} was made for other events: "
            f"{problem}; set `ids` in scalr.yaml back, or use another data_dir"
        )
    return table


def _create_table(catalog: SqlCatalog, schema: pa.Schema) -> Table:
    iceberg_schema = _iceberg_schema(schema)
    return catalog.create_table_if_not_exists(
        TABLE_NAME,
        schema=iceberg_schema,
        partition_spec=_by_batch(iceberg_schema),
        properties={
            "commit.retry.num-retries": "0",
            "schema.name-mapping.default": iceberg_schema.name_mapping.model_dump_json(),
        },
    )


def _ensure_namespace(catalog: SqlCatalog) -> None:
    # Another process may create it between the look and the insert: that is what was wanted.
    with suppress(IntegrityError, NamespaceAlreadyExistsError):
        catalog.create_namespace_if_not_exists(ICEBERG_NAMESPACE)


def _iceberg_schema(schema: pa.Schema) -> Schema:
    fields: list[Any] = [
        NestedField(
            field_id=position,
            name=field.name,
            field_type=_ICEBERG_TYPES[str(field.type)],
            required=not field.nullable,
        )
        for position, field in enumerate(schema, start=1)
    ]
    return Schema(*fields)


def _by_batch(schema: Schema) -> PartitionSpec:
    return PartitionSpec(
        PartitionField(
            source_id=schema.find_field("batch_id").field_id,
            field_id=1000,
            transform=IdentityTransform(),
            name="batch_id",
        )
    )
