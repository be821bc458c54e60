"""The Amazon logs, cut by the protocol of the README: what is known, and whom it is tested on.

Odd users lose their target history before the cut, repeated (user, item) pairs count once, and both
cuts are quantiles of the target domain's event times, floored to the day, or both at earlier
quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scalr_ray.core.clock import floor_day, from_micros
from scalr_ray.core.events import TIMESTAMP, event_schema
from scalr_ray.jobs.arms import Holdout, holdout
from scalr_ray.learn import TrainingEvents

DIRECTIONS = (
    ("amazon2014_beauty_electronics", "electronics", "beauty"),
    ("amazon2014_food_kitchen", "kitchen", "food"),
    ("amazon2014_food_kitchen", "food", "kitchen"),
    ("amazon2014_beauty_electronics", "beauty", "electronics"),
)
# The test cut stands at the first of these quantiles, unless it is moved; validation at the next.
CUTS = (0.80, 0.65, 0.50, 0.35, 0.20)
DOMAINS = {"beauty", "electronics", "food", "kitchen"}


@dataclass(frozen=True, kw_only=True)
class Split:
    """One direction, cut: what is known, and whom it is tested on."""

    events: TrainingEvents
    validation_cut: datetime
    cut: datetime
    test: Holdout


def read_split(
    data: Path, name: str, sources: Sequence[str], target: str, *, windows_back: int = 0
) -> Split:
    """Cut one direction by the protocol, or so many windows before it.

    Moved back, the test ends where the cut stood one window later; what came then is not seen.
    """
    folders = [data / name] if len(sources) == 1 else sorted(data.glob("amazon2014_*"))
    table = pa.concat_tables([pq.read_table(folder / "events.parquet") for folder in folders])
    table = as_events(table)
    source = table.filter(pc.is_in(table["domain"], pa.array(list(sources))))
    targets = first_pairs(table.filter(pc.equal(table["domain"], target)))
    times = targets["event_timestamp"].cast(pa.int64()).to_numpy()
    days = [floor_day(from_micros(int(np.quantile(times, quantile)))) for quantile in CUTS]
    cut, validation_cut = days[windows_back : windows_back + 2]
    if windows_back:
        end = pa.scalar(days[windows_back - 1], TIMESTAMP)
        targets = targets.filter(pc.less(targets["event_timestamp"], end))
    odd = pa.array(targets["user_id"].to_numpy() % 2 == 1)
    return split_of(source, targets, odd, cut=cut, validation_cut=validation_cut)


def split_of(
    source: pa.Table, target: pa.Table, odd: pa.Array, *, cut: datetime, validation_cut: datetime
) -> Split:
    """Cut two domains; target events of `odd` (N,) users before the cut are not known."""
    before = pc.less(target["event_timestamp"], pa.scalar(cut, TIMESTAMP))
    known = target.filter(pc.and_(before, pc.invert(odd)))
    source = source.filter(pc.less(source["event_timestamp"], pa.scalar(cut, TIMESTAMP)))
    events = TrainingEvents.of(source, known)
    later = target.filter(pc.invert(before))
    test = holdout(
        events,
        events.users.codes(later["user_id"]),
        events.target_items.codes(later["item_id"]),
    )
    return Split(events=events, validation_cut=validation_cut, cut=cut, test=test)


def as_events(table: pa.Table) -> pa.Table:
    """The columns of an event; what happened was known at once."""
    schema = event_schema("int64", "int64")
    ids = pa.array([f"e{at:07d}" for at in range(table.num_rows)])
    table = table.append_column("event_id", ids)
    table = table.append_column("available_at", table["event_timestamp"])
    table = table.append_column("value", pa.nulls(table.num_rows, pa.float64()))
    if "event_type" not in table.column_names:
        table = table.append_column("event_type", pa.nulls(table.num_rows, pa.string()))
    return table.select(schema.names).cast(schema)


def first_pairs(table: pa.Table) -> pa.Table:
    """The first event of each (user, item) pair."""
    times = table["event_timestamp"].cast(pa.int64()).to_numpy()
    order = np.argsort(times, kind="stable")
    users, items = table["user_id"].to_numpy()[order], table["item_id"].to_numpy()[order]
    _, first = np.unique(np.stack([users, items]), axis=1, return_index=True)
    return table.take(pa.array(order[np.sort(first)]))
