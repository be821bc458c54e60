"""Snapshots, what expires, what is an orphan, and what compaction leaves as it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from lake_rows import IDS, SCHEMA, event, event_ids, events, slots

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake, compacting

LATER = timedelta(days=1)


def publish(lake: SyntheticEventLake, batch_id: str, count: int = 3) -> int:
    lake.write_staged(batch_id, events(batch_id, count))
    return lake.publish(batch_id).snapshot_id


def test_snapshots_say_what_was_done(lake: SyntheticEventLake) -> None:
    assert lake.snapshots() == []
    first = publish(lake, "b1")
    publish(lake, "b2")
    lake.compact()
    lake.retire("b1")
    lake.erase(["u2"])
    publish(lake, "b3")
    told = lake.snapshots()
    assert [(info.what, info.batch_id) for info in told] == [("erased", None), ("published", "b3")]
    lake.retire("b3")
    assert [(info.what, info.batch_id) for info in lake.snapshots()][-1] == ("retired", "b3")
    assert first not in {info.snapshot_id for info in told}
    assert told[-1].committed_at == lake.snapshots()[1].committed_at
    assert abs(told[-1].committed_at - datetime.now(UTC)) < timedelta(minutes=5)


def test_old_snapshots_expire_and_kept_ones_and_the_newest_do_not(lake: SyntheticEventLake) -> None:
    ids = [publish(lake, f"b{number}") for number in range(4)]
    assert lake.expire(before=datetime.now(UTC) - LATER, keep=[]) == []
    assert lake.expire(before=datetime.now(UTC) + LATER, keep=[ids[1]]) == [ids[0], ids[2]]
    assert [info.snapshot_id for info in lake.snapshots()] == [ids[1], ids[3]]
    assert lake.read(snapshot_id=ids[1]).num_rows == 6
    with pytest.raises(DataError, match=rf"no snapshot {ids[0]}, or it has expired"):
        lake.read(snapshot_id=ids[0])
    assert lake.expire(before=datetime.now(UTC) + LATER, keep=[ids[1]]) == []
    with pytest.raises(UsageError, match="no time zone"):
        lake.expire(before=datetime(2026, 3, 1), keep=[])  # noqa: DTZ001 - what is refused here


def test_what_is_published_and_retired_is_known_when_the_snapshots_have_expired(
    lake: SyntheticEventLake,
) -> None:
    published = publish(lake, "b1"), publish(lake, "b2")
    lake.retire("b1")
    before = lake.published_batches()
    lake.expire(before=datetime.now(UTC) + LATER, keep=[])
    assert [info.what for info in lake.snapshots()] == ["retired"]
    assert lake.published_batches() == before
    assert before["b2"].snapshot_id == published[1]
    assert lake.publish("b2").already_published
    with pytest.raises(UsageError, match="was retired"):
        lake.publish("b1")


def everything(lake: SyntheticEventLake) -> set[str]:
    return {file.location for file in lake._staging.files.below(lake._staging.files.root)}


def test_nothing_is_an_orphan_that_a_snapshot_a_batch_or_a_writer_needs(
    lake: SyntheticEventLake,
) -> None:
    publish(lake, "b1")
    publish(lake, "b2")
    lake.retire("b1")
    lake.write_staged("b3", events("b3", 3))
    soon = datetime.now(UTC) + LATER
    assert lake.orphans(older_than=soon, staged=["b3"]) == []
    assert lake.orphans(older_than=soon - 2 * LATER, staged=[]) == []
    left = lake.orphans(older_than=soon, staged=[])
    assert {Path(name).parent.name for name in left} == {"b3"}


def test_what_an_expired_snapshot_alone_needed_is_removed(lake: SyntheticEventLake) -> None:
    publish(lake, "b1")
    publish(lake, "b2")
    lake.retire("b1")
    pinned = lake.current_snapshot_id()
    publish(lake, "b3")
    soon = datetime.now(UTC) + LATER
    old = [info.snapshot_id for info in lake.snapshots()[:2]]
    foreseen = lake.orphans(older_than=soon, staged=[], gone=old)
    assert lake.expire(before=soon, keep=[pinned]) == old

    orphans = lake.orphans(older_than=soon, staged=[])
    assert set(foreseen) == set(orphans)
    assert any("/data/b1/" in name for name in orphans)
    assert lake.size_bytes(orphans) > 0
    assert lake.remove(orphans) == len(orphans)
    assert lake.remove(orphans) == 0
    assert lake.size_bytes(orphans) == 0
    assert not everything(lake) & set(orphans)
    assert event_ids(lake.read()) == slots("b2", 3) + slots("b3", 3)
    assert event_ids(lake.read(snapshot_id=pinned)) == slots("b2", 3)
    assert lake.orphans(older_than=soon, staged=[]) == []


def test_files_of_others_are_never_removed(lake: SyntheticEventLake, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.parquet"
    stranger.write_bytes(b"of somebody else")
    with pytest.raises(UsageError, match="no file of the table"):
        lake.remove([str(stranger)])
    assert stranger.exists()


def test_compaction_changes_files_and_no_row(lake: SyntheticEventLake) -> None:
    names = [f"b{number}" for number in range(5)]
    before = {name: publish(lake, name) for name in names}
    batches, rows = lake.published_batches(), lake.read()

    done = lake.compact()

    assert done is not None
    assert (done.files_before, done.files_after, done.rows) == (5, 1, 15)
    assert done.snapshot_id == lake.current_snapshot_id()
    assert lake.published_batches() == batches
    order = [("event_id", "ascending")]
    assert lake.read().sort_by(order) == rows.sort_by(order)
    assert event_ids(lake.read(batch_ids=["b3"])) == slots("b3", 3)
    assert event_ids(lake.read(snapshot_id=before["b1"])) == slots("b0", 3) + slots("b1", 3)
    assert lake.compact() is None
    lake.retire("b3")
    assert event_ids(lake.read()) == sorted(set(event_ids(rows)) - set(slots("b3", 3)))
    assert lake.published_batches().keys() == batches.keys() - {"b3"}


def test_large_files_are_left_alone(
    lake: SyntheticEventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "TARGET_ROWS", 10)
    for number, count in enumerate((2, 9, 3, 4, 4, 1)):
        publish(lake, f"b{number}", count)
    done = lake.compact()
    assert done is not None
    assert (done.files_before, done.files_after, done.rows) == (5, 2, 14)
    assert lake.read().num_rows == 23


def test_one_small_file_is_not_worth_it(lake: SyntheticEventLake) -> None:
    assert lake.compact() is None
    publish(lake, "b1")
    assert lake.compact() is None


def test_events_are_found_wherever_they_can_be_read(lake: SyntheticEventLake) -> None:
    publish(lake, "b1")
    publish(lake, "b2")
    lake.write_staged("b3", events("b3", 3))
    assert lake.find_event("b1/2") == as_read("b1", 2)
    lake.retire("b1")
    assert lake.find_event("b1/2") == as_read("b1", 2)
    lake.expire(before=datetime.now(UTC) + LATER, keep=[])
    assert lake.find_event("b1/2") is None
    assert lake.find_event("b2/1") == as_read("b2", 1)
    assert lake.find_event("b3/0") is None


def as_read(batch_id: str, slot: int) -> dict[str, object]:
    return pa.Table.from_pylist([event(batch_id, slot)], schema=SCHEMA).to_pylist()[0]


def test_a_dry_run_says_what_would_be_published_and_changes_nothing(
    layout: Layout, lake: SyntheticEventLake
) -> None:
    publish(lake, "b1")
    lake.write_staged("b2", events("b2", 4))
    lake.write_staged("b2", events("b2", 2, first=4))
    told, snapshot, files = lake.publish_preview("b2"), lake.current_snapshot_id(), everything(lake)
    assert told.pop("size_bytes") == lake.size_bytes(lake.staged_files("b2"))
    assert told == {
        "batch_id": "b2",
        "already_published": False,
        "files": 2,
        "rows": 6,
        "batches_before": 1,
        "rows_before": 3,
        "batches_after": 2,
        "rows_after": 9,
    }
    assert (lake.current_snapshot_id(), everything(lake)) == (snapshot, files)
    lake.publish("b2")
    again = lake.publish_preview("b2")
    assert (again["already_published"], again["rows"], again["rows_after"]) == (True, 0, 9)
    with pytest.raises(DataError, match="nothing is staged"):
        lake.publish_preview("b9")
    lake.retire("b1")
    with (
        SyntheticEventLake.open(layout, IDS) as other,
        pytest.raises(UsageError, match="was retired"),
    ):
        other.publish_preview("b1")
