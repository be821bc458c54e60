"""The store behind the Feast SDK against the oracle, on generated schemas, histories and layouts.

One registry serves all examples: a feature view for each way of keying, TTL and recording. An
example picks some of them, which features it asks for, and how times and keys lie in the files, of
which it writes new ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast_config import feast_config
from hypothesis import given, settings
from hypothesis import strategies as st

from scalr_ray.core.events import TIMESTAMP
from tests.contract.asof_oracle import FeatureRow, Rule, look_up

pytestmark = pytest.mark.feast

T0 = datetime(2026, 3, 29, 1, tzinfo=UTC)  # when clocks change in Berlin
MICROSECOND = timedelta(microseconds=1)
KEYS: dict[str, pa.DataType] = {"name": pa.string(), "other": pa.string(), "number": pa.int64()}
KEYINGS: dict[str, tuple[str, ...]] = {
    "nobody": (),
    "named": ("name",),
    "numbered": ("number",),
    "twice": ("name", "other"),
    "mixed": ("number", "name"),
}
TTLS: dict[str, timedelta] = {
    "lasting": timedelta(),
    "instant": MICROSECOND,
    "fading": timedelta(hours=2),
}
# Names that a careless statement would take for its own.
FEATURES: dict[str, pa.DataType] = {
    "entity_row": pa.bool_(),
    "k0": pa.int64(),
    "order by": pa.float64(),
    "row_y": pa.string(),
    "tags": pa.list_(pa.int64()),
    "vis": TIMESTAMP,
}

key_values: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["1", "11", "", "é", None]),
    "other": st.sampled_from(["11", "1", "'"]),
    "number": st.sampled_from([1, 11, -(2**31), None]),
}
# Few instants, an hour or a microsecond apart, so that ties, bounds and late arrivals are the rule.
times = st.builds(
    lambda hours, micros: T0 + timedelta(hours=hours, microseconds=micros),
    st.integers(-3, 3),
    st.integers(-1, 1),
)
feature_values: dict[str, st.SearchStrategy[Any]] = {
    "entity_row": st.booleans(),
    "k0": st.integers(0, 2),
    "order by": st.sampled_from([0.5, -1.0]),
    "row_y": st.sampled_from(["a", "b", ""]),
    "tags": st.lists(st.integers(0, 1), max_size=2),
    "vis": times,
}
zones = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns"])
stamps = st.one_of(
    st.builds(pa.timestamp, st.sampled_from(["us", "ns"]), zones),
    st.sampled_from([pa.timestamp("us"), pa.timestamp("ns")]),
)


@dataclass(frozen=True)
class Layout:
    """How a history lies on disk."""

    stamp: pa.DataType
    text: pa.DataType
    whole: pa.DataType
    files: int


layouts = st.builds(
    Layout,
    stamps,
    st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]),
    st.sampled_from([pa.int64(), pa.int32()]),
    st.integers(1, 3),
)


@dataclass(frozen=True)
class Asked:
    """One feature view of an example, its history, and the features that are asked for."""

    keying: str
    ttl: str
    recorded: bool
    features: tuple[str, ...]
    rows: Sequence[FeatureRow]
    layout: Layout

    @property
    def view(self) -> str:
        return _view_name(self.keying, self.ttl, self.recorded)


@st.composite
def asked_views(draw: st.DrawFn, keying: str) -> Asked:
    features = tuple(
        sorted(draw(st.lists(st.sampled_from(list(FEATURES)), min_size=1, max_size=3, unique=True)))
    )
    row = st.builds(
        FeatureRow,
        st.tuples(*(key_values[key] for key in KEYINGS[keying])),
        times,
        st.one_of(times, times, times, st.none()),
        st.tuples(*(st.none() | feature_values[name] for name in features)),
    )
    recorded = draw(st.booleans())
    rows = draw(st.lists(row, max_size=10))
    if not recorded:
        rows = [FeatureRow(row.key, row.event_time, None, row.values) for row in rows]
    return Asked(keying, draw(st.sampled_from(list(TTLS))), recorded, features, rows, draw(layouts))


@st.composite
def entity_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    row = st.fixed_dictionaries({**key_values, "event_timestamp": times})
    rows = draw(st.lists(row, min_size=1, max_size=8))
    return rows + draw(st.lists(st.sampled_from(rows), max_size=2))  # duplicates stay


several_views = st.lists(
    st.sampled_from(list(KEYINGS)), min_size=1, max_size=2, unique=True
).flatmap(lambda keyings: st.tuples(*(asked_views(keying) for keying in keyings)))


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    from feast import FeatureStore

    repo = tmp_path_factory.mktemp("generated")
    FeatureStore(config=feast_config(repo, strictly_before=False)).apply(_definitions(repo))
    return repo


@pytest.fixture(scope="module")
def stores(repo) -> dict[bool, Any]:
    """The store by whether it compares strictly."""
    from feast import FeatureStore

    return {
        strictly: FeatureStore(config=feast_config(repo, strictly_before=strictly))
        for strictly in (False, True)
    }


@given(
    asked=several_views,
    entities=entity_rows(),
    zone=zones | st.none(),
    arrow=st.booleans(),
    strictly=st.booleans(),
    cut_off=st.booleans(),
)
@settings(max_examples=250)
def test_every_entity_row_gets_what_the_oracle_says(
    repo, stores, asked, entities, zone, arrow, strictly, cut_off
) -> None:
    cut_off = cut_off and all(view.recorded for view in asked)
    for view in asked:
        write_history(repo, view)
    found = (
        stores[strictly]
        .get_historical_features(
            entity_df=entity_table(entities, zone) if arrow else entity_frame(entities, zone),
            features=[f"{view.view}:{feature}" for view in asked for feature in view.features],
            full_feature_names=True,
            filter_by_created_timestamp=cut_off,
        )
        .to_arrow()
    )
    for column in entities[0]:
        assert found[column].to_pylist() == [entity[column] for entity in entities]
    for view in asked:
        rule = Rule(ttl=TTLS[view.ttl], cut_off=cut_off, strictly_before=strictly)
        nothing = (None,) * len(view.features)
        right = [
            look_up(view.rows, key_of(entity, view), entity["event_timestamp"], rule) or nothing
            for entity in entities
        ]
        columns = [found[f"{view.view}__{name}"].to_pylist() for name in view.features]
        assert list(zip(*columns, strict=True)) == right


def key_of(entity: dict[str, Any], view: Asked) -> tuple[Any, ...]:
    return tuple(entity[key] for key in KEYINGS[view.keying])


def entity_frame(entities: Sequence[dict[str, Any]], zone: str | None) -> pd.DataFrame:
    frame = pd.DataFrame(list(entities))
    moments = pd.to_datetime(frame["event_timestamp"], utc=True)
    return frame.assign(event_timestamp=moments.dt.tz_convert(zone and ZoneInfo(zone)))


def entity_table(entities: Sequence[dict[str, Any]], zone: str | None) -> pa.Table:
    columns = {
        key: pa.array([entity[key] for entity in entities], kind) for key, kind in KEYS.items()
    }
    moments = pa.array([entity["event_timestamp"] for entity in entities], TIMESTAMP)
    return pa.table(columns | {"event_timestamp": moments.cast(pa.timestamp("ns", zone))})


def write_history(repo: Path, asked: Asked) -> None:
    layout = asked.layout
    key_kinds = {"name": layout.text, "other": layout.text, "number": layout.whole}
    columns = {
        key: pa.array([row.key[place] for row in asked.rows], KEYS[key]).cast(key_kinds[key])
        for place, key in enumerate(KEYINGS[asked.keying])
    }
    moments = {"at": [row.event_time for row in asked.rows]}
    if asked.recorded:
        moments["known"] = [row.created for row in asked.rows]
    for name, values in moments.items():
        columns[name] = pa.array(values, TIMESTAMP).cast(layout.stamp)
    for place, feature in enumerate(asked.features):
        columns[feature] = pa.array([row.values[place] for row in asked.rows], FEATURES[feature])
    table = pa.table(columns)
    folder = repo / _source_name(asked.keying, asked.recorded)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for start in range(layout.files):
        part = table.take(pa.array(range(start, table.num_rows, layout.files), pa.int64()))
        pq.write_table(part, folder / f"part-{start}.parquet")


def _source_name(keying: str, recorded: bool) -> str:  # noqa: FBT001 - told apart by its type
    return f"{keying}_{'recorded' if recorded else 'unrecorded'}"


def _view_name(keying: str, ttl: str, recorded: bool) -> str:  # noqa: FBT001 - as above
    return f"{_source_name(keying, recorded)}_{ttl}"


def _definitions(repo: Path) -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Array, Bool, Float64, Int64, String, UnixTimestamp

    kinds = {pa.string(): ValueType.STRING, pa.int64(): ValueType.INT64}
    types = {
        pa.bool_(): Bool,
        pa.int64(): Int64,
        pa.float64(): Float64,
        pa.string(): String,
        pa.list_(pa.int64()): Array(Int64),
        TIMESTAMP: UnixTimestamp,
    }
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=kinds[kind]) for key, kind in KEYS.items()
    }
    views = []
    for keying, (ttl, lasts), recorded in product(KEYINGS, TTLS.items(), (True, False)):
        keys = KEYINGS[keying]
        source = FileSource(
            name=_source_name(keying, recorded),
            path=str(repo / _source_name(keying, recorded)),
            timestamp_field="at",
            created_timestamp_column="known" if recorded else "",
        )
        schema = {key: KEYS[key] for key in keys} | FEATURES
        views.append(
            FeatureView(
                name=_view_name(keying, ttl, recorded),
                entities=[entities[key] for key in keys],
                ttl=lasts,
                schema=[Field(name=name, dtype=types[kind]) for name, kind in schema.items()],
                source=source,
            )
        )
    return [*entities.values(), *views]
