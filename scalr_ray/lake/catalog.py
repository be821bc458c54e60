"""Opening the Iceberg catalog and the table, creating what is absent.

The catalog shares its database file with the registry and the ledger, so a writer waits for a lock
instead of failing. pyiceberg would repeat a conflicting append on top of the new snapshot; when the
conflict was another publisher of the same batch, that doubles it. The table therefore switches
these retries off, and `scalr_ray.lake.commits` looks again before it tries again.

The table has no partitions: files are told apart by the bounds of `batch_id` in the metadata, which
serve a reader as well, and the files of many small batches can become one.
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import Any

import pyarrow as pa
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import (
    DoubleType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)
from sqlalchemy import inspect, make_url
from sqlalchemy.exc import DatabaseError, IntegrityError

from scalr_ray.core.databases import reading_only
from scalr_ray.core.errors import DataError, RetryLater
from scalr_ray.core.layout import ICEBERG_CATALOG, ICEBERG_NAMESPACE, ICEBERG_TABLE, Layout
from scalr_ray.core.s3 import S3_SCHEME, s3_properties
from scalr_ray.lake.commits import Committer
from scalr_ray.lake.schemas import schema_problem
from scalr_ray.lake.troubles import catalog_error

TABLE_NAME = (ICEBERG_NAMESPACE, ICEBERG_TABLE)
LOCK_WAIT_S = 30.0
CONNECT_WAIT_S = 10
# The columns whose values lead to a person: of the user, and of the events made of the user's.
PERSONAL_COLUMNS = ("user_id", "event_id", "source_event_id")
_METADATA_VERSIONS = 50
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
        ConfigError: it refuses the login, or is not there.
        RetryLater: it stayed locked, or does not answer.
    """
    layout.data.mkdir(parents=True, exist_ok=True)
    settings = {
        "uri": _waiting(layout.database_url),
        "warehouse": layout.warehouse,
        "pool_pre_ping": "true",  # a server that was started again is not noticed otherwise
        **(s3_properties() if layout.warehouse.startswith(S3_SCHEME) else {}),
    }
    for pause_s in _OPEN_PAUSES_S:
        try:
            catalog = SqlCatalog(ICEBERG_CATALOG, **settings)
            _ensure_namespace(catalog)
        except DatabaseError as error:
            # Two processes that open a new catalog at the same time both create its tables.
            if "already exists" not in str(error.orig):
                what = "open the Iceberg catalog"
                raise catalog_error(what, layout.database_url, error, sent=False) from error
            time.sleep(pause_s)
            continue
        return catalog
    raise RetryLater(f"{layout.database_url} is busy; try again")


def existing_table(layout: Layout) -> Table | None:
    """The table to be read alone, if there is one; neither it nor its catalog is created.

    Raises:
        DataError: the database cannot be opened, or S3 refuses.
        ConfigError: it refuses the login, or is not there.
        RetryLater: it or S3 does not answer.
    """
    readable = reading_only(layout.database_url)
    if readable is None:
        return None
    settings = {
        "uri": _waiting(readable),
        "warehouse": layout.warehouse,
        "init_catalog_tables": "false",
        **(s3_properties() if layout.warehouse.startswith(S3_SCHEME) else {}),
    }
    catalog = SqlCatalog(ICEBERG_CATALOG, **settings)
    what = f"look at the table in {layout.warehouse}"
    with closing(catalog), Committer(catalog.engine).errors(what):
        there = inspect(catalog.engine).has_table(IcebergTables.__tablename__)
        if not (there and catalog.table_exists(TABLE_NAME)):
            return None
        return catalog.load_table(TABLE_NAME)


def _waiting(url: str) -> str:
    """The URL, told how long to wait for a lock and for a server."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        waits = {"timeout": str(LOCK_WAIT_S)}
    else:
        waits = {
            "connect_timeout": str(CONNECT_WAIT_S),
            "options": f"-c lock_timeout={int(LOCK_WAIT_S * 1000)}",
        }
    given = {name: value for name, value in waits.items() if name not in parsed.query}
    return parsed.update_query_dict(given).render_as_string(hide_password=False)


def open_table(catalog: SqlCatalog, schema: pa.Schema) -> Table:
    """The table of synthetic events, created when absent.

    Raises:
        DataError: it exists with another schema or layout, or S3 refuses.
        RetryLater: the database or S3 does not answer, or the disk is full.
        UsageError: writing is not allowed.
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
    if table.spec().fields:
        raise DataError(
            f"the table of synthetic events at {table.location()} is of an older version of SCALR, "
            "whose metadata tells of users; publish again with another data_dir"
        )
    return table


def _create_table(catalog: SqlCatalog, schema: pa.Schema) -> Table:
    iceberg_schema = _iceberg_schema(schema)
    return catalog.create_table_if_not_exists(
        TABLE_NAME,
        schema=iceberg_schema,
        properties={
            "commit.retry.num-retries": "0",
            "commit.manifest-merge.enabled": "true",  # a scan reads every manifest
            "schema.name-mapping.default": iceberg_schema.name_mapping.model_dump_json(),
            "write.metadata.delete-after-commit.enabled": "true",
            "write.metadata.previous-versions-max": str(_METADATA_VERSIONS),
            # Whole, so that the file of one batch is known to hold no other.
            "write.metadata.metrics.column.batch_id": "full",
            # What tells of a person stays out of the metadata, which outlives the rows.
            **{f"write.metadata.metrics.column.{name}": "counts" for name in PERSONAL_COLUMNS},
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
