"""Event logs of small worlds: one in which the source tells about the target, and one without."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from small_worlds import quantile_day

from scalr_ray.ingest import is_odd_user
from scalr_ray.simulate import World, WorldConfig

# A small catalogue drowns in many events of much weight.
SMALL_SETTINGS = (
    "generation.per_user=40",
    "weights.scales=[0.01]",
    "evaluation.bootstrap=200",
    "evaluation.seeds=2",
)


def planted_events(*, transfer: float = 1.0, users: int = 1000) -> pa.Table:
    """The events of a world that is quick to learn and, with transfer, clear in its answer."""
    return World.generate(
        WorldConfig(
            users=users,
            source_items=150,
            target_items=300,
            days=240,
            latent=4,
            genres=8,
            transfer=transfer,
            sharpness=6.0,
            overlap_frac=0.85,
            late_frac=0.3,
            source_events_per_user=30.0,
            target_events_per_user=30.0,
        )
    ).events


def with_integer_ids(events: pa.Table) -> pa.Table:
    """The same events under int64 ids."""
    for name in ("user_id", "item_id"):
        digits = pc.replace_substring_regex(events[name], r"\D", "")
        place = events.schema.get_field_index(name)
        events = events.set_column(place, name, digits.cast(pa.int64()))
    return events


def cut_of(events: pa.Table) -> datetime:
    """Midnight of the day by which 80 % of the target events have happened."""
    return quantile_day(events.filter(pc.equal(events["domain"], "target")), 0.8)


def with_newcomers(events: pa.Table) -> pa.Table:
    """The events without the target history of every other user: somebody to draw for."""
    cut = pa.scalar(cut_of(events), events.schema.field("event_timestamp").type)
    early = pc.and_(pc.equal(events["domain"], "target"), pc.less(events["event_timestamp"], cut))
    return events.filter(pc.invert(pc.and_(early, is_odd_user(events["user_id"]))))


def write_log(events: pa.Table, file: Path) -> Path:
    """The events as a Parquet file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(events, file)
    return file


def bytes_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content; folders count too.

    SQLite's `-shm` is left out, the scratch memory of whoever has the database open, and so is an
    empty `-wal`, which waits for who opens it next.
    """
    if not folder.exists():
        return {}
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
        if path.suffix != ".db-shm" and (path.suffix != ".db-wal" or path.stat().st_size)
    }
