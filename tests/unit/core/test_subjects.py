from __future__ import annotations

import hmac
import stat
import threading

import duckdb
import pyarrow as pa
import pytest

from scalr_ray.core.errors import ConfigError, UsageError
from scalr_ray.core.layout import Layout
from scalr_ray.core.private import secret_in, write_private
from scalr_ray.core.subjects import ErasedUsers, SubjectKey, typed_ids


@pytest.fixture
def layout(tmp_path):
    return Layout(repo=tmp_path, data=tmp_path / "data")


def erased(layout, *user_ids):
    key = SubjectKey.of(layout)
    return ErasedUsers.of(layout, frozenset(key.subject(user_id) for user_id in user_ids))


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_subject_is_a_keyed_hash_of_the_text_of_the_id(layout):
    key = SubjectKey.of(layout)
    assert len(key.secret) == 32
    assert key.subject("ü1") == hmac.new(key.secret, "ü1".encode(), "sha256").hexdigest()
    assert key.subject(-7) == key.subject("-7")
    assert SubjectKey.of(layout) == key
    other = SubjectKey.of(Layout(repo=layout.repo, data=layout.data / "other"))
    assert other.subject("ü1") != key.subject("ü1")


def test_the_key_is_for_its_owner_alone_and_made_once(layout):
    secrets: list[str] = []
    makers = [
        threading.Thread(target=lambda: secrets.append(secret_in(layout.erasure_key)))
        for _ in range(8)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert set(secrets) == {layout.erasure_key.read_text()}
    assert mode_of(layout.erasure_key) == 0o600
    assert [path.name for path in layout.data.iterdir()] == ["erasure.key"]


def test_a_private_file_is_replaced_whole(layout):
    path = layout.erasures / "one.json"
    for text in ("first", "second"):
        write_private(path, text)
        assert path.read_text() == text
        assert mode_of(path) == 0o600
    assert mode_of(layout.erasures) == 0o700
    assert [found.name for found in layout.erasures.iterdir()] == ["one.json"]


IDS = {
    pa.string(): ["a", "b", None, "ü", "a", ""],
    pa.large_string(): ["a", "b", None, "ü", "a", ""],
    pa.int64(): [1, 2, None, -3, 1, 2**62],
}


@pytest.mark.parametrize("kind", IDS, ids=str)
def test_arrow_and_duckdb_know_the_same_users(layout, kind):
    column = pa.array(IDS[kind], kind)
    known = erased(layout, IDS[kind][0], IDS[kind][3])
    expected = [True, False, False, True, True, False]
    assert known.marks(column).to_pylist() == expected
    assert known.marks(pa.chunked_array([column.slice(0, 2), column.slice(2)])).to_pylist() == (
        expected
    )
    rows = pa.table({"user_id": column, "number": range(6)})
    assert known.without(rows)["number"].to_pylist() == [1, 2, 5]
    with duckdb.connect() as session:
        session.register("events", rows)
        sql = known.others_sql("SELECT * FROM events", "int64" if kind == pa.int64() else "string")
        left = session.sql(f"SELECT number FROM ({sql}) ORDER BY number").to_arrow_table()
    assert left["number"].to_pylist() == [1, 2, 5]


def test_where_nobody_was_erased_nothing_is_hashed_and_no_key_is_made(layout):
    nobody = ErasedUsers.of(layout, frozenset())
    rows = pa.table({"user_id": ["a"]})
    assert not nobody
    assert nobody.without(rows) is rows
    assert nobody.marks(rows["user_id"]).to_pylist() == [False]
    assert nobody.others_sql("SELECT 1", "string") == "SELECT 1"
    assert not layout.erasure_key.exists()


def test_a_lost_key_is_told(layout):
    assert erased(layout, "a")
    subjects = frozenset({SubjectKey.of(layout).subject("a")})
    layout.erasure_key.unlink()
    with pytest.raises(ConfigError, match="restore it from a backup"):
        ErasedUsers.of(layout, subjects)
    assert not layout.erasure_key.exists()


def test_ids_are_typed_as_the_repository_has_them():
    assert typed_ids(["b", "a", "b"], "string") == ["b", "a"]
    assert typed_ids(["0", "-12", "9223372036854775807", "0"], "int64") == [0, -12, 2**63 - 1]


@pytest.mark.parametrize("text", ["x", "007", "+1", "1.0", " 1", "-0", "٣", "9223372036854775808"])
def test_what_is_no_whole_number_is_refused_without_being_quoted(text):
    with pytest.raises(UsageError, match="no whole number of 64 bits") as refused:
        typed_ids(["1", text], "int64")
    assert text not in str(refused.value)


@pytest.mark.parametrize("kind", ["string", "int64"])
def test_an_empty_id_is_refused(kind):
    with pytest.raises(UsageError, match="is empty"):
        typed_ids(["1", ""], kind)
