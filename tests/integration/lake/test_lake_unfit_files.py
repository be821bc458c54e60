"""Files that do not fit the table are refused before a commit names them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lake_rows import SCHEMA, events

from scalr_ray.core.errors import DataError
from scalr_ray.lake import SyntheticEventLake


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
    "no events": (events("b1", 0), "holds no events"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_files_are_refused_and_nothing_is_published(
    lake: SyntheticEventLake, name: str
) -> None:
    table, message = UNFIT[name]
    lake.write_staged("ok", events("ok", 1))
    lake.publish("ok")
    pq.write_table(table, lake.staging_dir("b1") / "part-0.parquet")
    with pytest.raises(DataError, match=message):
        lake.publish("b1")
    assert list(lake.published_batches()) == ["ok"]


@pytest.mark.parametrize("name", ["missing column", "other id type", "another batch", "nullable"])
def test_local_writers_cannot_stage_unfit_rows(lake: SyntheticEventLake, name: str) -> None:
    table, message = UNFIT[name]
    with pytest.raises(DataError, match=message):
        lake.write_staged("b1", table)
    assert lake.staged_files("b1") == []


@pytest.mark.parametrize("keep", [0, 10, -8])
def test_corrupt_files_are_refused(lake: SyntheticEventLake, keep: int) -> None:
    path = lake.write_staged("b1", events("b1", 2))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        lake.publish("b1")
    assert lake.read().num_rows == 0
