"""Readers pull training sets while others publish and retire: each read is one snapshot."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast_config import use_database
from fresh_processes import in_parallel
from lake_rows import NOON, event
from marks import OPENS_FEAST

from scalr_ray import Scalr
from scalr_ray.core.config import IdTypes
from scalr_ray.core.events import event_schema, synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake

pytestmark = OPENS_FEAST

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
IDS = IdTypes()
_TIMES = int(os.environ.get("SCALR_TEST_LOAD", "1"))  # `make load` takes more
READERS, PULLS = 20, 3 * _TIMES
PUBLISHERS, EACH = 4, 6 * _TIMES
ROWS = 40
LATER = NOON + timedelta(days=30)


def batch_of(publisher: int, number: int) -> str:
    return f"batch-{publisher}-{number}"


def make_repo(folder: Path, database_url: str | None) -> Path:
    """A repository with a few real events, and batches that wait to be published."""
    repo = folder / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    if database_url is not None:
        use_database(repo, database_url)
    layout = Layout.of(repo)
    real = [
        {
            "event_id": f"r{number}",
            "user_id": f"u{number % 7}",
            "item_id": f"i{number % 11}",
            "domain": "target",
            "event_type": "click",
            "event_timestamp": NOON + timedelta(minutes=number),
            "available_at": NOON + timedelta(minutes=number),
            "value": 1.0,
        }
        for number in range(50)
    ]
    part = layout.events("target_events") / "part-0.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(real, schema=event_schema("string", "string")), part)
    with SyntheticEventLake.open(layout, IDS) as lake:
        for publisher in range(PUBLISHERS):
            for number in range(EACH):
                lake.write_staged(batch_of(publisher, number), rows_of(batch_of(publisher, number)))
    with Scalr(repo) as scalr:
        scalr.apply()
    return repo


def rows_of(batch_id: str) -> pa.Table:
    rows = [event(batch_id, slot, item_id=f"i{slot}", domain="target") for slot in range(ROWS)]
    return pa.Table.from_pylist(rows, schema=synthetic_event_schema("string", "string"))


def publish(repo: Path, publisher: int) -> None:
    with SyntheticEventLake.open(Layout.of(repo), IDS) as lake:
        for number in range(EACH):
            lake.publish(batch_of(publisher, number))


def retire(repo: Path, publisher: int) -> int:
    """Take back every second batch of a publisher as it appears; how many."""
    wanted = {batch_of(publisher, number) for number in range(0, EACH, 2)}
    deadline = time.monotonic() + 240 * _TIMES
    retired = 0
    with SyntheticEventLake.open(Layout.of(repo), IDS) as lake:
        while wanted and time.monotonic() < deadline:
            for batch_id in sorted(wanted & lake.published_batches().keys()):
                lake.retire(batch_id)
                wanted.remove(batch_id)
                retired += 1
            time.sleep(0.05)
    return retired


def pull(repo: Path, _reader: int) -> list[tuple[int | None, dict[str, int]]]:
    """Snapshot and rows by batch of each of some training sets."""
    from scalr_ray.offline_store import open_feature_store
    from scalr_ray.offline_store.feature_store import close_feature_store
    from training import build_mixed_dataset

    seen = []
    for _ in range(PULLS):
        store = open_feature_store(repo)
        dataset = build_mixed_dataset(
            store,
            service="mixed_training_v1",
            start=datetime(2026, 1, 1, tzinfo=UTC),
            end=LATER,
            as_of=LATER,
        )
        rows = dataset.to_arrow()
        batches = Counter(batch for batch in rows["batch_id"].to_pylist() if batch is not None)
        seen.append((dataset.manifest["snapshot_id"], dict(batches)))
        close_feature_store(store)  # a server has so many connections, and no more
    return seen


def test_twenty_readers_four_publishers_and_one_who_retires(tmp_path, database_url):
    repo = make_repo(tmp_path, database_url)
    calls = [(publish, (repo, publisher)) for publisher in range(PUBLISHERS)]
    calls += [(retire, (repo, 0))]
    calls += [(pull, (repo, reader)) for reader in range(READERS)]
    answers = in_parallel(calls)
    assert answers[PUBLISHERS] == EACH // 2
    reads = [read for reader in answers[PUBLISHERS + 1 :] for read in reader]
    assert len(reads) == READERS * PULLS
    # They really ran beside each other.
    assert len({snapshot for snapshot, _ in reads}) > 3
    with SyntheticEventLake.open(Layout.of(repo), IDS) as lake:
        everything = {batch_of(one, two) for one in range(PUBLISHERS) for two in range(EACH)}
        assert lake.published_batches().keys() == everything - {
            batch_of(0, number) for number in range(0, EACH, 2)
        }
        for snapshot, batches in reads:
            held = set() if snapshot is None else held_by(lake, snapshot)
            assert batches == dict.fromkeys(held, ROWS)


def held_by(lake: SyntheticEventLake, snapshot: int) -> set[str]:
    return set(lake.read(snapshot_id=snapshot, columns=("batch_id",))["batch_id"].to_pylist())
