"""Where the rows lie: Parquet folders for observations, an Iceberg table for synthetic events.

All carry two clocks: `event_timestamp`, when it happened, and `available_at`, when the system could
have known it. Paths are absolute, because Feast and DuckDB resolve relative ones against the
working directory. None of them needs to exist before its first event.
"""

from __future__ import annotations

from pathlib import Path

from feast import FileSource
from feast.data_format import ParquetFormat
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP
from scalr_ray.core.layout import ICEBERG_CATALOG, ICEBERG_NAMESPACE, ICEBERG_TABLE, Layout

_layout = Layout.of(Path(__file__).parent)


def _parquet(name: str, folder: Path, description: str) -> FileSource:
    return FileSource(
        name=name,
        path=_layout.glob(folder),
        file_format=ParquetFormat(),
        timestamp_field=EVENT_TIMESTAMP,
        created_timestamp_column=AVAILABLE_AT,
        description=description,
    )


source_events_source = _parquet(
    "source_events_source", _layout.events("source_events"), "Observed source-domain events."
)

target_events_source = _parquet(
    "target_events_source", _layout.events("target_events"), "Observed target-domain events."
)

user_source_features_source = _parquet(
    "user_source_features_source",
    _layout.features("user_source_features"),
    "Snapshots of a user's source-domain history, stamped after the last event they include.",
)

item_popularity_source = _parquet(
    "item_popularity_source",
    _layout.features("item_popularity"),
    "Snapshots of an item's target-domain history, stamped after the last event they include.",
)

synthetic_events_source = IcebergSource(
    name="synthetic_events_source",
    catalog_type="sql",
    catalog_name=ICEBERG_CATALOG,
    warehouse=_layout.warehouse_uri,
    namespace=ICEBERG_NAMESPACE,
    table=ICEBERG_TABLE,
    catalog_properties={"uri": _layout.database_url},
    timestamp_field=EVENT_TIMESTAMP,
    created_timestamp_column=AVAILABLE_AT,
    description="Published synthetic events; one commit per batch.",
)
