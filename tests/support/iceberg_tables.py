"""A Feast repository with an Iceberg table `shop.sales`, and a view over it.

Its catalog is of SQLite where no URI is given.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast_config import feast_config

from scalr_ray.core.events import TIMESTAMP

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SALES = pa.schema(
    [
        ("shop", pa.string()),
        ("till", pa.int64()),
        ("amount", pa.int64()),
        ("at", TIMESTAMP),
        ("known", TIMESTAMP),
    ]
)


def rows(*values: tuple[Any, ...]) -> pa.Table:
    """(shop, till, amount, at, known)"""
    columns = zip(*values, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SALES, strict=True)],
        schema=SALES,
    )


def ask(store: Any, *shops: str | None, feature: str = "sales:amount") -> list[Any]:
    entities = pd.DataFrame({"shop": list(shops), "event_timestamp": T0 + 24 * HOUR})
    entities["shop"] = entities["shop"].astype(object)
    found = store.get_historical_features(entities, [feature]).to_arrow()
    return found[feature.partition(":")[2]].to_pylist()


@contextmanager
def catalog(repo: Path, uri: str | None = None) -> Iterator[Any]:
    from pyiceberg.catalog.sql import SqlCatalog

    uri = uri or f"sqlite:///{repo / 'lake.db'}"
    opened = SqlCatalog("lake", uri=uri, warehouse=str(repo / "lake"))
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def sales(repo: Path, uri: str | None = None) -> Iterator[Any]:
    """The table, as it is now."""
    with catalog(repo, uri) as opened:
        yield opened.load_table("shop.sales")


def create(
    repo: Path, schema: pa.Schema = SALES, *, uri: str | None = None, **options: Any
) -> None:
    with catalog(repo, uri) as opened:
        opened.create_namespace_if_not_exists("shop")
        opened.create_table("shop.sales", schema=schema, **options)


def append(repo: Path, rows: pa.Table) -> int:
    """Add rows in one commit and return its snapshot."""
    with sales(repo) as table:
        table.append(rows)
        return int(table.current_snapshot().snapshot_id)


def source(repo: Path, *, table: str = "sales", **options: Any) -> Any:
    from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

    given = {
        "catalog_type": "sql",
        "catalog_name": "lake",
        "warehouse": str(repo / "lake"),
        "namespace": "shop",
        "catalog_properties": {"uri": f"sqlite:///{repo / 'lake.db'}"},
        "timestamp_field": "at",
        "created_timestamp_column": "known",
    }
    return IcebergSource(name="sales_source", table=table, **(given | options))


def view(batch_source: Any, feature: str = "amount", keys: tuple[str, ...] = ("shop",)) -> Any:
    from feast import Entity, FeatureView, Field, ValueType
    from feast.types import Int64, String

    kinds = {"shop": (String, ValueType.STRING), "till": (Int64, ValueType.INT64)}
    entities = [Entity(name=key, join_keys=[key], value_type=kinds[key][1]) for key in keys]
    schema = [*(Field(name=key, dtype=kinds[key][0]) for key in keys)]
    schema.append(Field(name=feature, dtype=Int64))
    return FeatureView(name="sales", entities=entities, schema=schema, source=batch_source)


def open_store(repo: Path, *definitions: Any, **options: Any) -> Any:
    """A store on the registry of `repo`, after applying the definitions, if there are any."""
    from feast import FeatureStore

    store = FeatureStore(config=feast_config(repo, **options))
    if definitions:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # some features are experimental
            store.apply([*definitions, *(e for d in definitions for e in _entities(d))])
    return store


def _entities(definition: Any) -> list[Any]:
    from feast import Entity, ValueType

    kinds = {"shop": ValueType.STRING, "till": ValueType.INT64}
    names = getattr(definition, "entities", [])
    return [Entity(name=name, join_keys=[name], value_type=kinds[name]) for name in names]
