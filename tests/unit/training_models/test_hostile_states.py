"""The kept state of a ranker by somebody who means harm: refused in one line, or arrays."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hostile import changed, damaged, examples, json_values, tried
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from scalr_ray.core.errors import DataError
from training.models.state import State

HEADER = {"kind": "popularity", "settings": "{}", "progress": {"epoch": 1, "losses": [0.5]}}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("sound") / "ranker.safetensors"
    State(kind="popularity", settings="{}", tensors={"scores": np.ones(5)}).write(file)
    return file.read_bytes()


def read(file: Path) -> None:
    got = tried(lambda: State.read(file), DataError)
    if isinstance(got, State):
        assert isinstance(got.kind, str)
        assert dict(got.progress) == got.progress
        assert all(isinstance(array, np.ndarray) for array in got.tensors.values())


@examples(60)
@given(data=st.data())
def test_any_damage(sound: bytes, data: st.DataObject):
    with TemporaryDirectory() as folder:
        file = Path(folder) / "ranker.safetensors"
        file.write_bytes(data.draw(damaged(sound) | st.binary(max_size=100)))
        read(file)


@examples(60)
@given(changed(HEADER) | json_values())
def test_any_header(header: object):
    with TemporaryDirectory() as folder:
        file = Path(folder) / "ranker.safetensors"
        save_file({"scores": np.ones(2)}, file, metadata={"scalr": json.dumps(header)})
        read(file)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00"])
def test_a_header_that_is_no_json(tmp_path: Path, text: str):
    save_file({"scores": np.ones(2)}, tmp_path / "r", metadata={"scalr": text})
    assert isinstance(tried(lambda: State.read(tmp_path / "r"), DataError), DataError)
