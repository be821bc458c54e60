"""What is particular to a SQLite catalog and local files."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lake_rows import IDS, NOON, SCHEMA, event, event_ids, events, layout_in
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitStateUnknownException
from sqlalchemy import create_engine

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError, RetryLater, StateUnknown
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake
from scalr_ray.lake.commits import Committer


@pytest.fixture
def layout(local_layout: Layout) -> Layout:
    return local_layout


def test_publishing_moves_and_rewrites_nothing(lake: SyntheticEventLake) -> None:
    path = Path(lake.write_staged("b1", events("b1", 4)))
    before = path.stat()
    lake.publish("b1")
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


PUBLISH = """
import sys
from pathlib import Path
from scalr_ray.core.config import IdTypes
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake
folder = Path(sys.argv[1])
ids = IdTypes(user_id="string", item_id="int64")
with SyntheticEventLake.open(Layout(repo=folder, data=folder / "data"), ids) as lake:
    print(lake.publish("b1").already_published)
"""


def test_processes_open_and_publish_at_once(tmp_path: Path) -> None:
    # The folder is of another lake: here each publisher opens, and makes, the table by itself.
    with SyntheticEventLake.open(layout_in(tmp_path / "other"), IDS) as other:
        other.write_staged("b1", events("b1", 4))
    staged = "data/warehouse/scalr/synthetic_events/data"
    shutil.copytree(tmp_path / "other" / staged, tmp_path / staged)
    command = [sys.executable, "-W", "error", "-c", PUBLISH, str(tmp_path)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = sorted(racer.communicate(timeout=120)[0].strip() for racer in racers)
    assert printed == ["False", "True", "True"]
    with SyntheticEventLake.open(layout_in(tmp_path), IDS) as lake:
        assert lake.read().num_rows == 4


def test_a_writer_waits_for_the_shared_database(layout: Layout, lake: SyntheticEventLake) -> None:
    lake.write_staged("b1", events("b1", 4))
    other = sqlite3.connect(layout.data / "scalr.db", isolation_level=None)
    other.execute("CREATE TABLE other (x)")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO other VALUES (1)")
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(lake.publish, "b1")
        with pytest.raises(TimeoutError):
            publishing.result(timeout=0.5)
        other.execute("COMMIT")
        assert publishing.result(timeout=60).rows == 4
    other.close()


def test_a_retry_finds_its_file_and_leaves_it(lake: SyntheticEventLake) -> None:
    first = lake.write_staged("b1", events("b1", 3))
    written = Path(first).stat().st_mtime_ns
    later = [event("b1", slot, generated_at=NOON + timedelta(days=1)) for slot in (2, 0, 1)]
    assert lake.write_staged("b1", pa.Table.from_pylist(later, schema=SCHEMA)) == first
    assert Path(first).stat().st_mtime_ns == written
    assert lake.staged_files("b1") == [first]


@pytest.mark.parametrize(
    "ids",
    [IdTypes(user_id=user, item_id=item) for user in ("string", "int64") for item in ("string",)],
)
def test_id_types_round_trip(layout: Layout, ids: IdTypes) -> None:
    schema = synthetic_event_schema(ids.user_id, ids.item_id)
    user = 7 if ids.user_id == "int64" else "ü7"
    rows = pa.Table.from_pylist([event("b1", 0, user_id=user, item_id="i")], schema=schema)
    with SyntheticEventLake.open(layout, ids) as lake:
        lake.write_staged("b1", rows)
        lake.publish("b1")
        assert lake.read().equals(rows)


def test_paths_with_odd_characters_work(tmp_path: Path) -> None:
    with SyntheticEventLake.open(layout_in(tmp_path / "a b#cä"), IDS) as lake:
        lake.write_staged("b1", events("b1", 2))
        lake.publish("b1")
        assert lake.read().num_rows == 2


def test_a_table_with_partitions_is_refused(layout: Layout) -> None:
    layout.data.mkdir()
    with closing(SqlCatalog("scalr", uri=layout.database_url, warehouse=layout.warehouse)) as older:
        older.create_namespace("scalr")
        table = older.create_table("scalr.synthetic_events", schema=SCHEMA)
        with table.update_spec() as spec:
            spec.add_identity("batch_id")
    with pytest.raises(DataError, match="is of an older version of SCALR"):
        SyntheticEventLake.open(layout, IDS)


def test_a_file_that_is_no_database_is_named(layout: Layout) -> None:
    layout.data.mkdir()
    (layout.data / "scalr.db").write_bytes(b"something else " * 100)
    with pytest.raises(DataError, match=r"cannot open .*scalr\.db: file is not a database"):
        SyntheticEventLake.open(layout, IDS)


instants = st.integers(-3, 3).map(lambda micros: NOON + timedelta(microseconds=micros))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    times=st.lists(st.tuples(instants, instants), min_size=1, max_size=8),
    cuts=st.lists(instants, min_size=1, max_size=4),
)
def test_as_of_keeps_what_was_known(
    tmp_path_factory: pytest.TempPathFactory,
    times: list[tuple[datetime, datetime]],
    cuts: list[datetime],
) -> None:
    rows = [
        event("b1", slot, event_timestamp=happened, available_at=known)
        for slot, (happened, known) in enumerate(times)
    ]
    with SyntheticEventLake.open(layout_in(tmp_path_factory.mktemp("lake")), IDS) as lake:
        lake.write_staged("b1", pa.Table.from_pylist(rows, schema=SCHEMA))
        lake.publish("b1")
        for cut in cuts:
            known = [
                row["event_id"]
                for row in rows
                if row["event_timestamp"] < cut and row["available_at"] <= cut
            ]
            assert event_ids(lake.read(as_of=cut)) == sorted(known)


def test_a_lost_answer_is_not_tried_again() -> None:
    calls = []

    def attempt() -> None:
        calls.append(1)
        raise CommitStateUnknownException("gateway timeout")

    with pytest.raises(StateUnknown, match="publish batch b1"):
        Committer(create_engine("sqlite://")).commit("publish batch b1", attempt)
    assert len(calls) == 1


def test_a_database_that_stays_locked_says_try_again(
    layout: Layout, lake: SyntheticEventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalr_ray.lake.catalog.LOCK_WAIT_S", 0.01)
    lake.write_staged("b1", events("b1", 2))
    other = sqlite3.connect(layout.data / "scalr.db", isolation_level=None)
    with SyntheticEventLake.open(layout, IDS) as impatient:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RetryLater, match="publish batch b1"):
            impatient.publish("b1")
        other.execute("COMMIT")
    other.close()
    assert lake.publish("b1").rows == 2
