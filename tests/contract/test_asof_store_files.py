"""What the offline store reads from and writes to disk, and how it says that something is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast_config import feast_config

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import TIMESTAMP

pytestmark = pytest.mark.feast

T0 = datetime(2026, 3, 1, tzinfo=UTC)


def rows(count: int = 3) -> pa.Table:
    return pa.table(
        {
            "key": [f"k{n}" for n in range(count)],
            "value": list(range(count)),
            "event_timestamp": pa.array([T0 + timedelta(hours=n) for n in range(count)], TIMESTAMP),
        }
    )


def source(path: str, **options: Any) -> Any:
    from feast import FileSource

    return FileSource(name="numbers", path=path, timestamp_field="event_timestamp", **options)


def view(path: str, **options: Any) -> Any:
    from feast import Entity, FeatureView, Field, ValueType
    from feast.types import Int64, String

    return FeatureView(
        name="numbers",
        entities=[Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)],
        schema=[Field(name="key", dtype=String), Field(name="value", dtype=Int64)],
        source=source(path, **options),
    )


def pull(repo: Path, path: str, **options: Any) -> Any:
    from scalr_ray.offline_store import AsOfOfflineStore

    return AsOfOfflineStore.pull_all_from_table_or_query(
        feast_config(repo, **options), source(path), ["key"], ["value"], "event_timestamp"
    )


def write(repo: Path, path: str, table: pa.Table, **options: Any) -> None:
    from scalr_ray.offline_store import AsOfOfflineStore

    AsOfOfflineStore.offline_write_batch(feast_config(repo), view(path, **options), table, None)


@pytest.mark.parametrize("path", ["numbers", "numbers/part-*.parquet"])
def test_repeating_a_write_changes_nothing_and_another_adds_a_file(tmp_path, path) -> None:
    write(tmp_path, path, rows(3))
    write(tmp_path, path, pa.concat_tables([rows(3).slice(0, 1), rows(3).slice(1)]))
    assert pull(tmp_path, path).to_arrow().num_rows == 3
    write(tmp_path, path, rows(2))
    assert pull(tmp_path, path).to_arrow().num_rows == 5
    names = [file.name for file in (tmp_path / "numbers").iterdir()]
    assert len(names) == 2
    assert all(name.startswith("part-") for name in names)


def test_written_columns_take_the_names_of_the_source(tmp_path) -> None:
    write(tmp_path, "numbers", rows(), field_mapping={"raw": "value"})
    (file,) = (tmp_path / "numbers").iterdir()
    assert "raw" in pq.read_schema(file).names


def test_a_write_that_lacks_a_column_leaves_nothing(tmp_path) -> None:
    with pytest.raises(DataError, match=r"lack the column.* value"):
        write(tmp_path, "numbers", rows().drop_columns("value"))
    assert not (tmp_path / "numbers").exists()


@pytest.mark.parametrize("path", ["numbers.parquet", "numbers/*.parquet", "*/part-*.parquet"])
def test_writes_go_only_where_parts_are_read(tmp_path, path) -> None:
    with pytest.raises(UsageError, match="part-"):
        write(tmp_path, path, rows())


def test_hidden_and_staged_files_are_not_read(tmp_path) -> None:
    write(tmp_path, "numbers", rows())
    for hidden in (".part-1.parquet", "_staging/part-1.parquet", "_part-1.parquet"):
        (tmp_path / "numbers" / hidden).parent.mkdir(exist_ok=True)
        pq.write_table(rows(2), tmp_path / "numbers" / hidden)
    for path in ("numbers", "numbers/*.parquet", "numbers/**/*.parquet"):
        assert pull(tmp_path, path).to_arrow().num_rows == 3


def test_columns_added_later_read_as_null_before(tmp_path) -> None:
    (tmp_path / "numbers").mkdir()
    pq.write_table(rows(1).drop_columns("value"), tmp_path / "numbers" / "part-0.parquet")
    pq.write_table(rows(1), tmp_path / "numbers" / "part-1.parquet")
    assert pull(tmp_path, "numbers").to_arrow()["value"].to_pylist() == [None, 0]


@pytest.mark.parametrize("path", ["numbers", "numbers/part-*.parquet"])
def test_a_place_without_files_is_empty(tmp_path, path) -> None:
    assert pull(tmp_path, path).to_arrow().num_rows == 0


def test_a_single_file_that_is_gone_is_an_error(tmp_path) -> None:
    with pytest.raises(DataError, match=r"numbers.parquet is gone"):
        pull(tmp_path, "numbers.parquet").to_arrow()


def test_a_corrupt_file_is_named(tmp_path) -> None:
    write(tmp_path, "numbers", rows())
    (tmp_path / "numbers" / "part-x.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"part-x\.parquet"):
        pull(tmp_path, "numbers").to_arrow()


def test_damaged_pages_are_an_error_of_the_data(tmp_path) -> None:
    path = tmp_path / "numbers.parquet"
    pq.write_table(rows(5000), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[100:4000] = b"\xff" * 3900
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        pull(tmp_path, "numbers.parquet").to_arrow()


def test_too_little_memory_says_which_setting_to_raise(tmp_path) -> None:
    pq.write_table(rows(50_000), tmp_path / "numbers.parquet")
    job = pull(tmp_path, "numbers.parquet", memory_limit="100KB")
    with pytest.raises(UsageError, match=r"raise offline_store\.memory_limit"):
        job.to_arrow()


def test_a_missing_column_is_named_with_those_there_are(tmp_path) -> None:
    (tmp_path / "numbers").mkdir()
    pq.write_table(rows().drop_columns("value"), tmp_path / "numbers" / "part-0.parquet")
    with pytest.raises(DataError, match=r"lacks the column.* value; it has key, event_timestamp"):
        pull(tmp_path, "numbers").to_arrow()


@pytest.mark.parametrize("path", ["gs://bucket/numbers", "http://host/a.parquet", "s3://*/a"])
def test_files_elsewhere_are_refused(tmp_path, path) -> None:
    with pytest.raises(UsageError, match="s3://<bucket>"):
        pull(tmp_path, path).to_arrow()


@pytest.mark.parametrize("path", ["numbers", "numbers/part-*.parquet", "numbers.parquet"])
def test_views_may_be_registered_before_their_first_row(tmp_path, path) -> None:
    from scalr_ray.offline_store import AsOfOfflineStore

    AsOfOfflineStore().validate_data_source(feast_config(tmp_path), source(path))


@pytest.mark.parametrize(
    ("kind", "line"), [(None, "lacks the column"), (pa.string(), "is string, not a timestamp")]
)
def test_time_columns_of_what_is_there_are_checked(tmp_path, kind, line) -> None:
    from scalr_ray.offline_store import AsOfOfflineStore

    table = rows().drop_columns("event_timestamp")
    if kind is not None:
        table = table.append_column("event_timestamp", pa.array(["a", "b", "c"], kind))
    pq.write_table(table, tmp_path / "numbers.parquet")
    with pytest.raises(DataError, match=line):
        AsOfOfflineStore().validate_data_source(feast_config(tmp_path), source("numbers.parquet"))


def test_columns_for_inference_are_those_on_disk(tmp_path) -> None:
    from scalr_ray.offline_store import AsOfOfflineStore

    store = AsOfOfflineStore()
    with pytest.raises(DataError, match="no data yet"):
        store.get_table_column_names_and_types_from_data_source(
            feast_config(tmp_path), source("numbers/part-*.parquet")
        )
    write(tmp_path, "numbers", rows())
    columns = store.get_table_column_names_and_types_from_data_source(
        feast_config(tmp_path), source("numbers/part-*.parquet")
    )
    assert list(columns) == [
        ("key", "string"),
        ("value", "int64"),
        ("event_timestamp", "timestamp[us, tz=UTC]"),
    ]


def test_lists_are_spelt_as_the_inference_of_feast_reads_them(tmp_path) -> None:
    from feast import ValueType
    from feast.type_map import pa_to_feast_value_type

    from scalr_ray.offline_store import AsOfOfflineStore

    write(tmp_path, "numbers", rows().append_column("tags", pa.array([["a"], [], None])))
    columns = AsOfOfflineStore().get_table_column_names_and_types_from_data_source(
        feast_config(tmp_path), source("numbers")
    )
    assert pa_to_feast_value_type(dict(columns)["tags"]) is ValueType.STRING_LIST


def test_saved_dataset_is_one_file_that_is_not_overwritten_by_accident(tmp_path) -> None:
    from feast.errors import SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    write(tmp_path, "numbers", rows())
    job = pull(tmp_path, "numbers")
    saved = SavedDatasetFileStorage(path="saved/numbers.parquet")
    job.persist(saved)
    assert pq.read_table(tmp_path / "saved" / "numbers.parquet") == job.to_arrow()
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(saved)
    write(tmp_path, "numbers", rows(1))
    job.persist(saved, allow_overwrite=True)
    assert pq.read_table(tmp_path / "saved" / "numbers.parquet").num_rows == 4
    assert [file.name for file in (tmp_path / "saved").iterdir()] == ["numbers.parquet"]
    with pytest.raises(UsageError, match=r"ends in \.parquet"):
        job.persist(SavedDatasetFileStorage(path="saved"))


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_ray_dataset_has_several_blocks_and_all_rows_in_order(tmp_path) -> None:
    import ray

    count = 120_001
    write(tmp_path, "numbers", rows(count))
    ray.init(
        "local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        dataset = pull(tmp_path, "numbers").to_ray_dataset().materialize()
        assert dataset.num_blocks() == 3
        assert dataset.schema().base_schema.field("event_timestamp").type == TIMESTAMP
        assert [row["value"] for row in dataset.take_all()] == list(range(count))
    finally:
        ray.shutdown()
