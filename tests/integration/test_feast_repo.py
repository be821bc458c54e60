"""The real definitions under the real `feast` command and SDK, on a copy of `feature_repo/`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalr_ray.core.config import ScalrConfig, load_config
from scalr_ray.core.errors import ConfigError, DataError, UsageError
from scalr_ray.core.events import TIMESTAMP, WEIGHT_FACTORS, event_schema, synthetic_event_schema
from scalr_ray.core.layout import ICEBERG_CATALOG, ICEBERG_NAMESPACE, ICEBERG_TABLE, Layout

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
DAY = timedelta(days=1)
T0 = datetime(2026, 3, 1, tzinfo=UTC)

pytestmark = pytest.mark.feast


def feast(repo: Path, *arguments: str) -> str:
    command = Path(sys.executable).parent / "feast"
    done = subprocess.run(
        [command, *arguments],
        cwd=repo,
        env=os.environ | {"FEAST_USAGE": "False"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_definitions(into: Path) -> Path:
    ignore = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(DEFINITIONS, into, ignore=ignore)
    (into / "data").mkdir()
    return into


def write_part(folder: Path, table: pa.Table, name: str = "part-0.parquet") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name)


def real_events(domain: str, days: list[int], known_after: timedelta) -> pa.Table:
    happened = [T0 + day * DAY for day in days]
    columns = {
        "event_id": [f"{domain}-{day}" for day in days],
        "user_id": ["u1"] * len(days),
        "item_id": [f"i{day}" for day in days],
        "domain": [domain] * len(days),
        "event_type": ["click"] * len(days),
        "event_timestamp": happened,
        "available_at": [moment + known_after for moment in happened],
        "value": [1.0] * len(days),
    }
    return pa.table(columns, schema=event_schema("string", "string"))


def synthetic_events(count: int, cutoff: datetime) -> pa.Table:
    columns = {
        "event_id": [f"s{n}" for n in range(count)],
        "user_id": ["u1"] * count,
        "item_id": [f"i{n}" for n in range(count)],
        "domain": ["target"] * count,
        "event_type": ["synthetic"] * count,
        "event_timestamp": [cutoff - (n + 1) * DAY for n in range(count)],
        "available_at": [cutoff] * count,
        "value": [1.0] * count,
        "batch_id": ["b1"] * count,
        "translator_version": ["v1"] * count,
        "train_cutoff": [cutoff] * count,
        "likelihood": [0.5] * count,
        "propensity": [0.5] * count,
        "label": [1.0] * count,
        "sample_weight": [0.1] * count,
        **{name: [1.0] * count for name in WEIGHT_FACTORS},
        "source_event_id": ["source-1"] * count,
        "generated_at": [cutoff] * count,
    }
    return pa.table(columns, schema=synthetic_event_schema("string", "string"))


def create_iceberg(layout: Layout, rows: pa.Table) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    warehouse = layout.warehouse_uri
    catalog = SqlCatalog(ICEBERG_CATALOG, uri=layout.database_url, warehouse=warehouse)
    catalog.create_namespace(ICEBERG_NAMESPACE)
    table = catalog.create_table(f"{ICEBERG_NAMESPACE}.{ICEBERG_TABLE}", schema=rows.schema)
    table.append(rows)
    catalog.close()


def user_snapshots() -> pa.Table:
    stamped = [T0 + 2 * DAY, T0 + 5 * DAY]
    return pa.table(
        {
            "user_id": ["u1", "u1"],
            "event_timestamp": pa.array(stamped, TIMESTAMP),
            "available_at": pa.array([stamped[0], stamped[1] + 2 * DAY], TIMESTAMP),
            "source_events_7d": [1, 2],
            "source_events_30d": [1, 2],
            "source_events_90d": [1, 2],
            "source_events_total": [1, 2],
            "days_since_last_source_event": [1.0, 0.5],
            "distinct_source_items": [1, 2],
            "last_source_items": [["i1"], ["i1", "i4"]],
        }
    )


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """Applied on an empty folder, then filled, then applied again."""
    repo = copy_definitions(tmp_path_factory.mktemp("demo") / "another name")
    feast(repo, "apply")
    layout = Layout.of(repo)
    write_part(layout.events("source_events"), real_events("source", [1, 2, 3], timedelta(hours=1)))
    write_part(layout.events("target_events"), real_events("target", [2, 4], timedelta()))
    write_part(layout.events("target_events") / "_staging", real_events("target", [9], DAY))
    write_part(layout.features("user_source_features"), user_snapshots())
    create_iceberg(layout, synthetic_events(3, T0 + 6 * DAY))
    feast(repo, "apply")
    return repo


@pytest.fixture
def store(repo, monkeypatch, tmp_path):
    from scalr_ray.offline_store import open_feature_store

    monkeypatch.chdir(tmp_path)
    return open_feature_store(repo)


def test_written_out_settings_are_the_defaults() -> None:
    assert load_config(DEFINITIONS, environ={}) == ScalrConfig()


def test_views_are_listed_and_nothing_is_left_to_plan(repo) -> None:
    listed = feast(repo, "feature-views", "list")
    for view in (
        "source_events",
        "target_events",
        "synthetic_events",
        "user_source_features",
        "item_popularity",
    ):
        assert view in listed
    assert "No changes to registry" in feast(repo, "plan")


def test_definitions_import_as_a_package_too() -> None:
    script = "import feature_repo.services as s; print(s.mixed_training_v1.tags)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=DEFINITIONS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "real+synthetic" in done.stdout


def test_services_are_registered_with_their_views(store) -> None:
    views = {
        service.name: {projection.name for projection in service.feature_view_projections}
        for service in store.list_feature_services()
    }
    enrichment = {"user_source_features", "item_popularity"}
    assert views == {
        "translator_inputs_v1": {"source_events", "target_events"} | enrichment,
        "mixed_training_v1": enrichment,
        "real_only_v1": enrichment,
        "user_features_v1": {"user_source_features"},
        "item_features_v1": {"item_popularity"},
    }


def test_synthetic_events_are_seen_from_the_cutoff_on(store) -> None:
    cutoff = T0 + 6 * DAY
    entities = pd.DataFrame(
        {
            "event_id": ["s0", "s0", "unknown", None],
            "event_timestamp": [cutoff - timedelta(microseconds=1), cutoff, cutoff, cutoff],
        }
    )
    found = store.get_historical_features(
        entity_df=entities,
        features=["synthetic_events:item_id", "synthetic_events:likelihood"],
        filter_by_created_timestamp=True,
    ).to_arrow()
    assert found["item_id"].to_pylist() == [None, "i0", None, None]
    assert found["likelihood"].to_pylist() == [None, 0.5, None, None]
    assert found["event_id"].to_pylist() == ["s0", "s0", "unknown", None]
    assert found.schema.field("event_timestamp").type == TIMESTAMP


def test_user_features_are_those_known_at_the_time(store) -> None:
    days = [1, 2, 5, 6, 7, 30]
    entities = pd.DataFrame(
        {"user_id": ["u1"] * 6, "event_timestamp": [T0 + day * DAY for day in days]}
    )
    service = store.get_feature_service("mixed_training_v1")
    entities["item_id"] = "i1"
    known = store.get_historical_features(
        entity_df=entities, features=service, filter_by_created_timestamp=True
    ).to_df()
    assert known["source_events_total"].fillna(0).tolist() == [0, 1, 1, 1, 2, 2]
    assert known["last_source_items"].iloc[-1].tolist() == ["i1", "i4"]
    assert known["target_events_7d"].isna().all()  # item_popularity has no data yet
    happened = store.get_historical_features(
        entity_df=entities, features=["user_source_features:source_events_total"]
    ).to_df()
    assert happened["source_events_total"].fillna(0).tolist() == [0, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("view", ["source_events", "synthetic_events"])
def test_event_set_is_cut_on_both_clocks(store, view) -> None:
    def pull(end: datetime, *, cut_off: bool) -> pa.Table:
        return store.get_historical_features(
            features=[f"{view}:user_id", f"{view}:item_id"],
            end_date=end,
            filter_by_created_timestamp=cut_off,
        ).to_arrow()

    last = T0 + (3 if view == "source_events" else 5) * DAY
    assert pull(last, cut_off=False).num_rows == 3
    assert pull(last, cut_off=True).num_rows == (2 if view == "source_events" else 0)
    everything = pull(T0 + 10 * DAY, cut_off=True)
    assert everything.num_rows == 3
    assert everything.column_names == [
        "event_id",
        "user_id",
        "item_id",
        "event_timestamp",
        "available_at",
    ]
    assert everything.schema.field("available_at").type == TIMESTAMP


def test_staged_files_are_not_read(store) -> None:
    events = store.get_historical_features(
        features=["target_events:item_id"], end_date=T0 + 99 * DAY
    ).to_arrow()
    assert sorted(events["item_id"].to_pylist()) == ["i2", "i4"]


def test_view_without_data_gives_an_empty_set_of_the_declared_types(store) -> None:
    events = store.get_historical_features(
        features=["item_popularity:target_events_7d"], end_date=T0 + 99 * DAY
    ).to_arrow()
    assert events.num_rows == 0
    assert events.schema.field("target_events_7d").type == pa.int64()
    assert events.schema.field("event_timestamp").type == TIMESTAMP


def test_stock_duckdb_store_reads_the_same_definitions(repo) -> None:
    from feast import FeatureStore

    from scalr_ray.offline_store import open_feature_store

    config = open_feature_store(repo).config.model_copy()
    config.offline_config = {"type": "duckdb"}
    config._offline_store = None
    stock = FeatureStore(repo_path=str(repo), config=config)
    entities = pd.DataFrame({"event_id": ["s1"], "event_timestamp": [T0 + 6 * DAY]})
    for features, event_id, item in (
        (["synthetic_events:item_id"], "s1", "i1"),
        (["source_events:item_id"], "source-2", "i2"),
    ):
        found = stock.get_historical_features(
            entity_df=entities.assign(event_id=event_id),
            features=features,
            filter_by_created_timestamp=True,
        ).to_df()
        assert found["item_id"].tolist() == [item]


def test_two_views_at_once_need_entity_rows(store) -> None:
    with pytest.raises(UsageError, match="exactly one feature view"):
        store.get_historical_features(
            features=["source_events:user_id", "target_events:item_id"], end_date=T0
        )


def test_naive_end_is_refused(store) -> None:
    with pytest.raises(UsageError, match="no time zone"):
        store.get_historical_features(
            features=["source_events:user_id"], end_date=T0.replace(tzinfo=None)
        )


def test_missing_key_column_is_named(store) -> None:
    entities = pd.DataFrame({"id": ["u1"], "event_timestamp": [T0]})
    with pytest.raises(DataError, match="user_id"):
        store.get_historical_features(
            entity_df=entities, features=["user_source_features:source_events_total"]
        )


def test_opening_a_folder_without_definitions_is_one_clear_line(tmp_path) -> None:
    from scalr_ray.offline_store import open_feature_store

    with pytest.raises(ConfigError, match="is not there"):
        open_feature_store(tmp_path)
    (tmp_path / "feature_store.yaml").write_text("project: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        open_feature_store(tmp_path)
    for wrong in ("", "project: scalr\nregistry: data/x.db\nprovider: 7\n", "- project\n"):
        (tmp_path / "feature_store.yaml").write_text(wrong)
        with pytest.raises(ConfigError, match="no valid Feast configuration"):
            open_feature_store(tmp_path)
