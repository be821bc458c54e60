from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
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
)

from scalr_ray.core.errors import DataError, RetryLater
from scalr_ray.core.events import event_schema
from scalr_ray.core.fingerprint import file_fingerprint
from scalr_ray.core.layout import Layout
from scalr_ray.ingest import EventLog, ImportResult, import_log, withhold

SOURCES, TARGETS = "source_events", "target_events"


def imported(log: EventLog, layout: Layout, source: Sequence[str] = (SOURCE,)) -> ImportResult:
    return import_log(log, layout, source=source, target=TARGET)


def stored(layout: Layout, view: str) -> list[dict[str, Any]]:
    tables = [pq.read_table(part) for part in sorted(layout.events(view).glob("part-*.parquet"))]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda event: event["event_id"])


def stored_ids(layout: Layout) -> list[str]:
    return [event["event_id"] for view in (SOURCES, TARGETS) for event in stored(layout, view)]


def test_each_side_gets_its_part_and_the_refused_rows_theirs(tmp_path: Path):
    file = log_file(tmp_path, [*sound_rows(), row(3), row(9, item_id=""), row(5)])
    log, layout = read(file), layout_in(tmp_path)
    result = imported(log, layout)
    name = file_fingerprint(file)[:16]
    parts = {view: layout.events(view) / f"part-{name}.parquet" for view in (SOURCES, TARGETS)}
    assert result == ImportResult(
        rows_read=11,
        imported={SOURCE: 4, TARGET: 4},
        duplicates=2,
        malformed=1,
        already_imported=0,
        refused_file=layout.rejected / f"import-{name}.parquet",
        files=parts,
        fingerprint=file_fingerprint(file),
    )
    for view, domain in ((SOURCES, SOURCE), (TARGETS, TARGET)):
        table = pq.read_table(parts[view])
        assert table.schema.equals(event_schema("string", "string"))
        assert table.to_pylist() == [e for e in log.events.to_pylist() if e["domain"] == domain]
    assert pq.read_table(result.refused_file) == log.refused
    written = {str(path) for path in tmp_path.rglob("*") if path.is_file() and path != file}
    assert written == {str(path) for path in (*parts.values(), result.refused_file)}


def test_a_second_import_of_the_same_file_does_nothing(tmp_path: Path):
    log, layout = read(log_file(tmp_path, [*sound_rows(), row(3)])), layout_in(tmp_path)
    first = imported(log, layout)
    before = bytes_below(layout.data)
    times = {path: path.stat().st_mtime_ns for path in layout.data.rglob("*.parquet")}
    second = imported(log, layout)
    assert second == replace(first, imported={SOURCE: 0, TARGET: 0}, already_imported=8)
    assert bytes_below(layout.data) == before
    assert {path: path.stat().st_mtime_ns for path in layout.data.rglob("*.parquet")} == times


def test_a_file_that_overlaps_adds_only_what_is_new(tmp_path: Path):
    layout = layout_in(tmp_path)
    imported(read(log_file(tmp_path, sound_rows(6))), layout)
    result = imported(read(log_file(tmp_path, sound_rows(10), name="more.parquet")), layout)
    assert result.imported == {SOURCE: 2, TARGET: 2}
    assert result.already_imported == 6
    assert len(set(stored_ids(layout))) == len(stored_ids(layout)) == 10


def test_the_same_file_with_one_more_source_keeps_what_was_there(tmp_path: Path):
    rows = [*sound_rows(), row(20, domain="music"), row(21, domain="music", item_id=""), row(3)]
    file, layout = log_file(tmp_path, rows), layout_in(tmp_path)
    first = imported(read(file), layout)
    both = (SOURCE, "music")
    second = imported(read(file, source=both), layout, both)
    assert second.imported == {SOURCE: 0, "music": 1, TARGET: 0}
    assert second.files == first.files
    assert len(stored(layout, SOURCES)) == 5
    assert second.refused_file is not None
    assert pq.read_table(second.refused_file)["row"].to_pylist() == [9, 10]
    imported(read(file), layout)
    assert pq.read_table(second.refused_file)["row"].to_pylist() == [9, 10]


def test_events_withheld_at_first_can_be_imported_later(tmp_path: Path):
    log, layout = read(log_file(tmp_path, sound_rows(24))), layout_in(tmp_path)
    kept, held = withhold(log, before=NOON + timedelta(days=2), hide_users="odd", target=TARGET)
    assert 0 < held.num_rows < 12
    imported(kept, layout)
    assert imported(log, layout).imported == {SOURCE: 0, TARGET: held.num_rows}
    assert sorted(stored_ids(layout)) == sorted(log.events["event_id"].to_pylist())


def test_a_view_without_events_still_gets_a_part_to_read(tmp_path: Path):
    log, layout = read(log_file(tmp_path)), layout_in(tmp_path)
    empty = replace(log, events=log.events.filter(pa.compute.equal(log.events["domain"], SOURCE)))
    imported(empty, layout)
    assert stored(layout, TARGETS) == []
    assert len(stored(layout, SOURCES)) == 4


def test_other_id_types_are_refused_and_nothing_is_touched(tmp_path: Path):
    layout = layout_in(tmp_path)
    imported(read(log_file(tmp_path)), layout)
    before = bytes_below(layout.data)
    numbers = [entry | {"user_id": 1, "value": float("nan")} for entry in sound_rows()]
    sound = [entry | {"user_id": 1} for entry in sound_rows()]
    file = log_file(tmp_path, [*sound, *numbers], {"user_id": pa.int64()}, "numbers.parquet")
    with pytest.raises(DataError, match="'user_id' is string, not int64") as caught:
        imported(read(file), layout)
    assert "\n" not in str(caught.value)
    assert bytes_below(layout.data) == before


def test_the_sides_cannot_be_swapped_in_one_store(tmp_path: Path):
    file, layout = log_file(tmp_path), layout_in(tmp_path)
    imported(read(file), layout)
    before = bytes_below(layout.data)
    swapped = read(file, source=[TARGET], target=SOURCE)
    with pytest.raises(DataError, match="another data_dir") as caught:
        import_log(swapped, layout, source=[TARGET], target=SOURCE)
    assert "\n" not in str(caught.value)
    assert bytes_below(layout.data) == before


@pytest.mark.parametrize("content", [b"", b"no parquet"])
def test_a_broken_file_in_the_store_is_named(tmp_path: Path, content: bytes):
    layout = layout_in(tmp_path)
    imported(read(log_file(tmp_path)), layout)
    broken = layout.events(TARGETS) / "part-broken.parquet"
    broken.write_bytes(content)
    before = bytes_below(layout.data)
    with pytest.raises(DataError, match=r"part-broken\.parquet in the store cannot be read"):
        imported(read(log_file(tmp_path, sound_rows(10), name="more.parquet")), layout)
    assert bytes_below(layout.data) == before


def test_a_failure_to_write_shows_nothing_and_leaves_no_drafts(tmp_path: Path):
    log, layout = read(log_file(tmp_path, [*sound_rows(), row(3)])), layout_in(tmp_path)
    layout.data.mkdir()
    layout.rejected.write_text("a file where a folder must be")
    with pytest.raises(OSError, match="rejected"):
        imported(log, layout)
    assert [path.name for path in layout.data.rglob("*") if path.is_file()] == ["rejected"]


def test_an_import_that_stopped_between_the_two_views_is_completed(tmp_path: Path):
    log, layout = read(log_file(tmp_path)), layout_in(tmp_path)
    result = imported(log, layout)
    whole = bytes_below(layout.data)
    result.files[TARGETS].rename(result.files[TARGETS].with_name(".left-by-a-crash.tmp"))
    again = imported(log, layout)
    assert again.imported == {SOURCE: 0, TARGET: 4}
    (layout.events(TARGETS) / ".left-by-a-crash.tmp").unlink()
    assert bytes_below(layout.data) == whole


def test_two_imports_at_once_are_refused(tmp_path: Path):
    log, layout = read(log_file(tmp_path)), layout_in(tmp_path)
    layout.data.mkdir()
    holder = os.open(layout.data, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(RetryLater, match="try again"):
        imported(log, layout)
    os.close(holder)
    assert imported(log, layout).imported == {SOURCE: 4, TARGET: 4}


@settings(max_examples=10, deadline=None)
@given(
    files=st.lists(
        st.lists(st.integers(2, 30), max_size=15).map(lambda slots: [0, 1, *slots]),
        min_size=1,
        max_size=3,
    )
)
def test_any_files_in_any_order_any_number_of_times_give_each_event_once(files: list[list[int]]):
    with TemporaryDirectory() as folder:
        layout = layout_in(Path(folder))
        new = 0
        for number, slots in enumerate([*files, *files]):
            rows = [row(slot) for slot in slots]
            log = read(log_file(Path(folder), rows, name=f"{number}.parquet"))
            result = imported(log, layout)
            added = sum(result.imported.values())
            assert added + result.already_imported + result.duplicates == len(slots)
            assert number < len(files) or added == 0
            new += added
        distinct = {slot for slots in files for slot in slots}
        assert len(stored_ids(layout)) == len(set(stored_ids(layout))) == len(distinct) == new


def test_ingest_imports_neither_feast_nor_ray_nor_torch():
    probe = (
        "import sys, scalr_ray.ingest;"
        "print(*(name for name in ('feast', 'ray', 'torch') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
