from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_logs import (
    NOON,
    SOURCE,
    TARGET,
    bytes_below,
    layout_in,
    log_file,
    read,
    row,
    sound_rows,
    strings,
)

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.layout import Layout
from scalr_ray.ingest import import_log, write_snapshots

DAY = timedelta(days=1)
MIDNIGHT = NOON.replace(hour=0)
USERS, ITEMS = "user_source_features", "item_popularity"
Event = dict[str, Any]


def store_of(folder: Path, rows: Sequence[dict[str, object]], **asked: Any) -> Layout:
    log = read(log_file(folder, rows), **asked)
    layout = layout_in(folder)
    import_log(log, layout, source=asked.get("source", [SOURCE]), target=TARGET)
    return layout


def events_in(layout: Layout, view: str) -> list[Event]:
    return [
        event
        for part in sorted(layout.events(view).glob("part-*.parquet"))
        for event in pq.read_table(part).to_pylist()
    ]


def snapshot(layout: Layout, view: str, name: str) -> list[dict[str, Any]]:
    return pq.read_table(layout.features(view) / f"part-{name}.parquet").to_pylist()


def seen_at(events: Sequence[Event], moment: datetime) -> list[Event]:
    """The visible events, newest first."""
    visible = [
        event
        for event in events
        if event["event_timestamp"] < moment and event["available_at"] <= moment
    ]
    by_id = sorted(visible, key=lambda event: event["event_id"])
    return sorted(by_id, key=lambda event: event["event_timestamp"], reverse=True)


def counts(events: Sequence[Event], moment: datetime, side: str) -> dict[str, Any]:
    ages = [moment - event["event_timestamp"] for event in events]
    windows = {
        f"{side}_events_{days}d": sum(age <= days * DAY for age in ages) for days in (7, 30, 90)
    }
    return windows | {
        f"{side}_events_total": len(ages),
        f"days_since_last_{side}_event": pytest.approx(min(ages) / DAY, abs=1e-9),
    }


def expected(events: Sequence[Event], moment: datetime, key: str, side: str) -> list[Event]:
    rows = []
    visible = seen_at(events, moment)
    for entity in sorted({event[key] for event in visible}):
        own = [event for event in visible if event[key] == entity]
        features = {key: entity} | counts(own, moment, side)
        if side == "source":
            features["distinct_source_items"] = len({(e["domain"], e["item_id"]) for e in own})
            features["last_source_items"] = [event["item_id"] for event in own][:20]
        rows.append(features | {"event_timestamp": moment, "available_at": moment})
    return rows


# Ages straddle the windows to the microsecond; some events arrive long after they happened.
ages = st.sampled_from([0, 7, 30, 90, 200]).flatmap(
    lambda days: st.integers(-1, 1).map(lambda micros: days * DAY + timedelta(microseconds=micros))
)
delays = st.sampled_from([timedelta(0), timedelta(microseconds=1), DAY, 29 * DAY, 100 * DAY])
random_rows = st.lists(
    st.builds(
        lambda user, item, domain, age, delay: {
            "user_id": user,
            "item_id": item,
            "domain": domain,
            "event_timestamp": MIDNIGHT - age,
            "available_at": MIDNIGHT - age + delay,
        },
        st.sampled_from(["a", "b"]),
        st.sampled_from(["x", "y", "z"]),
        st.sampled_from([SOURCE, TARGET, "music"]),
        ages,
        delays,
    ),
    max_size=40,
)


@settings(max_examples=25, deadline=None)
@given(rows=random_rows, step=st.sampled_from([DAY, 30 * DAY]))
def test_snapshots_are_what_brute_force_finds(rows: list[dict[str, object]], step: timedelta):
    anchors = [row(slot, user_id="a", event_timestamp=MIDNIGHT - 9 * DAY) for slot in (0, 1)]
    rows = [*anchors, anchors[0] | {"domain": "music"}, *rows]
    times = [MIDNIGHT - step, MIDNIGHT, MIDNIGHT + timedelta(microseconds=1)]
    names = [f"{times[0]:%Y%m%dT%H%M%S}", "20260301T000000", "20260301T000000_000001"]
    with TemporaryDirectory() as folder:
        layout = store_of(Path(folder), rows, source=[SOURCE, "music"])
        written = write_snapshots(layout, ids=strings(), times=times)
        views = {USERS: ("source_events", "user_id"), ITEMS: ("target_events", "item_id")}
        for view, (events_view, key) in views.items():
            events = events_in(layout, events_view)
            side = events_view.split("_")[0]
            found = [snapshot(layout, view, name) for name in names]
            assert found == [expected(events, moment, key, side) for moment in times]
            assert written[view] == sum(map(len, found))


def test_a_late_arrival_is_missing_until_it_arrives(tmp_path: Path):
    late = row(0, item_id="late", event_timestamp=NOON - 5 * DAY, available_at=NOON - 2 * DAY)
    old = [row(slot, event_timestamp=NOON - 6 * DAY) for slot in (0, 1)]
    layout = store_of(tmp_path, [*old, late])
    arrival = NOON - 2 * DAY
    times = [arrival - timedelta(microseconds=1), arrival]
    write_snapshots(layout, ids=strings(), times=times)
    (before,) = snapshot(layout, USERS, "20260227T115959_999999")
    (after,) = snapshot(layout, USERS, "20260227T120000")
    assert before["last_source_items"] == ["i0"]
    assert after["last_source_items"] == ["late", "i0"]


def test_in_day_only_data_the_day_of_the_snapshot_does_not_count(tmp_path: Path):
    days = [row(slot, event_timestamp=MIDNIGHT - slot // 2 * DAY) for slot in range(4)]
    rows = [
        entry | {"user_id": "u0", "event_timestamp": entry["event_timestamp"]} for entry in days
    ]
    table_types = {"event_timestamp": pa.date32()}
    log = read(log_file(tmp_path, rows, table_types))
    layout = layout_in(tmp_path)
    import_log(log, layout, source=[SOURCE], target=TARGET)
    write_snapshots(layout, ids=strings(), times=[MIDNIGHT])
    (user,) = snapshot(layout, USERS, "20260301T000000")
    assert user["last_source_items"] == ["i2"]
    assert user["days_since_last_source_event"] == 1.0


def test_at_most_twenty_items_newest_first_and_ties_by_event_id(tmp_path: Path):
    many = [
        row(0, item_id=f"i{slot:02d}", event_timestamp=NOON - slot // 5 * DAY) for slot in range(30)
    ]
    layout = store_of(tmp_path, [*many, row(1)])
    write_snapshots(layout, ids=strings(), times=[NOON + DAY])
    (user,) = snapshot(layout, USERS, "20260302T120000")
    newest = seen_at(events_in(layout, "source_events"), NOON + DAY)[:20]
    assert user["last_source_items"] == [event["item_id"] for event in newest]
    assert user["distinct_source_items"] == 30


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_the_columns_have_the_types_of_the_feature_views(tmp_path: Path, kind: Any):
    rows = [row(slot, user_id=1, item_id=slot) for slot in range(2)]
    if kind == "string":
        rows = [entry | {"user_id": "1", "item_id": str(entry["item_id"])} for entry in rows]
    arrow = pa.int64() if kind == "int64" else pa.string()
    log = read(log_file(tmp_path, rows, {"user_id": arrow, "item_id": arrow}))
    layout = layout_in(tmp_path)
    import_log(log, layout, source=[SOURCE], target=TARGET)
    write_snapshots(layout, ids=IdTypes(user_id=kind, item_id=kind), times=[NOON + DAY, NOON - DAY])
    moment = pa.timestamp("us", tz="UTC")
    wanted = {
        USERS: {
            "user_id": arrow,
            "source_events_7d": pa.int64(),
            "source_events_30d": pa.int64(),
            "source_events_90d": pa.int64(),
            "source_events_total": pa.int64(),
            "days_since_last_source_event": pa.float64(),
            "distinct_source_items": pa.int64(),
            "last_source_items": pa.list_(arrow),
            "event_timestamp": moment,
            "available_at": moment,
        },
        ITEMS: {
            "item_id": arrow,
            "target_events_7d": pa.int64(),
            "target_events_30d": pa.int64(),
            "target_events_90d": pa.int64(),
            "target_events_total": pa.int64(),
            "days_since_last_target_event": pa.float64(),
            "event_timestamp": moment,
            "available_at": moment,
        },
    }
    for view, types in wanted.items():
        for name, rows_there in (("20260302T120000", 1), ("20260228T120000", 0)):
            table = pq.read_table(layout.features(view) / f"part-{name}.parquet")
            assert dict(zip(table.column_names, table.schema.types, strict=True)) == types
            assert table.num_rows == rows_there


def test_writing_again_changes_nothing_and_new_events_replace_the_part(tmp_path: Path):
    layout = store_of(tmp_path, sound_rows())
    times = [NOON + DAY, NOON + 2 * DAY]
    first = write_snapshots(layout, ids=strings(), times=times)
    before = bytes_below(layout.data)
    assert write_snapshots(layout, ids=strings(), times=[*reversed(times), times[0]]) == first
    assert bytes_below(layout.data) == before
    more = log_file(tmp_path, [row(20, user_id="new"), row(21, user_id="new")], name="more.parquet")
    import_log(read(more), layout, source=[SOURCE], target=TARGET)
    assert write_snapshots(layout, ids=strings(), times=times)[USERS] > first[USERS]
    assert len(list(layout.features(USERS).iterdir())) == 2


def test_the_zone_of_a_snapshot_time_does_not_matter(tmp_path: Path):
    layout = store_of(tmp_path, sound_rows())
    write_snapshots(layout, ids=strings(), times=[NOON + DAY])
    before = bytes_below(layout.data)
    elsewhere = datetime.fromisoformat("2026-03-02T17:30:00+05:30")
    assert elsewhere.astimezone(UTC) == NOON + DAY
    write_snapshots(layout, ids=strings(), times=[elsewhere])
    assert bytes_below(layout.data) == before


def test_snapshots_of_what_was_never_imported_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="scalr import"):
        write_snapshots(layout_in(tmp_path), ids=strings(), times=[NOON])
    assert bytes_below(tmp_path) == {}


def test_wrong_ids_or_times_are_refused_and_nothing_is_written(tmp_path: Path):
    layout = store_of(tmp_path, sound_rows())
    before = bytes_below(layout.data)
    with pytest.raises(DataError, match="'user_id' is string"):
        write_snapshots(layout, ids=IdTypes(user_id="int64", item_id="string"), times=[NOON])
    with pytest.raises(UsageError, match="no time zone"):
        write_snapshots(layout, ids=strings(), times=[NOON.replace(tzinfo=None)])
    assert bytes_below(layout.data) == before
