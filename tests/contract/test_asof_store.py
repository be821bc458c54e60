"""The offline store behind the Feast SDK: point-in-time joins against the brute-force oracle."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asof_oracle import FeatureRow, Rule, look_up
from feast_config import feast_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import TIMESTAMP

pytestmark = pytest.mark.feast

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TTL = timedelta(hours=3)

times = st.integers(-4, 4).map(lambda hours: T0 + hours * HOUR)
rows = st.lists(
    st.builds(
        FeatureRow,
        st.tuples(st.sampled_from(["1", "11"]), st.sampled_from([1, 11])),
        times,
        times,
        st.tuples(st.integers(0, 3)),
    ),
    min_size=1,
    max_size=25,
)
entities = st.lists(
    st.tuples(st.tuples(st.sampled_from(["1", "11", "?", None]), st.sampled_from([1, 11])), times),
    min_size=1,
    max_size=12,
)


def write_history(folder: Path, history: Sequence[FeatureRow]) -> None:
    """Two files, and names that the source maps to those of the view."""
    table = pa.table(
        {
            "shop": pa.array([row.key[0] for row in history], pa.string()),
            "till": pa.array([row.key[1] for row in history], pa.int64()),
            "at": pa.array([row.event_time for row in history], TIMESTAMP),
            "known": pa.array([row.created for row in history], TIMESTAMP),
            "raw": pa.array([row.values[0] for row in history], pa.int64()),
        }
    )
    folder.mkdir(exist_ok=True)
    half = len(history) // 2
    pq.write_table(table.slice(0, half), folder / "part-0.parquet")
    pq.write_table(table.slice(half), folder / "part-1.parquet")


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """A registry with two views over the same history, one of them with a TTL."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Int64, String

    repo = tmp_path_factory.mktemp("contract")
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    till = Entity(name="till", join_keys=["till"], value_type=ValueType.INT64)
    source = FileSource(
        name="history",
        path="history/part-*.parquet",
        timestamp_field="happened",
        created_timestamp_column="known",
        field_mapping={"raw": "amount", "at": "happened"},
    )
    plain = FileSource(name="plain", path="history", timestamp_field="at")
    schema = [
        Field(name="shop", dtype=String),
        Field(name="till", dtype=Int64),
        Field(name="amount", dtype=Int64),
    ]
    keys = [shop, till]
    lasting = FeatureView(
        name="lasting", entities=keys, ttl=timedelta(0), schema=schema, source=source
    )
    fading = FeatureView(name="fading", entities=keys, ttl=TTL, schema=schema, source=source)
    raw = [*schema[:2], Field(name="raw", dtype=Int64)]
    unrecorded = FeatureView(name="unrecorded", entities=keys, schema=raw, source=plain)

    @on_demand_feature_view(
        sources=[lasting], schema=[Field(name="double", dtype=Int64)], mode="pandas"
    )
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"double": inputs["amount"] * 2})

    write_history(repo / "history", [FeatureRow(("1", 1), T0, T0 + HOUR, (7,))])
    store = FeatureStore(config=feast_config(repo))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Feast calls on-demand views experimental
        store.apply([shop, till, source, plain, lasting, fading, unrecorded, doubled])
    return repo


def open_store(repo: Path, **options: Any) -> Any:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(repo), config=feast_config(repo, **options))


def entity_frame(wanted: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "shop": [key[0] for key, _ in wanted],
            "till": [key[1] for key, _ in wanted],
            "event_timestamp": [t for _, t in wanted],
        }
    )


@given(history=rows, wanted=entities, cut_off=st.booleans(), strictly=st.booleans())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_two_views_at_once_agree_with_the_oracle(repo, history, wanted, cut_off, strictly) -> None:
    write_history(repo / "history", history)
    found = (
        open_store(repo, strictly_before=strictly)
        .get_historical_features(
            entity_df=entity_frame(wanted),
            features=["lasting:amount", "fading:amount"],
            full_feature_names=True,
            filter_by_created_timestamp=cut_off,
        )
        .to_arrow()
    )
    assert found["shop"].to_pylist() == [key[0] for key, _ in wanted]
    for view, ttl in (("lasting", timedelta()), ("fading", TTL)):
        rule = Rule(ttl=ttl, cut_off=cut_off, strictly_before=strictly)
        expected = [(look_up(history, key, t, rule) or (None,))[0] for key, t in wanted]
        assert found[f"{view}__amount"].to_pylist() == expected


@given(history=rows, since=times, until=times, cut_off=st.booleans())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_event_sets_are_the_rows_within_the_bounds(repo, history, since, until, cut_off) -> None:
    write_history(repo / "history", history)
    found = (
        open_store(repo)
        .get_historical_features(
            features=["lasting:amount"],
            start_date=since,
            end_date=until,
            filter_by_created_timestamp=cut_off,
        )
        .to_arrow()
    )
    expected = [
        (*row.key, row.values[0], row.event_time, row.created)
        for row in history
        if since <= row.event_time <= until and (not cut_off or row.created <= until)
    ]
    assert found.column_names == ["shop", "till", "amount", "event_timestamp", "known"]
    assert sorted(zip(*found.to_pydict().values(), strict=True)) == sorted(expected)


@given(history=rows, since=times, until=times)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_pulls_include_both_ends(repo, history, since, until) -> None:
    write_history(repo / "history", history)
    store = open_store(repo)
    source = store.get_data_source("history")
    wanted = (store.config, source, ["shop", "till"], ["raw"], "at", "known", since, until)
    offline = store._get_provider().offline_store
    within = [row for row in history if since <= row.event_time <= until]
    everything = offline.pull_all_from_table_or_query(*wanted).to_arrow()
    expected = [(*row.key, row.values[0], row.event_time, row.created) for row in within]
    assert sorted(zip(*everything.to_pydict().values(), strict=True)) == sorted(expected)

    latest = offline.pull_latest_from_table_or_query(*wanted).to_arrow()
    newest = {(*row.key, look_up(within, row.key, until, Rule())[0]) for row in within}
    assert latest.num_rows == len(newest)
    assert (
        set(zip(*latest.select(["shop", "till", "raw"]).to_pydict().values(), strict=True))
        == newest
    )


@pytest.fixture
def one_row(repo) -> Path:
    write_history(repo / "history", [FeatureRow(("1", 1), T0, T0 + HOUR, (7,))])
    return repo


def test_join_key_aliases_point_at_other_entity_columns(one_row) -> None:
    from feast import FeatureService

    store = open_store(one_row)
    view = store.get_feature_view("lasting").with_name("home").with_join_key_map({"shop": "base"})
    store.apply([FeatureService(name="aliased", features=[view])])
    found = store.get_historical_features(
        entity_df=entity_frame([(("?", 1), T0)]).assign(base="1"),
        features=store.get_feature_service("aliased"),
        full_feature_names=True,
    )
    assert found.to_df()["home__amount"].tolist() == [7]


def test_on_demand_features_are_computed_from_the_join(one_row) -> None:
    found = open_store(one_row).get_historical_features(
        entity_df=entity_frame([(("1", 1), T0)]), features=["lasting:amount", "doubled:double"]
    )
    assert found.to_df()["double"].tolist() == [14]


def test_integer_keys_that_pandas_made_floats_still_match(one_row) -> None:
    wanted = pd.DataFrame({"shop": ["1", "1"], "till": [1, None], "event_timestamp": [T0, T0]})
    found = open_store(one_row).get_historical_features(
        entity_df=wanted, features=["lasting:amount"]
    )
    assert found.to_arrow()["amount"].to_pylist() == [7, None]


def test_arrow_entities_and_naive_times_are_taken_as_utc(one_row) -> None:
    wanted = pa.table(
        {
            "shop": ["1", "1"],
            "till": [1, 1],
            "event_timestamp": pa.array([T0, T0 - HOUR], pa.timestamp("ns")),
        }
    )
    found = open_store(one_row).get_historical_features(
        entity_df=wanted, features=["lasting:amount"]
    )
    assert found.to_arrow()["amount"].to_pylist() == [7, None]


def test_statement_is_shown_per_view(one_row) -> None:
    job = open_store(one_row).get_historical_features(
        entity_df=entity_frame([(("1", 1), T0)]), features=["lasting:amount"]
    )
    assert "ASOF LEFT JOIN" in job.to_sql()
    assert job.metadata.keys == ["shop", "till"]
    assert job.metadata.max_event_timestamp == T0


@pytest.mark.parametrize("kind", ["enriched", "event_set"])
@pytest.mark.filterwarnings("ignore:(Saving|Retrieving) dataset:RuntimeWarning")
def test_saved_datasets_come_back_whole(one_row, tmp_path, kind) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    store = open_store(one_row)
    asked = {
        "enriched": {"entity_df": entity_frame([(("1", 1), T0), (("?", 1), T0 + HOUR)])},
        "event_set": {"end_date": T0 + HOUR},
    }[kind]
    job = store.get_historical_features(features=["lasting:amount"], **asked)
    storage = SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet"))
    store.create_saved_dataset(job, name=kind, storage=storage)
    read = store.get_saved_dataset(kind).to_arrow()
    columns = ["shop", "till", "amount", "event_timestamp"]
    assert read.select(columns) == job.to_arrow().select(columns)


@pytest.mark.parametrize(
    ("entity_df", "error", "line"),
    [
        ("SELECT 1", UsageError, "entity_df is SQL"),
        (["1"], UsageError, "entity_df is a list"),
        (entity_frame([(("1", 1), T0)]).drop(columns="till"), DataError, "lacks .* till"),
        (entity_frame([(("1", 1), T0)]).assign(amount=1), UsageError, "both an entity column"),
        (entity_frame([((1, 1), T0)]), DataError, "'shop' is int64"),
        (entity_frame([(("1", 1.5), T0)]), DataError, "'till' is double"),
        (entity_frame([(("1", 1), "yesterday")]), DataError, "is .*string, not a timestamp"),
        (pd.DataFrame({"shop": ["1"], "till": [1]}), DataError, "one timestamp column"),
        (pd.DataFrame({"shop": ["1", 2], "event_timestamp": T0}), DataError, "into columns"),
    ],
)
def test_unusable_entity_rows_are_one_clear_line(one_row, entity_df, error, line) -> None:
    with pytest.raises(error, match=line):
        open_store(one_row).get_historical_features(
            entity_df=entity_df, features=["lasting:amount"]
        ).to_arrow()


def test_cut_off_without_a_record_of_it_is_refused_by_name(one_row) -> None:
    with pytest.raises(UsageError, match="'unrecorded' has no created_timestamp_column"):
        open_store(one_row).get_historical_features(
            entity_df=entity_frame([(("1", 1), T0)]),
            features=["unrecorded:raw"],
            filter_by_created_timestamp=True,
        )


def test_same_feature_of_two_views_needs_full_names(one_row) -> None:
    from feast.errors import FeatureNameCollisionError

    with pytest.raises(FeatureNameCollisionError):
        open_store(one_row).get_historical_features(
            entity_df=entity_frame([(("1", 1), T0)]),
            features=["lasting:amount", "fading:amount"],
        )
