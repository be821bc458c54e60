"""Small event logs as files, and what a folder holds byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalr_ray.core.config import IdTypes
from scalr_ray.core.layout import Layout
from scalr_ray.ingest import EventLog, read_event_log

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOURCE, TARGET = "books", "films"
TIME = pa.timestamp("us", tz="UTC")

TYPES: dict[str, pa.DataType] = {
    "user_id": pa.string(),
    "item_id": pa.string(),
    "domain": pa.string(),
    "event_timestamp": TIME,
    "event_type": pa.string(),
    "available_at": TIME,
    "value": pa.float64(),
}


def row(slot: int = 0, **changes: object) -> dict[str, object]:
    """A sound event; even slots lie in the source domain, odd ones in the target domain."""
    return {
        "user_id": f"u{slot // 2 % 3}",
        "item_id": f"i{slot}",
        "domain": TARGET if slot % 2 else SOURCE,
        "event_timestamp": NOON + timedelta(hours=slot),
        **changes,
    }


def sound_rows(count: int = 8) -> list[dict[str, object]]:
    return [row(slot) for slot in range(count)]


def table_of(
    rows: Sequence[Mapping[str, object]], types: Mapping[str, pa.DataType] | None = None
) -> pa.Table:
    known = TYPES | dict(types or {})
    names = list(dict.fromkeys(name for entry in rows for name in entry))
    columns = {
        name: pa.array([entry.get(name) for entry in rows], known.get(name)) for name in names
    }
    return pa.table(columns)


def log_file(
    folder: Path,
    rows: Sequence[Mapping[str, object]] | None = None,
    types: Mapping[str, pa.DataType] | None = None,
    name: str = "log.parquet",
) -> Path:
    file = folder / name
    pq.write_table(table_of(sound_rows() if rows is None else rows, types), file)
    return file


def read(file: Path, **changes: Any) -> EventLog:
    asked: dict[str, Any] = {"ids": None, "source": [SOURCE], "target": TARGET}
    return read_event_log(file, **(asked | changes))


def strings() -> IdTypes:
    return IdTypes(user_id="string", item_id="string")


def layout_in(folder: Path) -> Layout:
    return Layout(repo=folder, data=folder / "data")


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }
