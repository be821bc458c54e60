"""Synthetic events for tests of the lake: numbered slots of a batch, and where they go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from scalr_ray.core.config import IdTypes
from scalr_ray.core.events import WEIGHT_FACTORS, synthetic_event_schema
from scalr_ray.core.layout import Layout

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
IDS = IdTypes(user_id="string", item_id="int64")
SCHEMA = synthetic_event_schema("string", "int64")


def event(batch_id: str, slot: int, **changes: object) -> dict[str, object]:
    return {
        "event_id": f"{batch_id}/{slot}",
        "user_id": f"u{slot % 3}",
        "item_id": slot,
        "domain": "food",
        "event_type": None,
        "event_timestamp": NOON + timedelta(minutes=slot),
        "available_at": NOON + timedelta(hours=1),
        "value": 1.0,
        "batch_id": batch_id,
        "translator_version": "v1",
        "train_cutoff": NOON,
        "likelihood": 0.5,
        "propensity": 0.5,
        "label": 1.0,
        "sample_weight": 0.1,
        **dict.fromkeys(WEIGHT_FACTORS, 1.0),
        "source_event_id": None,
        "generated_at": NOON + timedelta(hours=2),
        **changes,
    }


def events(batch_id: str, count: int, *, first: int = 0, schema: pa.Schema = SCHEMA) -> pa.Table:
    slots = range(first, first + count)
    return pa.Table.from_pylist([event(batch_id, slot) for slot in slots], schema=schema)


def layout_in(folder: Path) -> Layout:
    return Layout(repo=folder, data=folder / "data")


def event_ids(table: pa.Table) -> list[str]:
    return sorted(table.column("event_id").to_pylist())


def slots(batch_id: str, count: int) -> list[str]:
    return sorted(f"{batch_id}/{slot}" for slot in range(count))
