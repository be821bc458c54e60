"""Hive folders: what the names of folders say reads as columns, and no more than they say."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import TIMESTAMP

pytestmark = pytest.mark.feast

T0 = datetime(2026, 3, 1, tzinfo=UTC)


def access(repo: Path) -> Any:
    from scalr_ray.offline_store.sources.reading import Access

    return Access(repo=repo)


def source(path: str) -> Any:
    from feast import FileSource

    return FileSource(name="numbers", path=path, timestamp_field="at")


def put(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"at": pa.array([T0], TIMESTAMP), "n": [1], **columns}), path)


def schema(repo: Path, path: str) -> dict[str, str]:
    from scalr_ray.offline_store.sources.find import source_schema

    found = source_schema(source(path), access(repo))
    return {field.name: str(field.type) for field in found}


def values(repo: Path, path: str, column: str) -> list[Any]:
    """What both ways of reading say, sorted by text."""
    from scalr_ray.core.duck import duck
    from scalr_ray.offline_store.sources.find import find_rows
    from scalr_ray.offline_store.sources.reading import Reading

    reading = Reading(columns={"c": column, "at": "at"}, times=("at",))
    rows = find_rows(source(path), reading, access(repo))
    with duck(threads=1) as session:
        rows.open(session, "shown")
        relation = session.sql("SELECT c FROM shown").to_arrow_table()["c"].to_pylist()
    pieces = [row["c"] for p in rows.pieces() for b in p.read() for row in b.to_pylist()]
    assert sorted(map(str, relation)) == sorted(map(str, pieces))
    return sorted(relation, key=str)


@pytest.mark.parametrize(
    ("folders", "kind", "read"),
    [
        (["1", "-20", "0"], "int64", [-20, 0, 1]),
        (["01067", "10115"], "string", ["01067", "10115"]),
        (["1", "x"], "string", ["1", "x"]),
        (["2026-01-31", "2026-02-01"], "date32[day]", [date(2026, 1, 31), date(2026, 2, 1)]),
        (["2026-01-31", "2026-02-30"], "string", ["2026-01-31", "2026-02-30"]),
        (["a%2Fb%3D%25", "'"], "string", ["'", "a/b=%"]),
        (["7", "__HIVE_DEFAULT_PARTITION__"], "int64", [7, None]),
        (["__HIVE_DEFAULT_PARTITION__"], "string", [None]),
    ],
)
def test_columns_take_the_type_that_suits_all_folders(tmp_path, folders, kind, read) -> None:
    for folder in folders:
        put(tmp_path / "events" / f"part={folder}" / "a.parquet")
    assert schema(tmp_path, "events")["part"] == kind
    assert values(tmp_path, "events", "part") == sorted(read, key=str)


def test_folders_above_the_source_say_nothing(tmp_path) -> None:
    repo = tmp_path / "n=9" / "run=1"
    put(repo / "events" / "country=DE" / "a.parquet")
    put(repo / "events" / "a.parquet")
    assert set(schema(repo, "events")) == {"at", "n", "country"}
    assert values(repo, "events", "n") == [1, 1]
    assert values(repo, "events", "country") == ["DE", None]
    for path in ("events/country=DE", "events/country=DE/*.parquet", "events/a.parquet"):
        assert set(schema(repo, path)) == {"at", "n"}
    assert values(repo, "events/country=*/*.parquet", "country") == ["DE"]


def test_what_the_files_say_is_not_overruled_by_folders(tmp_path) -> None:
    put(tmp_path / "events" / "at=2026-01-01" / "n=5" / "a.parquet")
    assert values(tmp_path, "events", "at") == [T0]
    assert values(tmp_path, "events", "n") == [1]


def test_names_of_folders_that_look_like_patterns_are_names(tmp_path) -> None:
    repo = tmp_path / "[ab]" / "x*"
    put(repo / "events" / "mark=%5B?%5D" / "[c]*.parquet")
    assert values(repo, "events", "mark") == ["[?]"]


def test_a_column_that_hides_the_number_of_the_file_is_refused(tmp_path) -> None:
    put(tmp_path / "events" / "country=DE" / "a.parquet", file_index=[3])
    with pytest.raises(DataError, match="file_index"):
        schema(tmp_path, "events")


def test_a_folder_called_like_a_file_is_a_folder(tmp_path) -> None:
    put(tmp_path / "events.parquet" / "part-0.parquet")
    put(tmp_path / "events.parquet" / "_temporary" / "part-1.parquet")
    assert values(tmp_path, "events.parquet", "n") == [1]


def test_new_rows_are_not_put_beside_folders_that_name_columns(tmp_path) -> None:
    from scalr_ray.offline_store.sources.paths import part_folder

    put(tmp_path / "events" / "country=DE" / "a.parquet")
    with pytest.raises(UsageError, match="country in the names of its folders"):
        part_folder(source("events"), access(tmp_path))
