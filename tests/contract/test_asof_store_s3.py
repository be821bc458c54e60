"""The store behind the Feast SDK on files in S3, served over HTTP, against the oracle."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast_config import feast_config
from file_layouts import LAYOUTS, T0, Home, countries, histories, moments, styles
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from s3_server import BUCKET, SECRET, s3_fixture, s3_server_fixture  # noqa: F401 - the fixture `s3`

from scalr_ray.core.errors import DataError, RetryLater, UsageError
from scalr_ray.core.events import TIMESTAMP
from tests.contract.asof_oracle import FeatureRow, Rule, look_up

pytestmark = pytest.mark.feast

HOMES = ("local", "s3")
TTL = timedelta(hours=2)


def definitions(homes: dict[str, Home]) -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Int64, String

    country = Entity(name="country", join_keys=["country"], value_type=ValueType.STRING)
    person = Entity(name="person", join_keys=["person"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=f"{layout}_{where}",
            entities=[country, person],
            ttl=TTL,
            schema=[
                Field(name="country", dtype=String),
                Field(name="person", dtype=Int64),
                Field(name="amount", dtype=Int64),
                Field(name="shard", dtype=Int64),
            ],
            source=FileSource(
                name=f"{layout}_{where}_source",
                path=home.path(layout),
                s3_endpoint_override=home.s3.endpoint if home.s3 else None,
                timestamp_field="at",
                created_timestamp_column="known",
            ),
        )
        for layout in LAYOUTS
        for where, home in homes.items()
    ]
    return [country, person, *views]


@pytest.fixture
def homes(s3, tmp_path) -> dict[str, Home]:
    if s3.keys():
        s3.files.delete_dir_contents(BUCKET)
    return {"local": Home(str(tmp_path / "data")), "s3": Home("data", s3)}


@pytest.fixture
def store(homes, tmp_path) -> Any:
    from feast import FeatureStore

    store = FeatureStore(
        config=feast_config(tmp_path, blob_export_location=f"s3://{BUCKET}/exports")
    )
    store.apply(definitions(homes))
    return store


@given(
    history=histories,
    kept=styles,
    asked=st.lists(st.tuples(countries, st.integers(0, 2), moments), min_size=1, max_size=6),
    cut_off=st.booleans(),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_layout_in_every_place_gives_what_the_oracle_says(
    homes, store, history, kept, asked, cut_off
) -> None:
    assume(not all(kept[row.file].bare and row.amount is None for row in history))
    for home in homes.values():
        home.fill(history, kept)
    found = store.get_historical_features(
        entity_df=pd.DataFrame(asked, columns=["country", "person", "event_timestamp"]),
        features=[
            f"{layout}_{where}:{name}"
            for layout in LAYOUTS
            for where in HOMES
            for name in ("amount", "shard")
        ],
        full_feature_names=True,
        filter_by_created_timestamp=cut_off,
    ).to_arrow()
    rows = [
        FeatureRow((row.country, row.person), row.at, row.known, (row.amount, row.shard))
        for row in history
    ]
    rule = Rule(ttl=TTL, cut_off=cut_off)
    right = [look_up(rows, (land, who), t, rule) or (None, None) for land, who, t in asked]
    for layout in LAYOUTS:
        for where in HOMES:
            columns = [
                found[f"{layout}_{where}__{name}"].to_pylist() for name in ("amount", "shard")
            ]
            assert list(zip(*columns, strict=True)) == right, (layout, where)


def rows(count: int = 3, *, start: int = 0) -> pd.DataFrame:
    numbers = range(start, start + count)
    times = [T0 + timedelta(microseconds=number) for number in numbers]
    return pd.DataFrame(
        {
            "country": "DE",
            "person": numbers,
            "amount": numbers,
            "shard": 1,
            "at": times,
            "known": times,
        }
    )


def asked(count: int) -> pd.DataFrame:
    times = {"event_timestamp": T0 + timedelta(hours=1)}
    return pd.DataFrame({"country": "DE", "person": range(count), **times})


def amounts(store: Any, count: int, view: str = "folder_s3") -> Any:
    return store.get_historical_features(asked(count), [f"{view}:amount"])


def seed(store: Any, view: str, frame: pd.DataFrame) -> None:
    """Write first rows; Feast's own call asks the source for its columns, so it needs some."""
    from scalr_ray.offline_store import AsOfOfflineStore

    AsOfOfflineStore.offline_write_batch(
        store.config, store.get_feature_view(view), pa.Table.from_pandas(frame), None
    )


def test_writes_add_one_object_each_and_repeating_one_changes_nothing(store, homes) -> None:
    s3 = homes["s3"].s3
    for view in ("folder_s3", "folder_local"):
        seed(store, view, rows(3))
        for frame in (rows(3), rows(2, start=3)):
            store.write_to_offline_store(view, frame)
    local = sorted(file.name for file in (Path(homes["local"].folder) / "folder").iterdir())
    assert s3.keys("data/folder") == [f"data/folder/{name}" for name in local]
    assert len(local) == 2
    assert amounts(store, 6).to_arrow()["amount"].to_pylist() == [0, 1, 2, 3, 4, None]


@pytest.mark.filterwarnings("ignore:.*is an experimental feature:RuntimeWarning")
def test_saved_dataset_is_read_back_and_not_overwritten_by_accident(store, homes) -> None:
    from feast.errors import SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    s3 = homes["s3"].s3
    seed(store, "folder_s3", rows())
    storage = SavedDatasetFileStorage(
        path=f"s3://{BUCKET}/saved/first.parquet", s3_endpoint_override=s3.endpoint
    )
    store.create_saved_dataset(amounts(store, 3), "first", storage)
    assert s3.table("saved/first.parquet")["amount"].to_pylist() == [0, 1, 2]
    assert store.get_saved_dataset("first").to_df()["amount"].tolist() == [0, 1, 2]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        amounts(store, 2).persist(storage)
    amounts(store, 2).persist(storage, allow_overwrite=True)
    assert s3.table("saved/first.parquet").num_rows == 2
    assert s3.keys("saved") == ["saved/first.parquet"]


def test_exports_are_new_folders_of_several_files_in_order(
    store, homes, monkeypatch, tmp_path
) -> None:
    from feast import FeatureStore

    from scalr_ray.offline_store import job

    s3 = homes["s3"].s3
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    monkeypatch.setattr(job, "EXPORT_ROWS", 4)
    seed(store, "folder_s3", rows(10))
    local = FeatureStore(config=feast_config(tmp_path, blob_export_location="exports"))
    for exporting, read in (
        (store, lambda uri: s3.table(uri.removeprefix(f"s3://{BUCKET}/"))),
        (local, pq.read_table),
    ):
        wanted = amounts(exporting, 10)
        assert wanted.supports_remote_storage_export()
        uris = wanted.to_remote_storage()
        assert [read(uri).num_rows for uri in uris] == [4, 4, 2]
        assert pa.concat_tables(map(read, uris)) == wanted.to_arrow()
        assert len({*uris, *amounts(exporting, 0).to_remote_storage()}) == 4
    assert all(Path(uri).is_relative_to(tmp_path / "exports") for uri in uris)


def test_exports_without_a_location_name_the_setting(homes, tmp_path) -> None:
    from feast import FeatureStore

    store = FeatureStore(config=feast_config(tmp_path))
    store.apply(definitions(homes))
    wanted = amounts(store, 1)
    assert not wanted.supports_remote_storage_export()
    with pytest.raises(UsageError, match=r"offline_store\.blob_export_location"):
        wanted.to_remote_storage()


@pytest.mark.filterwarnings("ignore:On demand feature view:RuntimeWarning")
def test_batches_hold_the_result_with_on_demand_features(store) -> None:
    from feast import Field
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Int64

    @on_demand_feature_view(
        sources=[store.get_feature_view("folder_s3")],
        schema=[Field(name="double", dtype=Int64)],
        mode="pandas",
    )
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"double": inputs["amount"] * 2})

    store.apply(doubled)
    count = 70_000
    seed(store, "folder_s3", rows(count))
    wanted = store.get_historical_features(asked(count), ["folder_s3:amount", "doubled:double"])
    batches = list(wanted.to_arrow_batches())
    assert [batch.num_rows for batch in batches] == [65_536, count - 65_536]
    assert pa.Table.from_batches(batches) == wanted.to_arrow()
    assert batches[1]["double"][0].as_py() == 2 * 65_536


def pull(tmp_path: Path, path: str, endpoint: str, **bounds: datetime) -> pa.Table:
    from feast import FileSource

    from scalr_ray.offline_store import AsOfOfflineStore

    source = FileSource(
        name="source", path=path, timestamp_field="at", s3_endpoint_override=endpoint
    )
    return AsOfOfflineStore.pull_all_from_table_or_query(
        feast_config(tmp_path), source, ["person"], ["amount"], "at", **bounds
    ).to_arrow()


def many(count: int) -> pa.Table:
    """Rows a second apart, with a column nobody asks for."""
    return pa.table(
        {
            "person": range(count),
            "amount": range(count),
            "fat": [os.urandom(64) for _ in range(count)],
            "at": pa.array([T0 + timedelta(seconds=number) for number in range(count)], TIMESTAMP),
        }
    )


def test_columns_and_row_groups_that_are_not_needed_are_not_read(homes, tmp_path) -> None:
    s3 = homes["s3"].s3
    stream = pa.BufferOutputStream()
    pq.write_table(many(3000), stream, row_group_size=1000, compression="none")
    content = bytearray(stream.getvalue())
    footer = pq.read_metadata(pa.BufferReader(bytes(content)))
    for group in range(footer.num_row_groups):
        for place in range(footer.num_columns):
            chunk = footer.row_group(group).column(place)
            if group != 1 or chunk.path_in_schema == "fat":
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                content[start : start + 40] = b"\xff" * 40
    s3.put("damaged/part-0.parquet", bytes(content))
    since, until = T0 + timedelta(seconds=1200), T0 + timedelta(seconds=1499)
    found = pull(tmp_path, f"s3://{BUCKET}/damaged", s3.endpoint, start_date=since, end_date=until)
    assert sorted(found["amount"].to_pylist()) == list(range(1200, 1500))
    with pytest.raises(DataError, match="cannot be read"):
        pull(tmp_path, f"s3://{BUCKET}/damaged", s3.endpoint)


def test_hidden_and_staged_objects_are_not_read(homes, tmp_path) -> None:
    s3 = homes["s3"].s3
    for name in ("part-0.parquet", ".part-1.parquet", "_tmp/part-1.parquet", "deep/part-2.parquet"):
        s3.put(f"data/{name}", many(2))
    s3.put("data/_SUCCESS", b"")
    s3.put("data/notes.txt", b"no rows")
    for path, count in (
        ("data", 4),
        ("data/*.parquet", 2),
        ("data/**", 4),
        ("data/*/part-*.parquet", 2),
        ("data/part-0.parquet", 2),
        ("dat*", 4),
    ):
        assert pull(tmp_path, f"s3://{BUCKET}/{path}", s3.endpoint).num_rows == count, path


def test_a_folder_without_objects_is_empty_and_an_object_that_is_gone_is_named(
    homes, tmp_path
) -> None:
    s3 = homes["s3"].s3
    assert pull(tmp_path, f"s3://{BUCKET}/nothing", s3.endpoint).num_rows == 0
    assert pull(tmp_path, f"s3://{BUCKET}/nothing/*.parquet", s3.endpoint).num_rows == 0
    with pytest.raises(DataError, match=rf"s3://{BUCKET}/nothing\.parquet is gone"):
        pull(tmp_path, f"s3://{BUCKET}/nothing.parquet", s3.endpoint)
    with pytest.raises(DataError, match="no bucket 'elsewhere'"):
        pull(tmp_path, "s3://elsewhere/nothing", s3.endpoint)


def test_a_corrupt_object_is_named(homes, tmp_path) -> None:
    s3 = homes["s3"].s3
    s3.put("data/part-0.parquet", many(2))
    s3.put("data/part-x.parquet", b"no parquet, whatever it is called")
    with pytest.raises(DataError, match=r"part-x\.parquet"):
        pull(tmp_path, f"s3://{BUCKET}/data", s3.endpoint)


@pytest.mark.parametrize("path", ["data", "data/part-*.parquet", "data/part-0.parquet"])
def test_refused_credentials_are_told_without_showing_them(homes, store, tmp_path, path) -> None:
    s3 = homes["s3"].s3
    with s3.checking_identities():
        for refused in (
            lambda: pull(tmp_path, f"s3://{BUCKET}/{path}", s3.endpoint),
            lambda: seed(store, "folder_s3", rows()),
        ):
            with pytest.raises(DataError, match="set AWS_ACCESS_KEY_ID") as caught:
                refused()
            assert SECRET not in caught.value.message
            assert "\n" not in str(caught.value)
    assert s3.keys() == []


@pytest.mark.parametrize("path", ["data", "data/part-*.parquet", "data/part-0.parquet"])
def test_a_server_that_is_not_there_can_be_tried_again(s3, tmp_path, path) -> None:  # noqa: ARG001
    with pytest.raises(RetryLater, match="check the network and s3_endpoint_override") as caught:
        pull(tmp_path, f"s3://{BUCKET}/{path}", "http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_credentials_refused_between_finding_and_reading_are_told(homes, tmp_path) -> None:
    from feast import FileSource

    from scalr_ray.offline_store.limits import Limits, open_duck
    from scalr_ray.offline_store.sources.find import find_rows
    from scalr_ray.offline_store.sources.reading import Access, Reading

    s3 = homes["s3"].s3
    s3.put("data/part-0.parquet", many(2))
    source = FileSource(path=f"s3://{BUCKET}/data", s3_endpoint_override=s3.endpoint)
    access = Access(repo=tmp_path)
    found = find_rows(source, Reading(columns={"at": "at"}, times=("at",)), access)
    limits = Limits(memory_limit="1GB", threads=1, spill_dir=None)

    def shown() -> pa.Table:
        with open_duck(limits) as session:
            found.open(session, "rows")
            return session.sql("FROM rows").to_arrow_table()

    assert shown().num_rows == 2
    with s3.checking_identities():
        with pytest.raises(DataError, match="set AWS_ACCESS_KEY_ID"):
            shown()
        with pytest.raises(DataError, match="set AWS_ACCESS_KEY_ID"):
            [list(piece.read()) for piece in found.pieces()]
