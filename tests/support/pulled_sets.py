"""Small repositories whose training sets are pulled and saved, and what is asked of these."""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast_config import use_database
from lake_rows import NOON, event
from ledger_suite import add_translator

from scalr_ray import Scalr
from scalr_ray.core.config import IdTypes
from scalr_ray.core.events import event_schema, synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake
from scalr_ray.ledger import BatchState, Ledger
from training import build_mixed_dataset
from training.saved import erase_users

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
IDS = IdTypes()
START, LATER = datetime(2026, 1, 1, tzinfo=UTC), NOON + timedelta(days=30)
ROWS = 12
ERASED = "zoe-who-wants-to-be-gone"  # an id that no other byte of a file can be taken for


def user(slot: int) -> str:
    return ERASED if slot % 4 == 0 else f"u{slot % 4}"


def write_repo(repo: Path, database_url: str | None = None) -> Layout:
    """A repository with forty real events, of which ten are of the secret user."""
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    if database_url is not None:
        use_database(repo, database_url)
    layout = Layout.of(repo)
    real = [
        {
            "event_id": f"r{slot}",
            "user_id": user(slot),
            "item_id": f"i{slot % 11}",
            "domain": "target",
            "event_type": "click",
            "event_timestamp": NOON + timedelta(minutes=slot),
            "available_at": NOON + timedelta(minutes=slot),
            "value": 1.0,
        }
        for slot in range(40)
    ]
    part = layout.events("target_events") / "part-0.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(real, schema=event_schema("string", "string")), part)
    with Scalr(repo) as scalr:
        scalr.apply()
    return layout


@pytest.fixture(name="template", scope="module")
def template_fixture(tmp_path_factory) -> Path:
    """A repository on SQLite that tests copy the data of; its definitions name its own place."""
    repo = tmp_path_factory.mktemp("saved-sets") / "repo"
    write_repo(repo)
    return repo


@pytest.fixture(name="repo")
def repo_fixture(template):
    """The repository, as it was before any test; paths in its registry are absolute."""
    kept = template.with_name("kept")
    if not kept.exists():
        shutil.copytree(template / "data", kept)
    shutil.rmtree(template / "data")
    shutil.copytree(kept, template / "data")
    return template


@pytest.fixture(name="layout")
def layout_fixture(repo):
    return Layout.of(repo)


@pytest.fixture(name="store")
def store_fixture(repo):
    return open_store(repo)


_OPENED: list[Any] = []


def open_store(repo):
    from scalr_ray.offline_store import open_feature_store

    _OPENED.append(open_feature_store(repo))
    return _OPENED[-1]


@pytest.fixture(autouse=True)
def stores_are_closed():
    """Feast leaves connections to the garbage collector, which would warn in some later test."""
    yield
    from scalr_ray.offline_store.feature_store import close_feature_store

    while _OPENED:
        close_feature_store(_OPENED.pop())


def rows_of(batch_id: str, rows: int = ROWS) -> pa.Table:
    drawn = [
        event(batch_id, slot, item_id=f"i{slot}", domain="target", user_id=user(slot))
        for slot in range(rows)
    ]
    return pa.Table.from_pylist(drawn, schema=synthetic_event_schema("string", "string"))


def publish(layout: Layout, *batch_ids: str) -> None:
    with SyntheticEventLake.open(layout, IDS) as lake:
        for batch_id in batch_ids:
            lake.write_staged(batch_id, rows_of(batch_id))
            lake.publish(batch_id)


def build(store, **more):
    usual = {"service": "mixed_training_v1", "start": START, "end": LATER, "as_of": LATER}
    return build_mixed_dataset(store, **(usual | more))


def content(dataset) -> str:
    sink = pa.BufferOutputStream()
    pq.write_table(dataset.to_arrow(), sink)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def batches(dataset) -> set[str]:
    return set(dataset.manifest["batches"])


def traces(folder: Path, text: str) -> list[Path]:
    """The files in which the bytes of a text occur, hidden ones included."""
    return [
        path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()
    ]


def record_batches(layout: Layout, why: str = "", **states: BatchState) -> None:
    """What the ledger says of batches, by id: each has come to its state by way of all before."""
    steps = [BatchState.STAGED, BatchState.ACCEPTED, BatchState.PUBLISHED, BatchState.RETIRED]
    with Ledger(layout.database_url) as ledger:
        with ledger.running("generate", {}, "c", 0) as run:
            add_translator(ledger, "v1", run_id=run.run_id, train_cutoff=NOON)
            for batch_id in states:
                ledger.add_batch(
                    batch_id=batch_id,
                    run_id=run.run_id,
                    translator_version="v1",
                    as_of=NOON,
                    rows=ROWS,
                )
        for batch_id, state in states.items():
            for expected, to in pairwise(steps[: steps.index(state) + 1]):
                ledger.move_batch(batch_id, expected=expected, to=to, reason=why)


def erase(layout: Layout, *users: str, why: str = "they asked") -> dict[str, int]:
    with Ledger(layout.database_url) as ledger:
        return erase_users(layout, ledger, users, why)
