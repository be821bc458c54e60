"""Neural translators by somebody who means harm: refused in one line, before memory is taken."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from forged_translators import forged, said
from hostile import changed, damaged, examples, tried
from hypothesis import given
from hypothesis import strategies as st
from neural_builds import translator, users_of

from scalr_ray.core.errors import DataError
from scalr_ray.translator import log_likelihood
from scalr_ray.translator.neural.storage import load_neural, save_neural
from scalr_ray.translator.neural.translator import NeuralTranslator

FILES = ("weights.safetensors", "source_items.parquet", "target_items.parquet")
ASKED = users_of([([(0, 1), (3, 2)], [(1, 3)]), ([], [])])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "t"
    save_neural(translator(), folder)
    return folder


def loaded(sound: Path, settings: Any, name: str = "", content: bytes = b"") -> None:
    with TemporaryDirectory() as folder:
        copy = forged(sound, folder, settings, name, content)
        got = tried(lambda: load_neural(copy), DataError)
        if isinstance(got, NeuralTranslator):
            assert not np.isnan(log_likelihood(got, ASKED)).any()


@examples(50)
@given(data=st.data())
def test_any_value_at_any_place_of_the_settings(sound: Path, data: st.DataObject):
    loaded(sound, data.draw(changed(said(sound))))


@examples(50)
@given(data=st.data(), name=st.sampled_from(FILES))
def test_any_damage_that_is_signed_for(sound: Path, data: st.DataObject, name: str):
    loaded(sound, said(sound), name, data.draw(damaged((sound / name).read_bytes())))


@pytest.mark.parametrize("size", [10**6, 10**9, 10**12, 10**30])
@pytest.mark.parametrize(
    "name", ["width", "layers", "length", "heads", "source_items", "target_items", "event_types"]
)
def test_a_shape_of_any_size_takes_no_memory(sound: Path, name: str, size: int):
    settings = said(sound)
    settings["shape"][name] = size
    loaded(sound, settings)
