"""The same definitions and data under several offline stores, asked through Feast's public face.

Each store gets a repository of its own. Its sources are single Parquet files, which every store
reads but that of PostgreSQL, which has tables. Every feature view has one feature, so that a
history is a list of `FeatureRow`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from feast_config import feast_config
from psycopg.conninfo import conninfo_to_dict

from scalr_ray.core.events import TIMESTAMP
from tests.contract.asof_oracle import FeatureRow, Rule, look_up
from tests.contract.store_sources import FileSources, Sources, TableSources
from tests.support.postgres_server import Database, postgres_server
from tests.support.two_nodes import two_nodes

if TYPE_CHECKING:
    from feast import FeatureStore

OURS = "AsOfOfflineStore"
OURS_ON_RAY = "AsOfOfflineStore on Ray"
FEAST_ON_RAY = "ray"
POSTGRES = "postgres"
_TYPE = "scalr_ray.offline_store.AsOfOfflineStore"
STORES: dict[str, dict[str, Any]] = {
    OURS: {"type": _TYPE, "engine": "duckdb"},
    OURS_ON_RAY: {"type": _TYPE, "engine": "ray", "partition_rows": 5},  # several partitions
    "duckdb": {"type": "duckdb"},
    "dask": {"type": "dask"},
    FEAST_ON_RAY: {"type": "ray"},
    POSTGRES: {"type": "postgres", "db_schema": "public", "sslmode": "disable"},
}
_WHOLE = pa.int64()
ROW = "row"  # numbers the entity rows, so that each can be found in the answer


@dataclass(frozen=True, kw_only=True)
class View:
    """A feature view and the source behind it; `mapped` renames columns of the source."""

    keys: tuple[str, ...]
    feature: str
    kind: pa.DataType = _WHOLE
    recorded: bool = True
    ttl: timedelta = timedelta()
    mapped: Mapping[str, str] | None = None  # name in the view -> in the source

    def column(self, name: str) -> str:
        return (self.mapped or {}).get(name, name)


VIEWS: dict[str, View] = {
    "visits": View(keys=("user",), feature="amount"),
    "fading": View(keys=("user",), feature="amount", ttl=timedelta(hours=3)),
    "unrecorded": View(keys=("user",), feature="amount", recorded=False),
    "pairs": View(keys=("left", "right"), feature="amount"),
    "prices": View(
        keys=("item",),
        feature="price",
        mapped={"item": "item_no", "price": "eur", "at": "priced", "known": "loaded"},
    ),
    "baskets": View(keys=("user",), feature="items", kind=pa.list_(pa.int64())),
    "pays": View(keys=("user",), feature="pay_y"),
}
_KEY_KINDS = {"user": pa.string(), "left": pa.string(), "right": pa.string(), "item": pa.int64()}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One store, its repository, and whether what a store warns of is passed on."""

    name: str
    sources: Sources
    store: FeatureStore

    def write(self, view: str, rows: Sequence[FeatureRow]) -> None:
        """Make `rows`, in this order, all that lies behind `view`."""
        spec = VIEWS[view]
        columns: dict[str, pa.Array] = {
            spec.column(key): pa.array([row.key[place] for row in rows], _KEY_KINDS[key])
            for place, key in enumerate(spec.keys)
        }
        columns[spec.column("at")] = pa.array([row.event_time for row in rows], TIMESTAMP)
        if spec.recorded:
            columns[spec.column("known")] = pa.array([row.created for row in rows], TIMESTAMP)
        columns[spec.column(spec.feature)] = pa.array([row.values[0] for row in rows], spec.kind)
        self.sources.write(view, pa.table(columns))

    def ask(self, entity_df: Any, features: Any, **options: Any) -> pa.Table:
        with warnings.catch_warnings():
            if self.name not in (OURS, OURS_ON_RAY):
                warnings.simplefilter("ignore")  # judged is what the others answer, not their style
            return self.store.get_historical_features(entity_df, features, **options).to_arrow()


@contextmanager
def open_bench(name: str, folder: Path, database: Database | None = None) -> Iterator[Bench]:
    """Register the definitions in `folder` under the store `name`, and run what that needs.

    That of PostgreSQL takes `database`, or starts a server if there is none. The Ray store of Feast
    wants a process of its own: it changes Ray's settings for good.
    """
    with ExitStack() as running:
        options = STORES[name]
        sources: Sources = FileSources(folder)
        if name in (OURS_ON_RAY, FEAST_ON_RAY):
            running.enter_context(two_nodes())
        if name == FEAST_ON_RAY:
            options = options | {"storage_path": str(folder / "storage")}
        if name == POSTGRES:
            if database is None:
                server = running.enter_context(postgres_server())
                database = running.enter_context(server.fresh_database())
            options = options | _way_in(database)
            sources = TableSources(running.enter_context(database.connect()))
        yield _registered(name, folder, sources, options)


def _way_in(database: Database) -> dict[str, Any]:
    """The address of the database, as the configuration of Feast spells it."""
    parts = conninfo_to_dict(database.url())
    return {
        "host": parts["host"],
        "port": int(parts["port"]),
        "database": parts["dbname"],
        "user": parts["user"],
        "password": parts["password"],
    }


def _registered(name: str, folder: Path, sources: Sources, options: Mapping[str, Any]) -> Bench:
    os.environ["FEAST_USAGE"] = "False"  # read when Feast is imported
    from feast import FeatureStore

    store = FeatureStore(config=feast_config(folder, **options))
    bench = Bench(name=name, sources=sources, store=store)
    for view in VIEWS:
        bench.write(view, [])  # a source that is not there is refused
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Feast calls on-demand views experimental
        bench.store.apply(_definitions(sources))
    return bench


def _definitions(sources: Sources) -> list[Any]:
    from feast import Entity, FeatureService, FeatureView, Field, ValueType
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Array, Int64, String

    types = {pa.string(): String, pa.int64(): Int64, pa.list_(pa.int64()): Array(Int64)}
    values = {pa.string(): ValueType.STRING, pa.int64(): ValueType.INT64}
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=values[kind])
        for key, kind in _KEY_KINDS.items()
    }

    def feature_view(name: str, spec: View) -> FeatureView:
        source = sources.define(
            name,
            timestamp_field="at",
            created_timestamp_column="known" if spec.recorded else "",
            field_mapping={column: shown for shown, column in (spec.mapped or {}).items()},
        )
        kinds = {key: _KEY_KINDS[key] for key in spec.keys} | {spec.feature: spec.kind}
        return FeatureView(
            name=name,
            entities=[entities[key] for key in spec.keys],
            ttl=spec.ttl,
            schema=[Field(name=column, dtype=types[kind]) for column, kind in kinds.items()],
            source=source,
        )

    views = {name: feature_view(name, spec) for name, spec in VIEWS.items()}

    @on_demand_feature_view(
        sources=[views["visits"]], schema=[Field(name="double", dtype=Int64)], mode="pandas"
    )
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"double": inputs["amount"] * 2})

    aliases = [
        views["visits"].with_name(f"{name}_visits").with_join_key_map({"user": column})
        for name, column in (("friend", "friend"), ("own", "user"))
    ]
    aliased = FeatureService(name="aliased", features=aliases)
    return [*entities.values(), *views.values(), doubled, aliased]


def expected(
    view: str, rows: Sequence[FeatureRow], wanted: Sequence[Any], *, cut_off: bool = False
) -> list[Any]:
    """What the oracle says of each (key, t)."""
    rule = Rule(ttl=VIEWS[view].ttl, cut_off=cut_off)
    return [(look_up(rows, key, t, rule) or (None,))[0] for key, t in wanted]


def entity_frame(keys: Sequence[str], wanted: Sequence[Any]) -> pd.DataFrame:
    """Entity rows as Feast users write them, numbered."""
    columns: dict[str, Any] = {
        name: [key[place] for key, _ in wanted] for place, name in enumerate(keys)
    }
    columns["event_timestamp"] = pd.to_datetime([t for _, t in wanted], utc=True)
    return pd.DataFrame(columns | {ROW: range(len(wanted))})


def deviation(found: pa.Table, right: Mapping[str, Sequence[Any]]) -> str:
    """How the answer deviates from the `right` values of each entity row; empty if it does not.

    The order of rows and whether a number is an integer are not looked at.
    """
    count = len(next(iter(right.values())))
    if found.num_rows != count:
        return rows_for(found.num_rows, count)
    if missing := sorted(set(right) - set(found.column_names)):
        return f"no column {', '.join(missing)}"
    for column, values in right.items():
        got = dict(zip(found[ROW].to_pylist(), found[column].to_pylist(), strict=True))
        for row, value in enumerate(values):
            if row not in got:
                return f"row {row} is missing"
            if got[row] != value:
                return f"{_show(got[row])} instead of {_show(value)}"
    return ""


def rows_for(found: int, count: int) -> str:
    return f"{found} row{'' if found == 1 else 's'} for {count}"


def _show(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
