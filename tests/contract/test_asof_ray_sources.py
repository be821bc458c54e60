"""The Ray engine over views of mixed kinds of sources in one retrieval: the local answer.

A folder of Parquet, an Iceberg table, a PostgreSQL table and a folder in S3, each read by the tasks
of the cluster in several pieces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import iceberg_tables
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asof_oracle import FeatureRow, Rule, look_up
from feast_config import feast_config
from postgres_server import Database
from s3_server import BUCKET, S3, identify, s3_server_fixture  # noqa: F401 - the fixture it is

from scalr_ray.core.events import TIMESTAMP

pytestmark = [
    pytest.mark.feast,
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]

T0 = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = 1200
PARTS = 3  # files of a folder, and commits to the Iceberg table
KINDS = {"user": pa.int64(), "place": pa.string()}
KEYS = {
    "folder": ("user",),
    "iceberg": ("user", "place"),
    "postgres": ("user",),
    "bucket": ("place",),
}
TTLS = {"iceberg": timedelta(hours=30), "bucket": timedelta(hours=5)}


@dataclass(frozen=True, kw_only=True)
class World:
    """What lies in the sources, and a store for each engine that reads them."""

    histories: Mapping[str, Sequence[FeatureRow]]
    local: Any
    on_ray: Any


@pytest.fixture(scope="module")
def s3(s3_server) -> Iterator[S3]:
    with pytest.MonkeyPatch.context() as environment:
        identify(environment)
        yield s3_server


@pytest.fixture(scope="module")
def world(s3, postgres_database, request, tmp_path_factory) -> World:
    request.getfixturevalue("cluster")  # after `s3`: its workers know the identity from the start
    repo = tmp_path_factory.mktemp("repo")
    histories = {view: history(keys, seed) for seed, (view, keys) in enumerate(KEYS.items())}
    tables = {view: as_table(rows, KEYS[view]) for view, rows in histories.items()}
    write_folder(repo / "folder", tables["folder"])
    write_iceberg(repo, tables["iceberg"])
    write_postgres(postgres_database, tables["postgres"])
    for number, part in enumerate(parts(tables["bucket"])):
        s3.put(f"visits/part-{number}.parquet", part)
    local = feature_store(repo, postgres_database, engine="duckdb")
    local.apply(definitions(repo, s3))
    on_ray = feature_store(repo, postgres_database, engine="ray", partition_rows=500)
    return World(histories=histories, local=local, on_ray=on_ray)


def history(keys: Sequence[str], seed: int) -> list[FeatureRow]:
    """Rows full of ties and late arrivals."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(ROWS):
        key = {"user": int(rng.integers(0, 40)), "place": f"p{rng.integers(0, 9)}"}
        happened = moment(rng)
        known = None if rng.random() < 0.05 else happened + timedelta(hours=int(rng.integers(0, 9)))
        value = None if rng.random() < 0.1 else int(rng.integers(0, 1000))
        made.append(FeatureRow(tuple(key[name] for name in keys), happened, known, (value,)))
    return made


def moment(rng: np.random.Generator) -> datetime:
    return T0 + timedelta(hours=int(rng.integers(0, 60)), microseconds=int(rng.integers(-1, 2)))


def as_table(rows: Sequence[FeatureRow], keys: Sequence[str]) -> pa.Table:
    columns = {
        key: pa.array([row.key[place] for row in rows], KINDS[key])
        for place, key in enumerate(keys)
    }
    columns["at"] = pa.array([row.event_time for row in rows], TIMESTAMP)
    columns["known"] = pa.array([row.created for row in rows], TIMESTAMP)
    columns["amount"] = pa.array([row.values[0] for row in rows], pa.int64())
    return pa.table(columns)


def parts(table: pa.Table) -> list[pa.Table]:
    return [
        table.take(pa.array(range(part, table.num_rows, PARTS), pa.int64()))
        for part in range(PARTS)
    ]


def write_folder(folder: Path, table: pa.Table) -> None:
    folder.mkdir()
    for number, part in enumerate(parts(table)):
        pq.write_table(part, folder / f"part-{number}.parquet")


def write_iceberg(repo: Path, table: pa.Table) -> None:
    iceberg_tables.create(repo, table.schema)
    for part in parts(table):
        iceberg_tables.append(repo, part)


def write_postgres(database: Database, table: pa.Table) -> None:
    create = 'CREATE TABLE visits ("user" int8, at timestamptz, known timestamptz, amount int8)'
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(create)
        with cursor.copy("COPY visits FROM STDIN") as copy:
            for row in table.to_pylist():
                copy.write_row(list(row.values()))


def feature_store(repo: Path, database: Database, **options: Any) -> Any:
    from feast import FeatureStore

    return FeatureStore(config=feast_config(repo, postgres_url=database.url(), **options))


def definitions(repo: Path, s3: S3) -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )
    from feast.types import Int64, String

    times = {"timestamp_field": "at", "created_timestamp_column": "known"}
    sources = {
        "folder": FileSource(name="folder_source", path=str(repo / "folder"), **times),
        "iceberg": iceberg_tables.source(repo),
        "postgres": PostgreSQLSource(name="postgres_source", table="public.visits", **times),
        "bucket": FileSource(
            name="bucket_source",
            path=f"s3://{BUCKET}/visits",
            s3_endpoint_override=s3.endpoint,
            **times,
        ),
    }
    entities = {
        "user": Entity(name="user", join_keys=["user"], value_type=ValueType.INT64),
        "place": Entity(name="place", join_keys=["place"], value_type=ValueType.STRING),
    }
    types = {"user": Int64, "place": String, "amount": Int64}
    views = [
        FeatureView(
            name=view,
            entities=[entities[key] for key in keys],
            ttl=TTLS.get(view, timedelta()),
            schema=[Field(name=name, dtype=types[name]) for name in (*keys, "amount")],
            source=sources[view],
        )
        for view, keys in KEYS.items()
    ]
    return [*entities.values(), *views]


def entity_rows(count: int) -> pd.DataFrame:
    """Entity rows in no order, some of unknown keys and one in twenty without a user."""
    rng = np.random.default_rng(11)
    users = rng.integers(0, 44, count).astype(float)
    users[rng.random(count) < 0.05] = np.nan
    return pd.DataFrame(
        {
            "user": users,
            "place": [f"p{place}" for place in rng.integers(0, 10, count)],
            "event_timestamp": [moment(rng) for _ in range(count)],
            "label": range(count),
        }
    )


def ask(store: Any, entities: pd.DataFrame, *, cut_off: bool) -> pa.Table:
    return store.get_historical_features(
        entities,
        [f"{view}:amount" for view in KEYS],
        full_feature_names=True,
        filter_by_created_timestamp=cut_off,
    ).to_arrow()


def expected(world: World, view: str, entities: pd.DataFrame, *, cut_off: bool) -> list[Any]:
    """What the oracle says of each entity row."""
    rule = Rule(ttl=TTLS.get(view, timedelta()), cut_off=cut_off)
    of_key = defaultdict(list)
    for row in world.histories[view]:
        of_key[row.key].append(row)
    wanted = [
        (tuple(getattr(row, key) for key in KEYS[view]), row.event_timestamp.to_pydatetime())
        for row in entities.itertuples()
    ]
    return [(look_up(of_key[key], key, t, rule) or (None,))[0] for key, t in wanted]


@pytest.fixture
def pieces(monkeypatch) -> list[int]:
    """How many pieces each source is read in, in the order of the views; tables in small ones."""
    from scalr_ray.offline_store import distribute
    from scalr_ray.offline_store.sources import postgres

    counted: list[int] = []
    for_each_piece = distribute._for_each_piece

    def spy(found: Sequence[Any], step: Any) -> Any:
        counted.append(len(found))
        return for_each_piece(found, step)

    monkeypatch.setattr(distribute, "_for_each_piece", spy)
    monkeypatch.setattr(postgres, "_PIECE_PAGES", 3)
    return counted


@pytest.mark.parametrize("cut_off", [False, True])
def test_views_over_mixed_sources_are_joined_as_on_one_machine(world, pieces, cut_off) -> None:
    entities = entity_rows(1500)
    found = ask(world.on_ray, entities, cut_off=cut_off)
    assert len(pieces) == len(KEYS)
    assert min(pieces) > 1, pieces
    assert found["label"].to_pylist() == entities["label"].tolist()
    for view in KEYS:
        right = expected(world, view, entities, cut_off=cut_off)
        assert found[f"{view}__amount"].to_pylist() == right, view
    assert found.equals(ask(world.local, entities, cut_off=cut_off))
