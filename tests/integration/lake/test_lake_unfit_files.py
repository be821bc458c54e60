"""Files that do not fit the table are refused before a commit names them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lake_rows import SCHEMA, events

from scalr_ray.core.errors import DataError
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake


@pytest.fixture
def layout(local_layout: Layout) -> Layout:
    return local_layout


def nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema(field.with_nullable(nullable=True) for field in schema)


def with_type(name: str, kind: pa.DataType) -> pa.Schema:
    position = SCHEMA.get_field_index(name)
    return SCHEMA.set(position, SCHEMA.field(name).with_type(kind))


UNFIT = {
    "nullable": (events("b1", 2).cast(nullable(SCHEMA)), "'event_id' allows nulls"),
    "missing column": (events("b1", 2).drop_columns(["domain"]), "'domain' is missing"),
    "extra column": (
        events("b1", 2).append_column("more", pa.array([1, 2])),
        "'more' does not belong",
    ),
    "other id type": (
        events("b1", 2).cast(with_type("item_id", pa.string())),
        "'item_id' is string, not int64",
    ),
    "dictionary": (
        events("b1", 2).cast(with_type("domain", pa.dictionary(pa.int32(), pa.string()))),
        "'domain' is dictionary",
    ),
    "naive time": (
        events("b1", 2).cast(with_type("generated_at", pa.timestamp("us"))),
        "'generated_at' is timestamp",
    ),
    "another batch": (events("b2", 2), "rows of batch 'b2'"),
    "an event twice": (
        pa.concat_tables([events("b1", 2), events("b1", 1)]),
        "1 of 3 staged events are there twice",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_files_are_refused_and_nothing_is_staged(
    lake: SyntheticEventLake, tmp_path: Path, name: str
) -> None:
    table, message = UNFIT[name]
    lake.write_staged("b1", events("b1", 1, first=7))
    pq.write_table(table, tmp_path / "part-0.parquet")
    with pytest.raises(DataError, match=message):
        lake.stage("b1", tmp_path)
    assert (tmp_path / "part-0.parquet").exists()
    assert lake.publish("b1").rows == 1


@pytest.mark.parametrize("name", ["missing column", "other id type", "another batch", "nullable"])
def test_local_writers_cannot_stage_unfit_rows(lake: SyntheticEventLake, name: str) -> None:
    table, message = UNFIT[name]
    with pytest.raises(DataError, match=message):
        lake.write_staged("b1", table)
    assert lake.staged_files("b1") == []


@pytest.mark.parametrize("keep", [0, 10, -8])
def test_corrupt_files_are_refused(lake: SyntheticEventLake, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "part-0.parquet"
    pq.write_table(events("b1", 2), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        lake.stage("b1", tmp_path)
    assert lake.staged_files("b1") == []
