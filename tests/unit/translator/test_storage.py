from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from translator_builds import build

from scalr_ray.core.errors import DataError
from scalr_ray.translator import Vocabulary, load_translator, save_translator
from scalr_ray.translator.counts import PairRules
from scalr_ray.translator.weighing import Weighing

FILES = ["counts.parquet", "source_items.parquet", "target_items.parquet", "translator.json"]
PEOPLE = [({0, 1}, {0, 4}), ({1, 3}, {1, 2}), ({0}, {1}), (set(), {3})]


def built(**strength):
    translator = build(PEOPLE, alpha=0.1 + 0.2, shrinkage=1 / 3, temperature=np.pi, **strength)
    return replace(translator, delays=np.array([0, 1, 2**53 + 1, 2**62], dtype=np.int64))


def assert_equal_bit_for_bit(left, right):
    assert left.train_cutoff == right.train_cutoff
    assert left.strength == right.strength
    for name in ("source_items", "target_items"):
        assert getattr(left, name).ids.equals(getattr(right, name).ids)
    for name in ("marginal", "prior", "first_seen", "delays"):
        ours, theirs = getattr(left, name), getattr(right, name)
        assert (ours.dtype, ours.tobytes()) == (theirs.dtype, theirs.tobytes())
    for name in ("data", "indices", "indptr"):
        ours, theirs = getattr(left.counts, name), getattr(right.counts, name)
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()
    assert left.counts.shape == right.counts.shape


def test_how_it_was_counted_is_kept(tmp_path):
    plain = built()
    weighing = Weighing(
        rules=PairRules(event_weights={"buy": 2.0, "view": 0.5}, half_life_days=30.0),
        event_types=Vocabulary(ids=pa.array(["buy", "view"])),
        history_half_life_days=90.0,
        min_users=2,
    )
    translator = replace(plain, weighing=weighing, pair_users=plain.counts * 3)
    save_translator(translator, tmp_path / "weighed")
    loaded = load_translator(tmp_path / "weighed")
    assert loaded.weighing.to_json() == weighing.to_json()
    assert (loaded.pair_users != translator.pair_users).nnz == 0
    assert loaded.mix == plain.mix


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "translators" / "frequency-1"
    save_translator(built(), path)
    return path


def test_round_trip_is_exact(folder):
    assert_equal_bit_for_bit(load_translator(folder), built())


def test_integer_item_ids_survive(tmp_path):
    numbered = replace(built(), target_items=Vocabulary(ids=pa.array([-3, 0, 1, 5, 2**62])))
    save_translator(numbered, tmp_path / "t")
    assert_equal_bit_for_bit(load_translator(tmp_path / "t"), numbered)


def test_a_translator_without_any_pair_survives(tmp_path):
    lonely = replace(build([({0}, set()), (set(), {1})]), delays=np.empty(0, dtype=np.int64))
    save_translator(lonely, tmp_path / "t")
    assert_equal_bit_for_bit(load_translator(tmp_path / "t"), lonely)


def test_only_data_formats_lie_there(folder):
    assert sorted(path.name for path in folder.iterdir()) == FILES
    for name in FILES[:3]:
        assert (folder / name).read_bytes().startswith(b"PAR1")
        # Objects would hide in a binary column or in extension metadata.
        kinds = set(pq.read_schema(folder / name).types)
        assert kinds <= {pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string()}
    json.loads((folder / "translator.json").read_text())


def test_saving_again_replaces_all_and_leaves_nothing_beside(folder):
    other = built(prior=[1, 1, 1, 1, 6])
    save_translator(other, folder)
    assert_equal_bit_for_bit(load_translator(folder), other)
    assert list(folder.parent.iterdir()) == [folder]


def test_leftovers_of_a_killed_save_do_not_matter(folder):
    for leftover in (".frequency-1.partial", ".frequency-1.replaced"):
        (folder.parent / leftover).mkdir()
        (folder.parent / leftover / "counts.parquet").write_bytes(b"half")
    save_translator(built(), folder)
    assert_equal_bit_for_bit(load_translator(folder), built())
    assert list(folder.parent.iterdir()) == [folder]


def assert_refused(folder, words):
    with pytest.raises(DataError, match=words) as caught:
        load_translator(folder)
    assert "\n" not in caught.value.message
    assert "scalr train" in caught.value.message


def test_a_missing_folder_is_refused(tmp_path):
    assert_refused(tmp_path / "nowhere", "unreadable")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    assert_refused(folder, "unreadable")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    assert_refused(folder, "unreadable|damaged")


@pytest.mark.parametrize("name", FILES[:3])
def test_a_single_flipped_bit_is_refused(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 3] ^= 1
    (folder / name).write_bytes(content)
    assert_refused(folder, f"{name} is damaged")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe", "unreadable"),
        (b"{", "unreadable"),
        (b"[]", "unreadable"),
        (b"{}", "unreadable"),
        (b'{"format": 99}', "another format"),
        (b'{"format": 2, "files": 3}', "unreadable"),
        (b'{"format": 2, "files": {}}', "unreadable"),
    ],
)
def test_malformed_settings_are_refused(folder, text, words):
    (folder / "translator.json").write_bytes(text)
    assert_refused(folder, words)


def test_codes_outside_the_vocabulary_are_refused(folder):
    settings = json.loads((folder / "translator.json").read_text())
    wrong = pa.table(
        {
            "source": pa.array([99], pa.int32()),
            "target": pa.array([0], pa.int32()),
            "users": pa.array([1.0], pa.float32()),
        }
    )
    pq.write_table(wrong, folder / "counts.parquet")
    settings["files"] = {}
    (folder / "translator.json").write_text(json.dumps(settings))
    assert_refused(folder, "unreadable")
