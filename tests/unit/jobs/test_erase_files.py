from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalr_ray.core.errors import DataError
from scalr_ray.core.layout import Layout
from scalr_ray.jobs.erase_files import (
    drop_rows_of_users,
    half_written,
    remove,
    rows_of_users,
    unfinished_work,
)


@pytest.fixture
def layout(tmp_path):
    return Layout(repo=tmp_path, data=tmp_path / "data")


def write(path, user_ids, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    column = pa.array(user_ids, kind or pa.string())
    pq.write_table(pa.table({"user_id": column, "n": range(len(user_ids))}), path)
    return path


def users(path):
    return pq.read_table(path)["user_id"].to_pylist()


def test_rows_go_wherever_users_stand_under_their_id_or_its_text(layout):
    events = write(layout.events("source_events") / "part-1.parquet", [1, 2, 1], pa.int64())
    features = write(layout.features("user_source_features") / "part-1.parquet", [2, 3], pa.int64())
    aside = write(layout.rejected / "import-1.parquet", ["1", None, "x"])
    drawn = write(layout.rejected / "batch-1" / "part-1.parquet", [1, 4], pa.int64())
    items = layout.features("item_popularity") / "part-1.parquet"
    items.parent.mkdir(parents=True)
    pq.write_table(pa.table({"item_id": [1]}), items)
    there = {"events/source_events": 2, "rejected": 2}
    assert rows_of_users(layout, [1]) == there
    assert drop_rows_of_users(layout, [1]) == there
    assert [users(path) for path in (events, features, aside, drawn)] == [
        [2],
        [2, 3],
        [None, "x"],
        [4],
    ]
    assert rows_of_users(layout, [1]) == drop_rows_of_users(layout, [1]) == {}
    assert drop_rows_of_users(layout, [9, 3]) == {"features/user_source_features": 1}


def test_files_without_the_users_are_not_touched(layout):
    file = write(layout.events("source_events") / "part-1.parquet", ["a", "b"])
    before = file.stat().st_mtime_ns
    assert drop_rows_of_users(layout, ["aa", "c"]) == {}
    assert file.stat().st_mtime_ns == before


def test_where_nothing_was_imported_nothing_is_found(layout):
    assert rows_of_users(layout, ["a"]) == {}
    assert unfinished_work(layout) == half_written(layout) == []


def test_a_file_that_cannot_be_read_stops_the_erasure(layout):
    broken = layout.events("source_events") / "part-1.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"PAR1 not quite")
    with pytest.raises(DataError, match="nobody can say whom it holds"):
        drop_rows_of_users(layout, ["a"])


def test_unfinished_work_and_what_is_half_written_is_found_and_goes(layout):
    left = [
        write(layout.generation / "batch-1" / "work" / "part-1.parquet", ["a"]).parents[1],
        write(layout.training / "run-1" / "rows.parquet", ["a"]).parent,
        write(layout.events("source_events") / ".part-1.parquet.tmp", ["a"]),
        write(layout.rejected / ".batch-2.half" / "part-1.parquet", ["a"]).parent,
        write(layout.erasures / ".one.json.1234", ["a"]),
    ]
    kept = write(layout.events("source_events") / "part-1.parquet", ["b"])
    assert unfinished_work(layout) == sorted(left)
    assert half_written(layout) == sorted(left[2:])
    remove(unfinished_work(layout))
    assert unfinished_work(layout) == []
    remove(left)
    assert users(kept) == ["b"]
