"""The list of a staged batch by somebody who means harm: no file elsewhere is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostile import NAMES, changed, examples, json_values, tried
from hypothesis import given
from hypothesis import strategies as st
from lake_rows import IDS, events, layout_in

from scalr_ray.core.errors import DataError, ScalrError, UsageError
from scalr_ray.lake import SyntheticEventLake


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory):
    layout = layout_in(tmp_path_factory.mktemp("lake"))
    with SyntheticEventLake.open(layout, IDS) as lake:
        lake.write_staged("b1", events("b1", 3))
        list_file = next(Path(layout.warehouse).rglob("_staged.json"))
        yield lake, list_file


def everything(below: Path) -> set[Path]:
    return set(below.rglob("*"))


@examples(40)
@given(data=st.data())
def test_any_list_is_read_or_refused(staged, data: st.DataObject):
    lake, file = staged
    sound = file.read_text()
    file.write_text(json.dumps(data.draw(changed(json.loads(sound)) | json_values())))
    try:
        tried(lambda: lake.read_staged("b1"), ScalrError)
        tried(lake.staged_batches, ScalrError)
    finally:
        file.write_text(sound)


@pytest.mark.parametrize("name", ["../../victim", "/victim", "..", "a/../../victim"])
def test_nothing_outside_is_removed_in_place_of_a_staged_file(staged, name: str):
    lake, file = staged
    sound = file.read_text()
    victim = file.parent.parent / "victim"
    victim.write_text("precious")
    file.write_text(json.dumps([{"name": name, "rows": 1, "size_bytes": 8}]))
    before = everything(file.parents[2])
    for act in (lake.read_staged, lake.discard, lake.publish):
        got = tried(lambda act=act: act("b1"), ScalrError)
        assert isinstance(got, DataError)
    assert everything(file.parents[2]) == before
    assert victim.read_text() == "precious"
    file.write_text(sound)


def test_a_batch_id_that_leads_elsewhere_is_refused(staged):
    lake, file = staged
    before = everything(file.parents[2])
    for name in NAMES:
        for act in (lake.read_staged, lake.discard, lake.publish):
            got = tried(lambda act=act, name=name: act(name), ScalrError)
            assert isinstance(got, UsageError | DataError)
    assert everything(file.parents[2]) == before
