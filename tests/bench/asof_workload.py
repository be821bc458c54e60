"""The workloads of the as-of benches, written as Parquet."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    """So many entity rows asked of so many feature rows, both spread evenly over the users.

    Attributes:
        name: of the workload.
        entity_rows: rows that features are wanted for.
        feature_rows: rows of the history.
        users: keys.
        heavy: the share of both that belongs to one user instead.
        memory_limit: what DuckDB may use before it spills.
        only: the contenders that can be asked, where some cannot.
    """

    name: str
    entity_rows: int
    feature_rows: int
    users: int
    heavy: float = 0
    memory_limit: str = "4GB"
    only: tuple[str, ...] | None = None

    def scaled(self, scale: float) -> Workload:
        """The same shape, smaller: rows per user stay."""
        return replace(
            self,
            entity_rows=max(1, int(self.entity_rows * scale)),
            feature_rows=max(1, int(self.feature_rows * scale)),
            users=max(1, int(self.users * scale)),
        )


WORKLOADS = (
    Workload(name="many users", entity_rows=1_000_000, feature_rows=5_000_000, users=100_000),
    Workload(name="long histories", entity_rows=200_000, feature_rows=5_000_000, users=5_000),
    Workload(
        name="within 1 GB",
        entity_rows=1_000_000,
        feature_rows=50_000_000,
        users=100_000,
        memory_limit="1GB",
        only=("kernel", "ours-cut-off", "ours"),
    ),
)


def write_workload(workload: Workload, folder: Path) -> None:
    """Write `features.parquet`, `entities.parquet` and, as text, `memory_limit`.

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
        "user_id": _users(rng, workload, rows),
        "event_timestamp": pa.array(happened).cast(_TIME),
        "created": pa.array(happened + delay_us).cast(_TIME),
    }
    features |= {name: rng.random(rows) for name in FEATURES}
    pq.write_table(pa.table(features), folder / "features.parquet")
    asked = _START_US + rng.integers(0, _YEAR_US, workload.entity_rows)
    entities = {
        "user_id": _users(rng, workload, workload.entity_rows),
        "event_timestamp": pa.array(asked).cast(_TIME),
        "row": np.arange(workload.entity_rows),
    }
    pq.write_table(pa.table(entities), folder / "entities.parquet")
    (folder / "memory_limit").write_text(workload.memory_limit)


def _users(rng: np.random.Generator, workload: Workload, rows: int) -> np.ndarray:
    users = rng.integers(0, workload.users, rows)
    users[rng.random(rows) < workload.heavy] = 0
    return users
