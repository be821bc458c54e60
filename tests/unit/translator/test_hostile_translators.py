"""Frequency translators by somebody who means harm: refused in one line, or fit to be asked."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forged_translators import SETTINGS, forged, said
from hostile import NAMES, changed, damaged, examples, tried
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import matrix, users_of
from translator_builds import build

from scalr_ray.core.errors import DataError
from scalr_ray.translator import FrequencyTranslator, load_translator, log_likelihood
from scalr_ray.translator import save_translator as save

TABLES = ("counts.parquet", "source_items.parquet", "target_items.parquet")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "t"
    save(build([({0, 1}, {2}), ({1}, {2, 3}), ({3}, {4})]), folder)
    return folder


def loaded(folder: Path) -> FrequencyTranslator | DataError:
    """What is loaded can be asked, and says likelihoods."""
    before = sorted(folder.parent.rglob("*"))
    got = tried(lambda: load_translator(folder), DataError)
    assert sorted(folder.parent.rglob("*")) == before
    if isinstance(got, FrequencyTranslator):
        history = matrix([{0}], len(got.source_items))
        own = matrix([set()], len(got.target_items))
        likelihood = np.exp(log_likelihood(got, users_of(history, own)))
        assert not np.isnan(likelihood).any()
        assert likelihood.sum() <= 1 + 1e-3
    return got


@examples(60)
@given(data=st.data())
def test_any_value_at_any_place_of_the_settings(sound: Path, data: st.DataObject):
    settings = data.draw(changed(said(sound)))
    with TemporaryDirectory() as folder:
        loaded(forged(sound, folder, settings))


@examples(30)
@given(data=st.data(), name=st.sampled_from([SETTINGS, *TABLES]))
def test_any_damage_to_any_file(sound: Path, data: st.DataObject, name: str):
    content = data.draw(damaged((sound / name).read_bytes()))
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "t"
        shutil.copytree(sound, copy)
        (copy / name).write_bytes(content)
        loaded(copy)


@examples(40)
@given(data=st.data(), name=st.sampled_from(TABLES))
def test_any_damage_that_is_signed_for(sound: Path, data: st.DataObject, name: str):
    content = data.draw(damaged((sound / name).read_bytes()))
    with TemporaryDirectory() as folder:
        loaded(forged(sound, folder, said(sound), name, content))


columns = st.sampled_from(
    [
        pa.array([None, None], pa.float64()),
        pa.array([float("nan"), -1.0]),
        pa.array([float("inf"), 1e300]),
        pa.array([2**62, -5]),
        pa.array([0, 0]),
        pa.array([1, 2**31], pa.int64()),
        pa.array(["a", None]),
        pa.array(["t1", "t1"]),
        pa.array([[1], [2]]),
        pa.array([True, False]),
        pa.array(NAMES[:2]),
    ]
)


@examples(60)
@given(data=st.data(), name=st.sampled_from(TABLES))
def test_any_column_in_place_of_another(sound: Path, data: st.DataObject, name: str):
    table = pq.read_table(sound / name).slice(0, 2)
    column = data.draw(st.sampled_from(table.column_names))
    place = table.column_names.index(column)
    table = table.set_column(place, column, data.draw(columns))
    with TemporaryDirectory() as folder:
        pq.write_table(table, Path(folder) / "table")
        content = (Path(folder) / "table").read_bytes()
        loaded(forged(sound, folder, said(sound), name, content))


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", ".", ""])
def test_a_name_that_leads_out_of_the_folder_is_not_followed(sound: Path, tmp_path: Path, name):
    (tmp_path / "secret").write_text("secret")
    settings = said(sound)
    settings["files"][name] = hashlib.sha256(b"secret").hexdigest()
    got = loaded(forged(sound, str(tmp_path), settings))
    assert isinstance(got, DataError)
    assert "names no file beside it" in got.message
