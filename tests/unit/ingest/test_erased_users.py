from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from ingest_logs import SOURCE, TARGET, layout_in, log_file, read, row, sound_rows

from scalr_ray.core.subjects import ErasedUsers, SubjectKey
from scalr_ray.ingest import import_log, rewrite_tables

VIEWS = ("source_events", "target_events")


def erased_in(layout, *user_ids):
    key = SubjectKey.of(layout)
    return ErasedUsers.of(layout, frozenset(map(key.subject, user_ids)))


def stored(layout):
    tables = [
        pq.read_table(part) for view in VIEWS for part in layout.events(view).glob("*.parquet")
    ]
    return pa.concat_tables(tables)


def without(user):
    def change(rows):
        return rows.filter(pc.not_equal(rows["user_id"], user))

    return change


@pytest.fixture
def layout(tmp_path):
    return layout_in(tmp_path)


def test_rows_of_erased_users_are_left_out_and_counted_and_not_set_aside(tmp_path, layout):
    bad = [row(8, user_id="u1", item_id=""), row(9, user_id="u2", item_id="")]
    log = read(log_file(tmp_path, [*sound_rows(), *bad]))
    assert log.refused["user_id"].to_pylist() == ["u1", "u2"]
    assert log.without(erased_in(layout)) == log
    left = log.without(erased_in(layout, "u1", "nobody"))
    result = import_log(left, layout, source=(SOURCE,), target=TARGET)
    mine = pc.sum(pc.equal(log.events["user_id"], "u1")).as_py()
    assert result.erased == left.erased == mine + 1
    assert set(stored(layout)["user_id"].to_pylist()) == {"u0", "u2"}
    assert pq.read_table(result.refused_file)["user_id"].to_pylist() == ["u2"]


def test_the_same_log_again_brings_nobody_back_and_nothing_twice(tmp_path, layout):
    log = read(log_file(tmp_path, sound_rows(24)))
    first = import_log(log, layout, source=(SOURCE,), target=TARGET)
    rewrite_tables(list(first.files.values()), without("u1"))
    before = {file: file.read_bytes() for file in first.files.values()}
    erased = erased_in(layout, "u1")
    again = import_log(log.without(erased), layout, source=(SOURCE,), target=TARGET)
    assert again.imported == {SOURCE: 0, TARGET: 0}
    assert again.already_imported == stored(layout).num_rows
    assert {file: file.read_bytes() for file in first.files.values()} == before
    ids = stored(layout)["event_id"].to_pylist()
    assert len(ids) == len(set(ids))
    assert "u1" not in stored(layout)["user_id"].to_pylist()


def test_a_file_that_is_written_again_keeps_schema_order_and_the_other_rows(tmp_path, layout):
    log = read(log_file(tmp_path, sound_rows(24)))
    result = import_log(log, layout, source=(SOURCE,), target=TARGET)
    file = result.files["source_events"]
    before = pq.read_table(file)
    rewrite_tables([file], without("u1"))
    after = pq.read_table(file)
    assert after.equals(before.filter(pc.not_equal(before["user_id"], "u1")))
    assert after.schema == before.schema
    assert list(file.parent.iterdir()) == [file]


def test_a_file_of_which_nothing_is_left_stays_and_is_empty(tmp_path, layout):
    log = read(log_file(tmp_path, sound_rows()))
    file = import_log(log, layout, source=(SOURCE,), target=TARGET).files["target_events"]
    schema = pq.read_schema(file)
    rewrite_tables([file], lambda rows: rows.slice(0, 0))
    assert pq.read_table(file).num_rows == 0
    assert pq.read_schema(file) == schema


def test_no_file_is_replaced_before_all_are_written(tmp_path, layout):
    log = read(log_file(tmp_path, sound_rows()))
    files = sorted(import_log(log, layout, source=(SOURCE,), target=TARGET).files.values())
    before = {file: file.read_bytes() for file in files}
    seen = []

    def fails_at_the_second(rows):
        seen.append(rows)
        if len(seen) == 2:
            raise ZeroDivisionError
        return rows.slice(0, 0)

    with pytest.raises(ZeroDivisionError):
        rewrite_tables(files, fails_at_the_second)
    assert {file: file.read_bytes() for file in files} == before
    assert [path for file in files for path in file.parent.iterdir()] == files
