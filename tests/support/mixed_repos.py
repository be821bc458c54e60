"""A repository to pull mixed training sets from, and a brute-force observer of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalr_ray.core.config import IdTypes
from scalr_ray.core.events import TIMESTAMP, WEIGHT_FACTORS, event_schema, synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake
from training import build_mixed_dataset

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
T0 = datetime(2026, 3, 1, tzinfo=UTC)
LAST = T0 + 12 * DAY
# Far from every other event, so that only the test that looks there meets what is wrong with it.
FAR = T0 + 400 * DAY


def happening(random, n):
    """A moment on a coarse grid, so that ties and equal bounds occur; half arrive late."""
    when = T0 + int(random.integers(0, 24)) * 12 * HOUR
    return when, when + int(random.integers(0, 5)) * 12 * HOUR * (n % 2)


def real_events():
    random = np.random.default_rng(1)
    rows = []
    for n in range(150):
        when, known = happening(random, n)
        rows.append(
            {
                # some ids come twice, as an event and its correction
                "event_id": f"r{n % 130}",
                "user_id": f"u{random.integers(6)}",
                "item_id": f"i{n}",
                "domain": "target",
                "event_type": "click",
                "event_timestamp": when,
                "available_at": known,
                "value": float(n),
            }
        )
    return rows


def synthetic_event(event_id, batch_id, when, known, **changes):
    return {
        "event_id": event_id,
        "user_id": "u1",
        "item_id": f"i-{event_id}",
        "domain": "target",
        "event_type": "synthetic",
        "event_timestamp": when,
        "available_at": known,
        "value": 1.0,
        "batch_id": batch_id,
        "translator_version": "v1",
        "train_cutoff": min(when, known),
        "likelihood": 0.25,
        "propensity": 0.5,
        "label": 1.0,
        "sample_weight": 0.5,
        **dict.fromkeys(WEIGHT_FACTORS, 1.0),
        "source_event_id": None,
        "generated_at": known,
        **changes,
    }


def synthetic_events(batch_id, count, seed):
    random = np.random.default_rng(seed)
    rows = [
        synthetic_event(f"{batch_id}-{n}", batch_id, *happening(random, n)) for n in range(count)
    ]
    for n, row in enumerate(rows):
        row["user_id"] = f"u{n % 8}"  # two of them have no real event
        row["source_event_id"] = f"s-{('books', 'films')[n % 3 % 2]}-{n % 2}"
    return rows


def user_snapshots():
    random = np.random.default_rng(4)
    moments = [(f"u{n % 6}", *happening(random, n)) for n in range(40)]
    return [
        {
            "user_id": user,
            "event_timestamp": when,
            "available_at": known,
            "source_events_7d": n,
            "source_events_30d": n,
            "source_events_90d": n,
            "source_events_total": n,
            "days_since_last_source_event": 1.0,
            "distinct_source_items": n,
            "last_source_items": ["x"],
        }
        for n, (user, when, known) in enumerate(moments)
    ]


def source_events():
    """Two of each domain, of which one becomes known days later."""
    return [
        {
            "event_id": f"s-{domain}-{late}",
            "user_id": "u1",
            "item_id": "x",
            "domain": domain,
            "event_type": "click",
            "event_timestamp": T0 - DAY,
            "available_at": T0 + late * 6 * DAY,
            "value": 1.0,
        }
        for domain in ("books", "films")
        for late in range(2)
    ]


REAL = real_events()
BATCHES = {"b1": synthetic_events("b1", 60, 2), "b2": synthetic_events("b2", 40, 3)}
SNAPSHOTS = user_snapshots()
SYNTHETIC_SCHEMA = synthetic_event_schema("string", "string")


def table(rows, schema=SYNTHETIC_SCHEMA):
    return pa.Table.from_pylist(rows, schema=schema)


def write_part(folder: Path, rows: pa.Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / "part-0.parquet")


@pytest.fixture(scope="module", name="repo")
def mixed_repo(tmp_path_factory) -> Path:
    repo = tmp_path_factory.mktemp("mixed") / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    layout = Layout.of(repo)
    layout.data.mkdir()
    far = {"event_timestamp": FAR, "available_at": FAR}
    real = [*REAL, REAL[0] | far | {"event_id": "far"}]
    write_part(layout.events("target_events"), table(real, event_schema("string", "string")))
    sources = table(source_events(), event_schema("string", "string"))
    write_part(layout.events("source_events"), sources)
    snapshots = pa.Table.from_pylist(SNAPSHOTS)
    for place, name in ((1, "event_timestamp"), (2, "available_at")):
        snapshots = snapshots.set_column(place, name, snapshots[name].cast(TIMESTAMP))
    write_part(layout.features("user_source_features"), snapshots)
    with SyntheticEventLake.open(layout, IdTypes()) as lake:
        # it says that it was known at once, but its translator had seen a week more
        forged = synthetic_event("forged", "b3", FAR, FAR, train_cutoff=FAR + 7 * DAY)
        for batch_id, rows in {**BATCHES, "b3": [forged]}.items():
            lake.write_staged(batch_id, table(rows))
            lake.publish(batch_id)
    applied = subprocess.run(
        [Path(sys.executable).parent / "feast", "apply"],
        cwd=repo,
        env=os.environ | {"FEAST_USAGE": "False"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert applied.returncode == 0, applied.stdout + applied.stderr
    return repo


@pytest.fixture(name="store")
def opened_store(repo):
    from scalr_ray.offline_store import open_feature_store

    return open_feature_store(repo)


def build(store, *, service="mixed_training_v1", start=T0, end=LAST, as_of=LAST, **more):
    return build_mixed_dataset(store, service=service, start=start, end=end, as_of=as_of, **more)


def ids(dataset, *, synthetic):
    return {
        row["event_id"]
        for row in dataset.to_arrow().to_pylist()
        if row["is_synthetic"] is synthetic
    }


def known_rows(rows, start, end, as_of):
    """What an observer at `as_of` holds for true, event by event."""
    latest = {}
    for row in rows:
        if row["event_timestamp"] < as_of and row["available_at"] <= as_of:
            version = (row["event_timestamp"], row["available_at"], row["item_id"])
            best = latest.get(row["event_id"])
            if best is None or version[:2] >= (best["event_timestamp"], best["available_at"]):
                latest[row["event_id"]] = row
    return {
        event_id: row for event_id, row in latest.items() if start <= row["event_timestamp"] < end
    }


def known_snapshot(user, when):
    visible = [
        row
        for row in SNAPSHOTS
        if row["user_id"] == user and row["event_timestamp"] <= when and row["available_at"] <= when
    ]
    best = max(
        visible,
        key=lambda row: (row["event_timestamp"], row["available_at"], row["source_events_7d"]),
        default={"source_events_7d": None},
    )
    return best["source_events_7d"]
