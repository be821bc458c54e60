"""Events as feature views: one row per event, found by its id, never expiring."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from feast import FeatureView, Field
from feast.data_source import DataSource
from feast.types import Float64, Int64, PrimitiveFeastType, String, UnixTimestamp

from scalr_ray.core.config import load_config
from scalr_ray.core.events import (
    AVAILABLE_AT,
    EVENT_TIMESTAMP,
    TIMESTAMP,
    event_schema,
    synthetic_event_schema,
)

if TYPE_CHECKING or __package__:
    from .entities import event
    from .sources import source_events_source, synthetic_events_source, target_events_source
else:
    from entities import event
    from sources import source_events_source, synthetic_events_source, target_events_source

_FEAST_TYPES: dict[pa.DataType, PrimitiveFeastType] = {
    pa.string(): String,
    pa.int64(): Int64,
    pa.float64(): Float64,
    TIMESTAMP: UnixTimestamp,
}
_ids = load_config(Path(__file__).parent).ids


def _event_view(
    name: str, source: DataSource, schema: pa.Schema, description: str, tags: dict[str, str]
) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[event],
        ttl=timedelta(0),
        schema=[
            Field(name=field.name, dtype=_FEAST_TYPES[field.type])
            for field in schema
            if field.name not in {EVENT_TIMESTAMP, AVAILABLE_AT}
        ],
        source=source,
        online=False,
        description=description,
        tags=tags,
    )


source_events = _event_view(
    "source_events",
    source_events_source,
    event_schema(_ids.user_id, _ids.item_id),
    "What users did in the source domains.",
    {"domain": "source", "kind": "real"},
)

target_events = _event_view(
    "target_events",
    target_events_source,
    event_schema(_ids.user_id, _ids.item_id),
    "What users did in the target domain.",
    {"domain": "target", "kind": "real"},
)

synthetic_events = _event_view(
    "synthetic_events",
    synthetic_events_source,
    synthetic_event_schema(_ids.user_id, _ids.item_id),
    "What users would likely do in the target domain, translated from what they did elsewhere.",
    {"domain": "target", "kind": "synthetic"},
)
