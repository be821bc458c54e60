from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pytest

from scalr_ray.core.errors import DataError
from scalr_ray.core.events import TIMESTAMP
from scalr_ray.offline_store.entity_rows import key_columns, read_entities, time_range

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "times",
    [
        pd.Series([T0]),
        pd.Series([T0.replace(tzinfo=None)]),
        pd.Series([pd.Timestamp(T0).tz_convert("Asia/Tokyo")]),
        pd.Series([pd.Timestamp(T0) + pd.Timedelta(nanoseconds=999)]),
    ],
)
def test_times_become_utc_microseconds(times) -> None:
    table = read_entities(pd.DataFrame({"event_timestamp": times}))
    assert table["event_timestamp"].to_pylist() == [T0]
    assert table.schema.field("event_timestamp").type == TIMESTAMP


def test_a_date_means_its_midnight() -> None:
    table = read_entities(pa.table({"event_timestamp": [T0.date()]}))
    assert table["event_timestamp"].to_pylist() == [T0.replace(hour=0)]


def test_the_only_timestamp_column_is_the_time_and_keeps_its_name_and_place() -> None:
    table = read_entities(pd.DataFrame({"when": [T0], "user_id": ["u"]}))
    assert table.column_names == ["when", "user_id"]


def test_two_timestamp_columns_are_ambiguous() -> None:
    with pytest.raises(DataError, match="one timestamp column"):
        read_entities(pd.DataFrame({"when": [T0], "then": [T0]}))


def test_time_range_ignores_nulls_and_may_be_empty() -> None:
    assert time_range(pa.chunked_array([[None, T0]], TIMESTAMP)) == (T0, T0)
    assert time_range(pa.chunked_array([], TIMESTAMP)) == (None, None)


def test_categories_and_empty_keys_take_the_type_of_the_view() -> None:
    table = pa.table({"a": pa.array(["x", "y"]).dictionary_encode(), "b": pa.nulls(2)})
    a, b = key_columns(table, ["a", "b"], [pa.string(), pa.int64()], "v")
    assert a.to_pylist() == ["x", "y"]
    assert b.type == pa.int64()


def test_whole_floats_are_integers_and_others_are_refused() -> None:
    (key,) = key_columns(pa.table({"k": [1.0, None]}), ["k"], [pa.int32()], "v")
    assert key.to_pylist() == [1, None]
    with pytest.raises(DataError, match="'k' is double, but feature view 'v' keys it as int32"):
        key_columns(pa.table({"k": [1.5]}), ["k"], [pa.int32()], "v")


def test_lists_are_no_keys_of_numbers() -> None:
    entities = pa.table({"till": [[1], [2]]})
    with pytest.raises(DataError, match=r"'till' is list.*, but feature view 'v' keys it as int64"):
        key_columns(entities, ["till"], [pa.int64()], "v")


def test_the_kernel_can_be_had_without_feast_or_ray() -> None:
    script = (
        "import sys, scalr_ray.offline_store.kernel, scalr_ray.offline_store.entity_rows;"
        "sys.exit(any(name in sys.modules for name in ('feast', 'ray', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
