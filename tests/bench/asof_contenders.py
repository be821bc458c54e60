"""The contenders of the as-of bench: each reads a feature file and answers the entity rows.

A contender is prepared first (imports, a registry, the entity rows in the shape it takes); only the
call that it returns is timed. All of them return `row` and the features, in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from asof_workload import FEATURES, TTL

Call = Callable[[], pa.Table]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to make the join.

    Attributes:
        label: its name in the table.
        prepare: takes the folder of the workload and returns the call to time.
        cut_off: whether rows recorded after t are hidden; answers are compared within each kind.
        needs: a package that may be missing.
        once: whether one run is enough, for it takes minutes.
        most_pairs: the most pairs of an entity row and a feature row of its user it is asked for.
    """

    label: str
    prepare: Callable[[Path], Call]
    cut_off: bool
    needs: str = "duckdb"
    once: bool = False
    most_pairs: int | None = None


def _kernel(folder: Path) -> Call:
    from scalr_ray.core.duck import duck
    from scalr_ray.offline_store.kernel import AsOfJoin, as_of_join

    entities = pq.read_table(folder / "entities.parquet")
    join = AsOfJoin(
        relation="features",
        keys=("user_id",),
        event_time="event_timestamp",
        created="created",
        columns=FEATURES,
        ttl=TTL,
        cut_off=True,
    )

    def call() -> pa.Table:
        limit = (folder / "memory_limit").read_text()
        with duck(memory_limit=limit, threads=2) as session:
            session.execute(
                f"CREATE TEMP VIEW features AS FROM read_parquet('{folder / 'features.parquet'}')"
            )
            users, times = entities["user_id"], entities["event_timestamp"]
            found = as_of_join(session, join, keys=[users], times=times)
        return found.append_column("row", entities["row"])

    return call


def _duckdb_asof(folder: Path) -> Call:
    import duckdb

    entities = pq.read_table(folder / "entities.parquet")
    values = ", ".join(
        f"CASE WHEN f.event_timestamp >= e.event_timestamp - INTERVAL '{TTL.days} days' "
        f"THEN f.{name} END AS {name}"
        for name in FEATURES
    )

    def call() -> pa.Table:
        with duckdb.connect(config={"threads": 2, "memory_limit": "4GB"}) as session:
            session.register("entities", entities)
            session.execute("SET asof_loop_join_threshold = 0")
            session.execute("SET TimeZone = 'UTC'")
            return session.sql(
                f"SELECT e.row, {values} FROM entities AS e "
                f"ASOF LEFT JOIN read_parquet('{folder / 'features.parquet'}') AS f "
                "ON e.user_id = f.user_id AND e.event_timestamp >= f.event_timestamp"
            ).to_arrow_table()

    return call


def _pandas(folder: Path) -> Call:
    import pandas as pd

    entities = pd.read_parquet(folder / "entities.parquet")

    def call() -> pa.Table:
        features = pd.read_parquet(folder / "features.parquet")
        joined = pd.merge_asof(
            entities.sort_values("event_timestamp"),
            features.sort_values(["event_timestamp", "created"]),
            on="event_timestamp",
            by="user_id",
            tolerance=TTL,
        )
        return pa.Table.from_pandas(joined[["row", *FEATURES]], preserve_index=False)

    return call


def _polars(folder: Path) -> Call:
    import polars as pl

    entities = pl.read_parquet(folder / "entities.parquet")

    def call() -> pa.Table:
        features = pl.read_parquet(folder / "features.parquet")
        joined = entities.sort("event_timestamp").join_asof(
            features.sort("event_timestamp", "created"),
            on="event_timestamp",
            by="user_id",
            tolerance=TTL,
        )
        return joined.select("row", *FEATURES).to_arrow()

    return call


def _feast(store_type: str, *, cut_off: bool) -> Callable[[Path], Call]:
    def prepare(folder: Path) -> Call:
        import pandas as pd

        limit = (
            {"memory_limit": (folder / "memory_limit").read_text()} if store_type == OURS else {}
        )
        store = feature_store(folder, store_type, **limit)
        entities = pd.read_parquet(folder / "entities.parquet")
        features = [f"history:{name}" for name in FEATURES]
        asked: dict[str, Any] = {"filter_by_created_timestamp": True} if cut_off else {}

        def call() -> pa.Table:
            job = store.get_historical_features(entity_df=entities, features=features, **asked)
            return job.to_arrow().select(["row", *FEATURES])

        return call

    return prepare


def feature_store(folder: Path, store_type: str, **options: Any) -> Any:
    """A repository in `folder` whose one view reads `features.parquet`."""
    from feast import (
        Entity,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        RepoConfig,
        ValueType,
    )
    from feast.types import Float64

    repo = folder / f"repo-{store_type.rsplit('.', 1)[-1]}"
    repo.mkdir(exist_ok=True)
    config = RepoConfig(
        project="bench",
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{repo / 'registry.db'}"},
        offline_store={"type": store_type, **options},
        online_store=None,
        entity_key_serialization_version=3,
        repo_path=repo,
    )
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    source = FileSource(
        name="history_file",
        path=str(folder / "features.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    view = FeatureView(
        name="history",
        entities=[user],
        ttl=TTL,
        schema=[Field(name=name, dtype=Float64) for name in FEATURES],
        source=source,
    )
    store = FeatureStore(repo_path=str(repo), config=config)
    store.apply([user, view])
    return store


OURS = "scalr_ray.offline_store.AsOfOfflineStore"
REFERENCE = "kernel"
CONTENDERS = {
    REFERENCE: Contender(label="the bitemporal statement, bare", prepare=_kernel, cut_off=True),
    "ours-cut-off": Contender(
        label="**this store, through Feast, cut-off**",
        prepare=_feast(OURS, cut_off=True),
        cut_off=True,
    ),
    "ours": Contender(
        label="**this store, through Feast**", prepare=_feast(OURS, cut_off=False), cut_off=False
    ),
    "duckdb-asof": Contender(label="DuckDB ASOF, bare", prepare=_duckdb_asof, cut_off=False),
    "polars": Contender(label="polars join_asof", prepare=_polars, cut_off=False, needs="polars"),
    "pandas": Contender(label="pandas merge_asof", prepare=_pandas, cut_off=False),
    "feast-duckdb": Contender(
        label="Feast's duckdb store",
        prepare=_feast("duckdb", cut_off=False),
        cut_off=False,
        once=True,
    ),
    "feast-duckdb-cut-off": Contender(
        label="Feast's duckdb store, cut-off",
        prepare=_feast("duckdb", cut_off=True),
        cut_off=True,
        once=True,
    ),
    "feast-dask": Contender(
        label="Feast's dask store",
        prepare=_feast("dask", cut_off=False),
        cut_off=False,
        once=True,
        most_pairs=100_000_000,  # it makes them all, in memory
    ),
}
