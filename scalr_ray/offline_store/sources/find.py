"""From a Feast data source to its rows, columns and types, whatever kind of source it is."""

from __future__ import annotations

import pyarrow as pa
from feast.data_source import DataSource
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

from scalr_ray.core.errors import DataError
from scalr_ray.offline_store.sources.files import file_rows, file_schema
from scalr_ray.offline_store.sources.iceberg import iceberg_columns, iceberg_rows, iceberg_schema
from scalr_ray.offline_store.sources.paths import may_be_absent
from scalr_ray.offline_store.sources.postgres import postgres_rows, postgres_schema
from scalr_ray.offline_store.sources.postgres_types import feast_columns
from scalr_ray.offline_store.sources.reading import (
    Access,
    Reading,
    SourceRows,
    missing_columns,
    no_time,
)


def find_rows(source: DataSource, reading: Reading, access: Access) -> SourceRows | None:
    """The rows of `source` that `reading` asks for; None when it has no data yet.

    Raises:
        DataError: a single file or a table of PostgreSQL is gone, a file is corrupt, a column is
            missing or no time.
        RetryLater: a server cannot be reached.
        UsageError: the kind of source is not supported.
    """
    if isinstance(source, IcebergSource):
        return iceberg_rows(source, reading, access)
    if isinstance(source, PostgreSQLSource):
        return postgres_rows(source, reading, access)
    return file_rows(source, reading, access)


def source_schema(source: DataSource, access: Access) -> pa.Schema | None:
    """The Arrow schema of `source` as it lies in storage, or None when it has no data yet.

    Raises:
        DataError: it is there but cannot be read.
        UsageError: the kind of source is not supported.
    """
    if isinstance(source, IcebergSource):
        return iceberg_schema(source, access)
    if isinstance(source, PostgreSQLSource):
        return postgres_schema(source, access)
    return file_schema(source, access)


def source_columns(source: DataSource, access: Access) -> list[tuple[str, str]] | None:
    """Name and type of each column, the type as Feast infers from it; None without data yet.

    Raises:
        DataError: it is there but cannot be read.
        UsageError: the kind of source is not supported.
    """
    if isinstance(source, IcebergSource):
        return iceberg_columns(source, access)
    schema = source_schema(source, access)
    if schema is None:
        return None
    if isinstance(source, PostgreSQLSource):
        return feast_columns(schema)
    return [(field.name, str(field.type)) for field in schema]


def check_source(source: DataSource, access: Access) -> None:
    """Check that `source` has its time columns, if it has any data yet.

    Raises:
        DataError: a time column is missing or is no time, or the source cannot be read.
        UsageError: the kind of source is not supported.
    """
    in_files = not isinstance(source, IcebergSource | PostgreSQLSource)
    if in_files and may_be_absent(source, access):
        return
    schema = source_schema(source, access)
    if schema is None:
        return
    original = {shown: column for column, shown in source.field_mapping.items()}
    for time in filter(None, (source.timestamp_field, source.created_timestamp_column)):
        column = original.get(time, time)
        if column not in schema.names:
            raise DataError(missing_columns(source, [column], schema.names))
        if not pa.types.is_temporal(schema.field(column).type):
            raise DataError(no_time(source, column, str(schema.field(column).type)))
