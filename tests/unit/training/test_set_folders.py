"""The files of saved training sets: whole, checked, replaced in steps that can be cut off."""

from __future__ import annotations

import json
import struct
import threading
from errno import EACCES, ENOSPC

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from scalr_ray.core.errors import DataError, RetryLater, UsageError
from training import set_folders
from training.durable import as_parquet
from training.set_folders import ROWS, ROWS_SHA256, SetFolders

RARE = 0x0123_4567_89AB_CDEF  # a number that no other eight bytes are taken for


def rows(*users):
    return pa.table({"user_id": list(users), "value": [float(n) for n in range(len(users))]})


@pytest.fixture
def folders(tmp_path):
    return SetFolders(root=tmp_path / "training_sets")


def saved(folders, name="a", table=None):
    with folders.changing():
        return folders.add(name, rows("x", "y") if table is None else table, {"asked": 1})


def test_the_manifest_is_json_with_the_hash_of_the_rows(folders):
    said = saved(folders)
    assert said.keys() == {"asked", ROWS_SHA256}
    assert json.loads((folders.folder("a") / "manifest.json").read_text()) == said
    table, manifest = folders.read("a")
    assert table.equals(rows("x", "y"))
    assert manifest == said


def test_the_same_rows_give_the_same_file_however_memory_holds_them(folders):
    whole = rows("x", "y", "z")
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    assert saved(folders, "a", whole)[ROWS_SHA256] == saved(folders, "b", parts)[ROWS_SHA256]


def test_a_dictionary_does_not_keep_values_that_no_row_has(folders):
    encoded = rows("gone", "here")
    encoded = encoded.set_column(0, "user_id", encoded["user_id"].dictionary_encode())
    left = encoded.filter(pc.equal(encoded["user_id"], "here"))
    saved(folders, "a", left)
    assert b"gone" not in (folders.folder("a") / ROWS).read_bytes()
    assert folders.read("a")[0]["user_id"].to_pylist() == ["here"]


def test_replaced_rows_leave_no_byte_in_the_statistics(folders):
    table = rows(1, RARE, 2)
    saved(folders, "a", table)
    mark = struct.pack("<q", RARE)
    assert mark in (folders.folder("a") / ROWS).read_bytes()
    with folders.changing():
        folders.replace("a", table.filter(pc.less(table["user_id"], 9)), {"asked": 1})
    assert all(mark not in path.read_bytes() for path in folders.folder("a").iterdir())
    assert folders.read("a")[0]["user_id"].to_pylist() == [1, 2]


def test_rows_come_back_in_the_types_of_parquet():
    nested = pa.table(
        {
            "lists": pa.array([[["a"]]], pa.list_(pa.field("l", pa.list_(pa.string())))),
            "words": pa.array(["a"]).dictionary_encode(),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(as_parquet(nested), sink)
    back = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert back.schema.equals(as_parquet(nested).schema, check_metadata=True)
    assert back.to_pylist() == nested.to_pylist()


@pytest.mark.parametrize("cut", ["rows", "manifest", "between", "last"])
def test_a_replacement_that_was_cut_off_is_undone_or_completed(folders, monkeypatch, cut):
    before = saved(folders)

    class PowerCut(BaseException):
        pass

    def end(*_arguments, **_options):
        raise PowerCut

    def end_at_the_second(real=set_folders.flush):
        flushed = []

        def flush(folder):
            flushed.append(folder)
            if len(flushed) > (2 if cut == "last" else 1):
                raise PowerCut
            real(folder)

        return flush

    with monkeypatch.context() as patched:
        if cut in ("rows", "manifest"):
            patched.setattr(set_folders, "write_json" if cut == "rows" else "flush", end)
        else:
            patched.setattr(set_folders, "flush", end_at_the_second())
        with pytest.raises(PowerCut), folders.changing():
            folders.replace("a", rows("x"), {"asked": 1, "revised": True})
    if cut == "between":
        with pytest.raises(DataError, match="about to lose the rows of erased users"):
            folders.read("a")
    with folders.changing():
        assert folders.finish("a") is (cut == "between")
    table, manifest = folders.read("a")
    done = cut in ("between", "last")
    assert table["user_id"].to_pylist() == (["x"] if done else ["x", "y"])
    assert manifest.get("revised", False) is done
    assert done or manifest == before
    assert sorted(path.name for path in folders.folder("a").iterdir()) == ["manifest.json", ROWS]


def test_what_the_dead_have_left_is_cleared_away(folders):
    saved(folders)
    (folders.root / ".a.0123").mkdir()
    (folders.root / ".a.0123" / ROWS).write_bytes(b"half")
    with folders.changing():
        assert [path.name for path in folders.root.iterdir()] == ["a"]


def test_another_set_of_the_name_is_refused_and_leaves_nothing(folders):
    said = saved(folders)
    assert saved(folders) == said
    with pytest.raises(UsageError, match="another training set 'a'"):
        saved(folders, "a", rows("z"))
    assert [path.name for path in folders.root.iterdir()] == ["a"]


def test_a_reader_waits_for_a_writer(folders):
    saved(folders)
    seen = []
    reader = threading.Thread(target=lambda: seen.append(folders.read("a")[0].num_rows))
    with folders.changing():
        folders.replace("a", rows("x"), {"asked": 1})
        reader.start()
        reader.join(0.2)
        assert seen == []
        folders.replace("a", rows("x", "y", "z"), {"asked": 1})
    reader.join()
    assert seen == [3]


@pytest.mark.parametrize(
    ("number", "error", "word"),
    [(ENOSPC, RetryLater, "the disk is full"), (EACCES, UsageError, "not allowed")],
)
def test_a_disk_that_is_full_or_closed_is_an_error_of_ours(
    folders, monkeypatch, number, error, word
):
    def fail(*_arguments):
        raise OSError(number, "no")

    monkeypatch.setattr(set_folders, "write_rows", fail)
    with pytest.raises(error, match=word):
        saved(folders)
    monkeypatch.undo()
    assert folders.names() == []
    saved(folders)
    assert folders.names() == ["a"]


def test_a_manifest_of_something_else_is_refused(folders):
    saved(folders)
    (folders.folder("a") / "manifest.json").write_text('{"asked": 1}')
    with pytest.raises(DataError, match="is not what was saved"):
        folders.read("a")


def test_the_path_of_the_repository_gives_no_columns(tmp_path):
    folders = SetFolders(root=tmp_path / "day=3" / "training_sets")
    saved(folders)
    assert folders.read("a")[0].column_names == ["user_id", "value"]
    assert folders.column("a", "user_id").to_pylist() == ["x", "y"]
