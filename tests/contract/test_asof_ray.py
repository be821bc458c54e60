"""The Ray engine through the Feast SDK, on two nodes: the local answer, whatever happens."""

from __future__ import annotations

import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asof_oracle import FeatureRow, Rule, look_up
from feast_config import feast_config

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import TIMESTAMP

pytestmark = [
    pytest.mark.feast,
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]

T0 = datetime(2026, 3, 1, tzinfo=UTC)
TTL = timedelta(hours=30)
# What Ray calls a process while it cuts, shuffles or joins.
TASKS = ("ray::MapBatches", "ray::ReadRange", "ray::_shuffle", "ray::HashShuffle", "ray::Shuffle")
FEATURES = ["steps:count", "steps:note", "routes:count", "places:count"]
KEYS = {"steps": ("user",), "routes": ("user", "place"), "places": ("place",)}


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """Three views with keys of their own, one with a time to live; a source of several files."""
    repo = tmp_path_factory.mktemp("repo")
    for view in KEYS:
        write(repo, view, world(view, 0))
    feature_store(repo).apply(definitions(repo))
    return repo


def feature_store(repo: Path, **options: Any) -> Any:
    from feast import FeatureStore

    return FeatureStore(config=feast_config(repo, **options))


def definitions(repo: Path) -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Int64, String

    user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
    entities = {"user": user, "place": place}
    types = {"user": Int64, "place": String, "count": Int64, "note": String}
    views = [
        FeatureView(
            name=view,
            entities=[entities[key] for key in keys],
            ttl=TTL if view == "steps" else timedelta(),
            schema=[Field(name=name, dtype=types[name]) for name in (*keys, "count", "note")],
            source=FileSource(
                name=f"{view}_source",
                path=str(repo / view),
                timestamp_field="at",
                created_timestamp_column="known",
            ),
        )
        for view, keys in KEYS.items()
    ]
    return [user, place, *views]


def world(view: str, rows: int, *, seed: int = 7, heavy: float = 0) -> list[FeatureRow]:
    """Rows full of ties and late arrivals; a share of `heavy` belongs to user 0."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        user = 0 if rng.random() < heavy else int(rng.integers(0, 60))
        key = {"user": user, "place": f"p{rng.integers(0, 9)}"}
        happened = moment(rng)
        known = None if rng.random() < 0.05 else happened + timedelta(hours=int(rng.integers(0, 9)))
        values = (int(rng.integers(0, 5)), None if rng.random() < 0.2 else f"n{rng.integers(0, 3)}")
        made.append(FeatureRow(tuple(key[name] for name in KEYS[view]), happened, known, values))
    return made


def moment(rng: np.random.Generator) -> datetime:
    return T0 + timedelta(hours=int(rng.integers(0, 60)), microseconds=int(rng.integers(-1, 2)))


def write(repo: Path, view: str, rows: Sequence[FeatureRow], files: int = 3) -> None:
    kinds = {"user": pa.int32(), "place": pa.string()}
    columns = {
        key: pa.array([row.key[place] for row in rows], kinds[key])
        for place, key in enumerate(KEYS[view])
    }
    columns["at"] = pa.array([row.event_time for row in rows], TIMESTAMP)
    columns["known"] = pa.array([row.created for row in rows], TIMESTAMP)
    columns["count"] = pa.array([row.values[0] for row in rows], pa.int64())
    columns["note"] = pa.array([row.values[1] for row in rows], pa.string())
    table = pa.table(columns)
    shutil.rmtree(repo / view, ignore_errors=True)
    (repo / view).mkdir()
    for file in range(files):
        part = table.take(pa.array(range(file, table.num_rows, files), pa.int64()))
        pq.write_table(part, repo / view / f"part-{file}.parquet", row_group_size=50)


def entity_rows(count: int, *, seed: int = 11, heavy: float = 0) -> pd.DataFrame:
    """Entity rows in no order, one in twenty without a user, labelled."""
    rng = np.random.default_rng(seed)
    users = np.where(rng.random(count) < heavy, 0.0, rng.integers(0, 66, count))
    users[rng.random(count) < 0.05] = np.nan
    return pd.DataFrame(
        {
            "user": users,
            "place": [f"p{place}" for place in rng.integers(0, 10, count)],
            "event_timestamp": [moment(rng) for _ in range(count)],
            "label": rng.integers(0, 2, count),
        }
    )


def ask(store: Any, entities: pd.DataFrame, *, cut_off: bool) -> Any:
    return store.get_historical_features(
        entities, FEATURES, full_feature_names=True, filter_by_created_timestamp=cut_off
    )


@pytest.mark.parametrize("cut_off", [False, True])
@pytest.mark.parametrize("strictly_before", [False, True])
@pytest.mark.parametrize("heavy", [0, 0.4])
def test_thousands_of_rows_get_what_the_oracle_says(repo, cut_off, strictly_before, heavy) -> None:
    histories = {view: world(view, 1500, heavy=heavy) for view in KEYS}
    for view, rows in histories.items():
        write(repo, view, rows)
    entities = entity_rows(2000, heavy=heavy)
    on_ray = feature_store(repo, engine="ray", partition_rows=300, strictly_before=strictly_before)
    found = ask(on_ray, entities, cut_off=cut_off).to_arrow()

    assert found["label"].to_pylist() == entities["label"].tolist()
    for view, rows in histories.items():
        rule = Rule(
            ttl=TTL if view == "steps" else timedelta(),
            cut_off=cut_off,
            strictly_before=strictly_before,
        )
        of_key = defaultdict(list)
        for row in rows:
            of_key[row.key].append(row)
        wanted = [
            (tuple(getattr(row, key) for key in KEYS[view]), row.event_timestamp.to_pydatetime())
            for row in entities.itertuples()
        ]
        right = [look_up(of_key[key], key, t, rule) or (None, None) for key, t in wanted]
        assert found[f"{view}__count"].to_pylist() == [count for count, _ in right]
    local = feature_store(repo, engine="duckdb", strictly_before=strictly_before)
    assert found.equals(ask(local, entities, cut_off=cut_off).to_arrow())


def test_a_user_with_a_third_of_all_rows_makes_no_partition_much_larger(repo, monkeypatch) -> None:
    from scalr_ray.offline_store import distribute

    split = []
    whole = distribute._without_heavy

    def spy(*arguments: Any) -> Any:
        split.append(whole(*arguments))
        return split[-1]

    monkeypatch.setattr(distribute, "_without_heavy", spy)
    write(repo, "steps", world("steps", 6000, heavy=0.3))
    entities = entity_rows(2000, heavy=0.3)
    store = feature_store(repo, engine="ray", partition_rows=500)
    found = store.get_historical_features(entities, ["steps:count"]).to_arrow()
    parcels = distribute.gather(split[0])
    rows = parcels.group_by("bucket").aggregate([("rows", "sum")])["rows_sum"].to_pylist()
    assert sum(rows) < 1.1 * 8000  # few rows are carried along
    assert max(rows) < 2 * 500
    local = feature_store(repo, engine="duckdb")
    assert found.equals(local.get_historical_features(entities, ["steps:count"]).to_arrow())


def test_killed_workers_are_survived(repo, cluster) -> None:
    write(repo, "steps", world("steps", 20_000), files=8)
    entities = entity_rows(20_000)
    local = feature_store(repo, engine="duckdb")
    right = local.get_historical_features(entities, ["steps:count"]).to_arrow()
    store = feature_store(repo, engine="ray", partition_rows=2000)
    found: list[pa.Table] = []
    asking = threading.Thread(
        target=lambda: found.append(
            store.get_historical_features(entities, ["steps:count"]).to_arrow()
        )
    )
    asking.start()
    killed: set[str] = set()
    while asking.is_alive():
        for worker in workers(cluster):
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                task = worker.name()
                if task.startswith(TASKS) and task not in killed:
                    worker.kill()  # once in every kind of task
                    killed.add(task)
        time.sleep(0.01)
    asking.join()
    assert len(killed) >= 2, killed
    assert found[0].equals(right)


def workers(cluster: Any) -> list[psutil.Process]:
    """The processes of this cluster and of no other."""
    raylets = [
        info.process.pid
        for node in cluster.list_all_nodes()
        for info in node.all_processes["raylet"]
    ]
    return [child for raylet in raylets for child in psutil.Process(raylet).children()]


def test_settings_and_session_of_ray_stay_as_they_are(repo) -> None:
    import ray
    from ray.data import DataContext

    session = ray.get_runtime_context().get_job_id()
    settings = repr(DataContext.get_current())
    store = feature_store(repo, engine="ray", partition_rows=100)
    ask(store, entity_rows(300), cut_off=True).to_arrow()
    assert repr(DataContext.get_current()) == settings
    assert ray.get_runtime_context().get_job_id() == session


def test_a_ray_dataset_stays_on_the_cluster_and_keeps_its_order_if_asked(repo) -> None:
    entities = entity_rows(2000)
    store = feature_store(repo, engine="ray", partition_rows=300)
    right = ask(store, entities, cut_off=True).to_arrow()
    dataset = ask(store, entities, cut_off=True).to_ray_dataset().materialize()
    assert dataset.num_blocks() > 2
    assert dataset.count() == 2000
    by = [(name, "ascending") for name in right.column_names]
    assert pa.concat_tables(arrow_blocks(dataset)).sort_by(by).equals(right.sort_by(by))
    ordered = ask(store, entities, cut_off=True).to_ray_dataset(in_order=True)
    assert pa.concat_tables(arrow_blocks(ordered)).equals(right)


def test_entity_rows_may_lie_on_the_cluster(repo) -> None:
    import ray.data

    entities = entity_rows(2000).convert_dtypes()
    right = ask(feature_store(repo, engine="duckdb"), entities, cut_off=True).to_arrow()
    dataset = ray.data.from_arrow(pa.Table.from_pandas(entities)).repartition(5)
    store = feature_store(repo, partition_rows=300)
    found = ask(store, dataset, cut_off=True)
    by = [(name, "ascending") for name in right.column_names]
    assert found.to_arrow().select(right.column_names).sort_by(by).equals(right.sort_by(by))
    assert found.to_ray_dataset().count() == 2000
    with pytest.raises(UsageError, match="has no order to keep"):
        found.to_ray_dataset(in_order=True)
    with pytest.raises(DataError, match="lacks the key column"):
        ask(store, dataset.drop_columns(["user"]), cut_off=True)


def test_an_event_set_is_read_on_the_cluster(repo) -> None:
    def events(**options: Any) -> Any:
        return feature_store(repo, **options).get_historical_features(
            features=["steps:count", "steps:note"],
            start_date=T0,
            end_date=T0 + timedelta(hours=30),
            filter_by_created_timestamp=True,
        )

    write(repo, "steps", world("steps", 1500))
    right = events(engine="duckdb").to_arrow()
    assert 0 < right.num_rows < 1500
    dataset = events(engine="ray").to_ray_dataset().materialize()
    assert dataset.num_blocks() > 2
    by = [(name, "ascending") for name in right.column_names]
    assert pa.concat_tables(arrow_blocks(dataset)).sort_by(by).equals(right.sort_by(by))


def arrow_blocks(dataset: Any) -> list[pa.Table]:
    import ray

    return ray.get(dataset.to_arrow_refs())


@pytest.mark.parametrize(("above", "taken"), [(10, True), (10**9, False)])
def test_auto_takes_the_cluster_above_a_size(repo, monkeypatch, above, taken) -> None:
    from scalr_ray.offline_store import distribute

    calls = []
    whole = distribute.distribute
    monkeypatch.setattr(
        distribute, "distribute", lambda *args, **rest: calls.append(1) or whole(*args, **rest)
    )
    store = feature_store(repo, ray_above_rows=above)
    ask(store, entity_rows(50), cut_off=False).to_arrow()
    assert bool(calls) is taken


def test_what_a_task_refuses_is_refused_in_its_own_words(repo) -> None:
    write(repo, "steps", world("steps", 3000))
    entities = entity_rows(100)
    with pytest.raises(UsageError, match=r"raise offline_store\.memory_limit"):
        ask(
            feature_store(repo, engine="ray", memory_limit="1MB"), entities, cut_off=True
        ).to_arrow()
    store = feature_store(repo, engine="ray")
    wrong = entities.assign(user=[f"u{n}" for n in range(100)])
    with pytest.raises(DataError, match=r"'user' is .*string, but feature view 'steps' keys it as"):
        ask(store, wrong, cut_off=True).to_arrow()


def test_no_entity_rows_are_answered_with_columns(repo) -> None:
    store = feature_store(repo, engine="ray", partition_rows=100)
    none = ask(store, entity_rows(5).head(0), cut_off=True).to_arrow()
    assert none.num_rows == 0
    assert none.schema.field("steps__count").type == pa.int64()


def test_sources_without_rows_and_without_files_give_nulls(repo) -> None:
    write(repo, "steps", [])
    for file in (repo / "routes").iterdir():
        file.unlink()
    found = ask(feature_store(repo, engine="ray", partition_rows=20), entity_rows(50), cut_off=True)
    table = found.to_arrow()
    write(repo, "routes", [])
    assert table["steps__count"].null_count == table["routes__count"].null_count == 50
    assert table.schema.field("routes__count").type == pa.int64()
