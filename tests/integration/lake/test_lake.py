"""The lake on real Iceberg tables: on SQLite and PostgreSQL, on local disk and in S3."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lake_rows import IDS, NOON, SCHEMA, event_ids, events, slots
from pyiceberg.catalog import load_catalog

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake


def test_an_empty_lake_reads_as_an_empty_table(lake: SyntheticEventLake) -> None:
    assert lake.current_snapshot_id() is None
    assert lake.published_batches() == {}
    assert lake.read().num_rows == 0
    assert lake.read().schema.equals(SCHEMA)


def test_staged_events_are_invisible_until_published(lake: SyntheticEventLake) -> None:
    lake.write_staged("b1", events("b1", 4))
    assert lake.read().num_rows == 0
    assert lake.published_batches() == {}

    batch = lake.publish("b1")

    assert (batch.rows, batch.already_published) == (4, False)
    assert batch.snapshot_id == lake.current_snapshot_id()
    assert abs(batch.committed_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert event_ids(lake.read()) == slots("b1", 4)


def test_staged_files_of_a_crash_stay_invisible_and_can_be_published_later(layout: Layout) -> None:
    with SyntheticEventLake.open(layout, IDS) as first:
        first.write_staged("b1", events("b1", 4))
    with SyntheticEventLake.open(layout, IDS) as second:
        assert second.read().num_rows == 0
        assert second.publish("b1").rows == 4


def test_publishing_again_commits_nothing(lake: SyntheticEventLake) -> None:
    lake.write_staged("b1", events("b1", 4))
    first = lake.publish("b1")
    second = lake.publish("b1")
    assert second.already_published
    assert (second.rows, second.snapshot_id) == (first.rows, first.snapshot_id)
    assert second.committed_at == first.committed_at
    assert lake.current_snapshot_id() == first.snapshot_id
    assert lake.read().num_rows == 4


def test_each_batch_remembers_the_commit_that_published_it(lake: SyntheticEventLake) -> None:
    published = {}
    for batch_id, rows in (("b1", 3), ("b2", 5)):
        lake.write_staged(batch_id, events(batch_id, rows))
        published[batch_id] = lake.publish(batch_id)
    assert lake.published_batches() == published
    assert [batch.rows for batch in published.values()] == [3, 5]


@pytest.mark.parametrize("racers", [2, 6])
def test_publishers_of_one_batch_race_to_one_commit(layout: Layout, racers: int) -> None:
    start = Barrier(racers)

    def publish(lake: SyntheticEventLake) -> bool:
        start.wait()
        return lake.publish("b1").already_published

    lakes = [SyntheticEventLake.open(layout, IDS) for _ in range(racers)]
    lakes[0].write_staged("b1", events("b1", 4))
    with ThreadPoolExecutor(racers) as pool:
        already = list(pool.map(publish, lakes))
    assert already.count(False) == 1
    assert event_ids(lakes[0].read()) == slots("b1", 4)
    for lake in lakes:
        lake.close()


def test_who_is_overtaken_after_looking_finds_the_batch_published(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SyntheticEventLake.open(layout, IDS) as slow, SyntheticEventLake.open(layout, IDS) as fast:
        slow.write_staged("b1", events("b1", 4))
        look, looked = slow._load, [slow._load()]  # before the other publishes
        fast.publish("b1")
        monkeypatch.setattr(slow, "_load", lambda: looked.pop() if looked else look())
        assert slow.publish("b1").already_published
        assert event_ids(slow.read()) == slots("b1", 4)


def test_publishers_of_different_batches_all_win(lake: SyntheticEventLake) -> None:
    names = [f"b{number}" for number in range(4)]
    for name in names:
        lake.write_staged(name, events(name, 2))
    with ThreadPoolExecutor(len(names)) as pool:
        results = list(pool.map(lake.publish, names))
    assert not any(result.already_published for result in results)
    assert sorted(lake.published_batches()) == names
    assert lake.read().num_rows == 8


def test_a_pinned_snapshot_outlives_retirement(lake: SyntheticEventLake) -> None:
    for batch_id in ("b1", "b2"):
        lake.write_staged(batch_id, events(batch_id, 3))
        lake.publish(batch_id)
    pinned = lake.current_snapshot_id()

    lake.retire("b1")

    assert list(lake.published_batches()) == ["b2"]
    assert event_ids(lake.read()) == slots("b2", 3)
    assert event_ids(lake.read(snapshot_id=pinned)) == slots("b1", 3) + slots("b2", 3)


def test_retiring_is_one_commit(layout: Layout, lake: SyntheticEventLake) -> None:
    lake.write_staged("b1", events("b1", 3))
    lake.write_staged("b1", events("b1", 3, first=3))
    lake.publish("b1")
    lake.retire("b1")
    catalog = stock_catalog(layout)
    summaries = [
        snapshot.summary.additional_properties
        for snapshot in catalog.load_table("scalr.synthetic_events").metadata.snapshots
    ]
    catalog.close()
    assert len(summaries) == 2
    assert summaries[0]["scalr.batch_id"] == "b1"
    assert summaries[1]["scalr.retired_batch_id"] == "b1"


def test_what_is_not_published_cannot_be_retired(lake: SyntheticEventLake) -> None:
    lake.write_staged("b1", events("b1", 3))
    with pytest.raises(DataError, match="not published"):
        lake.retire("b1")


def test_a_retired_batch_cannot_come_back(lake: SyntheticEventLake) -> None:
    lake.write_staged("b1", events("b1", 3))
    lake.publish("b1")
    lake.retire("b1")
    with pytest.raises(UsageError, match="was retired"):
        lake.publish("b1")
    assert lake.read().num_rows == 0


def test_discarding_removes_staged_files_only(lake: SyntheticEventLake) -> None:
    lake.write_staged("b1", events("b1", 2))
    lake.write_staged("b1", events("b1", 2, first=2))
    lake.write_staged("b2", events("b2", 2))
    lake.publish("b2")
    assert lake.discard("b1") == 2
    assert lake.staged_files("b1") == []
    assert lake.discard("b1") == 0
    with pytest.raises(UsageError, match="has been published"):
        lake.discard("b2")
    lake.retire("b2")
    with pytest.raises(UsageError, match="has been published"):
        lake.discard("b2")
    assert lake.read(snapshot_id=lake.current_snapshot_id()).num_rows == 0


def test_a_published_batch_cannot_grow(lake: SyntheticEventLake) -> None:
    lake.write_staged("b1", events("b1", 3))
    lake.publish("b1")
    with pytest.raises(UsageError, match="has been published"):
        lake.write_staged("b1", events("b1", 1, first=3))


def test_half_written_files_do_not_count(lake: SyntheticEventLake, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / ".half.parquet").write_bytes(b"PAR1")
    assert lake.stage("b1", folder) == 0
    assert lake.staged_files("b1") == []
    with pytest.raises(DataError, match="holds no events"):
        lake.publish("b1")


def test_files_of_other_writers_are_read_with_the_schema(
    lake: SyntheticEventLake, tmp_path: Path
) -> None:
    large = pa.schema(
        field.with_type(pa.large_string()) if field.type == pa.string() else field
        for field in SCHEMA
    )
    folder = tmp_path / "made"
    folder.mkdir()
    pq.write_table(events("b1", 2).cast(large), folder / "0_000000_000000.parquet")
    pq.write_table(events("b1", 2, first=2).select(SCHEMA.names[::-1]), folder / "1.parquet")
    pq.write_table(events("b1", 0), folder / "2.parquet")
    assert lake.stage("b1", folder) == 4

    staged = lake.read_staged("b1")
    assert staged.schema.equals(SCHEMA)
    assert event_ids(staged) == slots("b1", 4)
    assert lake.publish("b1").rows == 4
    assert lake.read().schema.equals(SCHEMA)
    assert event_ids(lake.read()) == slots("b1", 4)


@pytest.mark.parametrize("batch_id", ["", "../b1", "a/b", ".b", "b=1", "x" * 129])
def test_batch_ids_name_a_folder(lake: SyntheticEventLake, batch_id: str) -> None:
    for call in (lake.read_staged, lake.staged_files, lake.publish, lake.discard):
        with pytest.raises(UsageError, match="cannot name a folder"):
            call(batch_id)


def test_long_batch_ids_that_begin_alike_stay_apart(lake: SyntheticEventLake) -> None:
    names = ["b" * 100 + end for end in ("1", "2")]
    for name in names:
        lake.write_staged(name, events(name, 2))
        lake.publish(name)
    lake.retire(names[0])
    assert event_ids(lake.read()) == slots(names[1], 2)


def test_a_table_with_other_id_types_is_refused(layout: Layout, lake: SyntheticEventLake) -> None:
    lake.write_staged("b1", events("b1", 2))
    lake.publish("b1")
    with pytest.raises(DataError, match=r"'item_id' is int64, not string; set `ids`"):
        SyntheticEventLake.open(layout, IdTypes())
    assert lake.read().num_rows == 2


def stock_catalog(layout: Layout):
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3", "")
    return load_catalog(
        "scalr",
        type="sql",
        uri=layout.database_url,
        warehouse=layout.warehouse,
        **{"s3.endpoint": endpoint, "s3.region": "us-east-1"},
    )


def test_a_stock_reader_sees_published_rows_only(layout: Layout, lake: SyntheticEventLake) -> None:
    lake.write_staged("b1", events("b1", 3))
    lake.publish("b1")
    lake.write_staged("b2", events("b2", 3))
    catalog = stock_catalog(layout)
    seen = catalog.load_table("scalr.synthetic_events").scan().to_arrow()
    catalog.close()
    assert event_ids(seen) == slots("b1", 3)


def test_reading_can_be_limited_to_batches(lake: SyntheticEventLake) -> None:
    for batch_id in ("b1", "b2", "b3"):
        lake.write_staged(batch_id, events(batch_id, 2))
        lake.publish(batch_id)
    assert event_ids(lake.read(batch_ids=["b1", "b3"])) == slots("b1", 2) + slots("b3", 2)
    assert lake.read(batch_ids=[]).num_rows == 0
    assert lake.read(batch_ids=["b9"]).num_rows == 0


def test_an_unknown_snapshot_is_named(lake: SyntheticEventLake) -> None:
    with pytest.raises(DataError, match="no snapshot 12"):
        lake.read(snapshot_id=12)


def test_as_of_needs_a_time_zone(lake: SyntheticEventLake) -> None:
    with pytest.raises(UsageError, match="no time zone"):
        lake.read(as_of=datetime(2026, 3, 1))  # noqa: DTZ001 - what is refused here


def test_only_the_columns_asked_for_are_read(lake):
    lake.write_staged("b1", events("b1", 5))
    lake.publish("b1")
    read = lake.read(columns=("sample_weight", "user_id"), as_of=NOON + timedelta(days=1))
    assert read.schema == pa.schema([SCHEMA.field("sample_weight"), SCHEMA.field("user_id")])
    assert sorted(read["user_id"].to_pylist()) == ["u0", "u0", "u1", "u1", "u2"]
