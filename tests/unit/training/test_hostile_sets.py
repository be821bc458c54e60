"""Saved training sets by somebody who means harm: refused in one line, or whole."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hostile import NAMES, changed, damaged, examples, json_values, names, tried
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.core.errors import DataError, UsageError
from training.manifest import checked, held_snapshot, weight_column
from training.set_folders import ROWS, ROWS_SHA256, SetFolders

TIME = "2026-01-01T00:00:00+00:00"
MANIFEST = {
    "service": "mixed_v1",
    "start": TIME,
    "end": TIME,
    "as_of": TIME,
    "mix": {"weight_column": "w"},
    "batches": {"b1": 2},
    "counts": {"real": 1, "synthetic": 2},
    "events_fingerprint": "f",
    "snapshot_id": 7,
    "revisions": [
        {"at": TIME, "why": "", "rows_removed": 1, "synthetic_rows_removed": 0},
    ],
}


def saved(folder: str) -> SetFolders:
    folders = SetFolders(root=Path(folder) / "training_sets")
    with folders.changing():
        folders.add("a", pa.table({"user_id": ["x", "y"]}), MANIFEST)
    return folders


def used(folders: SetFolders) -> object:
    """Everything that is read of a set; nothing is written by it."""
    before = {path: path.stat().st_mtime_ns for path in folders.root.rglob("*")}

    def act() -> int:
        table, manifest = folders.read("a")
        checked(manifest, "a")
        said = held_snapshot(manifest), weight_column(manifest), manifest["events_fingerprint"]
        for batch_id, count in manifest["batches"].items():
            assert isinstance(batch_id, str)
            assert isinstance(count, int)
        for revision in manifest.get("revisions", []):
            assert isinstance(revision["rows_removed"], int)
            assert isinstance(revision["why"] + revision["at"][:10], str)
        folders.file("a"), folders.columns("a"), folders.names()
        return table.num_rows + len(said)

    got = tried(act, DataError, UsageError)
    assert {path: path.stat().st_mtime_ns for path in folders.root.rglob("*")} == before
    return got


@examples(60)
@given(data=st.data())
def test_any_value_at_any_place_of_a_manifest(data: st.DataObject):
    with TemporaryDirectory() as folder:
        folders = saved(folder)
        file = folders.folder("a") / "manifest.json"
        said = json.loads(file.read_text())
        file.write_text(json.dumps(data.draw(changed(said) | json_values())), encoding="utf-8")
        used(folders)


@examples(40)
@given(data=st.data(), name=st.sampled_from([ROWS, "manifest.json"]))
def test_any_damage_to_either_file(data: st.DataObject, name: str):
    with TemporaryDirectory() as folder:
        folders = saved(folder)
        file = folders.folder("a") / name
        content = file.read_bytes()
        harmed = data.draw(damaged(content))
        file.write_bytes(harmed)
        got = used(folders)
        assert isinstance(got, DataError) or name != ROWS or harmed == content


@examples(40)
@given(st.sampled_from(NAMES) | names)
def test_any_name_is_a_folder_of_its_own_or_refused(name: str):
    with TemporaryDirectory() as folder:
        folders = SetFolders(root=Path(folder) / "sets")
        got = tried(lambda: folders.folder(name), UsageError)
        assert isinstance(got, UsageError) or got.parent == folders.root
        for act in (folders.read, folders.manifest, folders.file):
            assert isinstance(tried(lambda act=act: act(name), DataError, UsageError), Exception)
        assert list(Path(folder).iterdir()) == []


def test_folders_of_other_names_are_no_sets(tmp_path: Path):
    folders = saved(str(tmp_path))
    for name in ("Not A Set", "a;b", "x" * 100):
        (folders.root / name).mkdir()
        (folders.root / name / "manifest.json").write_text("{}")
    assert folders.names() == ["a"]


@pytest.mark.parametrize("text", ["{", "[]", "null", "[" * 100_000, '{"a": 1}', "\ud800"])
def test_a_damaged_replacement_is_refused(tmp_path: Path, text: str):
    folders = saved(str(tmp_path))
    waiting = folders.folder("a") / ".manifest.json"
    waiting.write_bytes(text.encode("utf-8", "surrogatepass"))
    with folders.changing():
        got = tried(lambda: folders.finish("a"), DataError)
    assert isinstance(got, DataError)
    assert folders.manifest("a")[ROWS_SHA256]
