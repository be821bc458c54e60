"""The two workloads of the as-of bench, written as Parquet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEATURES = ("f0", "f1", "f2", "f3")
TTL = timedelta(days=90)
_TIME = pa.timestamp("us", tz="UTC")
_YEAR_US = 365 * 86_400_000_000
_START_US = 1_735_689_600_000_000  # 2025-01-01


@dataclass(frozen=True, kw_only=True)
class Workload:
    """So many entity rows asked of so many feature rows, both spread evenly over the users."""

    name: str
    entity_rows: int
    feature_rows: int
    users: int

    def scaled(self, scale: float) -> Workload:
        """The same shape, smaller: rows per user stay."""
        return Workload(
            name=self.name,
            entity_rows=max(1, int(self.entity_rows * scale)),
            feature_rows=max(1, int(self.feature_rows * scale)),
            users=max(1, int(self.users * scale)),
        )


WORKLOADS = (
    Workload(name="many users", entity_rows=1_000_000, feature_rows=5_000_000, users=100_000),
    Workload(name="long histories", entity_rows=200_000, feature_rows=5_000_000, users=5_000),
)


def write_workload(workload: Workload, folder: Path) -> None:
    """Write `features.parquet` and `entities.parquet`.

    A year of rows in random order; nine in ten are recorded within the hour, the others within 30
    days. Entity rows lie in the same year.
    """
    rng = np.random.default_rng(7)
    rows = workload.feature_rows
    happened = _START_US + rng.integers(0, _YEAR_US, rows)
    delay_us = rng.integers(0, 3_600_000_000, rows)
    late = rng.random(rows) < 0.1
    delay_us[late] = rng.integers(0, 30 * 86_400_000_000, late.sum())
    features = {
        "user_id": rng.integers(0, workload.users, rows),
        "event_timestamp": pa.array(happened).cast(_TIME),
        "created": pa.array(happened + delay_us).cast(_TIME),
    }
    features |= {name: rng.random(rows) for name in FEATURES}
    pq.write_table(pa.table(features), folder / "features.parquet")
    asked = _START_US + rng.integers(0, _YEAR_US, workload.entity_rows)
    entities = {
        "user_id": rng.integers(0, workload.users, workload.entity_rows),
        "event_timestamp": pa.array(asked).cast(_TIME),
        "row": np.arange(workload.entity_rows),
    }
    pq.write_table(pa.table(entities), folder / "entities.parquet")
