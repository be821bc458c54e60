"""Features as of a time: snapshots stamped strictly after the last event they include."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from feast import FeatureView, Field
from feast.types import Array, Float64, Int64, String

from scalr_ray.core.config import load_config

if TYPE_CHECKING or __package__:
    from .entities import item, user
    from .sources import item_popularity_source, user_source_features_source
else:
    from entities import item, user
    from sources import item_popularity_source, user_source_features_source

_item_id = {"string": String, "int64": Int64}[load_config(Path(__file__).parent).ids.item_id]

user_source_features = FeatureView(
    name="user_source_features",
    entities=[user],
    ttl=timedelta(0),
    schema=[
        Field(name="source_events_7d", dtype=Int64, description="Events in the last 7 days."),
        Field(name="source_events_30d", dtype=Int64, description="Events in the last 30 days."),
        Field(name="source_events_90d", dtype=Int64, description="Events in the last 90 days."),
        Field(name="source_events_total", dtype=Int64, description="Events so far."),
        Field(
            name="days_since_last_source_event",
            dtype=Float64,
            description="Age in days of the newest event at the time of the snapshot.",
        ),
        Field(name="distinct_source_items", dtype=Int64, description="Different items so far."),
        Field(
            name="last_source_items",
            dtype=Array(_item_id),
            description="Newest items, newest first.",
        ),
    ],
    source=user_source_features_source,
    online=False,
    description="How much, how recently and with what a user was active in the source domains.",
    tags={"domain": "source", "kind": "real"},
)

item_popularity = FeatureView(
    name="item_popularity",
    entities=[item],
    ttl=timedelta(0),
    schema=[
        Field(name="target_events_7d", dtype=Int64, description="Events in the last 7 days."),
        Field(name="target_events_30d", dtype=Int64, description="Events in the last 30 days."),
        Field(name="target_events_90d", dtype=Int64, description="Events in the last 90 days."),
        Field(name="target_events_total", dtype=Int64, description="Events so far."),
        Field(
            name="days_since_last_target_event",
            dtype=Float64,
            description="Age in days of the newest event at the time of the snapshot.",
        ),
    ],
    source=item_popularity_source,
    online=False,
    description="How popular an item is in the target domain, and how recently.",
    tags={"domain": "target", "kind": "real"},
)
