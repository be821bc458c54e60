"""The store behind the Feast SDK over PostgreSQL, in the database of the registry: the as-of rule.

The server is in another time zone than UTC, and its tables are rewritten for each example.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
import pytest
from asof_oracle import FeatureRow, Rule, look_up
from feast_config import feast_config
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres_server import Database

from scalr_ray.core.errors import DataError, UsageError

pytestmark = pytest.mark.feast

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
TTL = timedelta(hours=3)
KEYS = {
    "lasting": ("shop", "till"),
    "fading": ("shop", "till"),
    "shops": ("shop",),
    "tills": ("till",),
}
ORDERED = "SELECT shop, till, event_timestamp FROM wanted ORDER BY place;"

times = st.builds(
    lambda hours, ticks: T0 + hours * HOUR + ticks * MICROSECOND,
    st.integers(-4, 4),
    st.integers(-1, 1),
)
shops = st.sampled_from(["1", "11", "it's"])
tills = st.sampled_from([1, 11, -(2**62) - 1])
rows = st.lists(
    st.builds(
        FeatureRow,
        st.tuples(shops | st.none(), tills),
        times | st.none(),
        times | st.none(),
        st.tuples(st.integers(0, 3) | st.none()),
    ),
    max_size=25,
)
entities = st.lists(
    st.tuples(st.tuples(shops | st.sampled_from(["?", None]), tills), times),
    min_size=1,
    max_size=12,
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A registered repository, once for each rule at the bound, and the database behind it."""

    plain: Any
    strict: Any
    connection: psycopg.Connection

    def write(self, table: str, columns: str, values: Sequence[Sequence[Any]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {table}")
            with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for row in values:
                    copy.write_row(row)

    def write_history(self, history: Sequence[FeatureRow]) -> None:
        values = [(*row.key, row.event_time, row.created, *row.values) for row in history]
        self.write("history", "shop, till, at, known, raw", values)

    def write_wanted(self, wanted: Sequence[Any]) -> None:
        values = [(place, *key, t) for place, (key, t) in enumerate(wanted)]
        self.write("wanted", "place, shop, till, event_timestamp", values)


@pytest.fixture(scope="module")
def bench(postgres_database, tmp_path_factory) -> Iterator[Bench]:
    repo = tmp_path_factory.mktemp("repo")
    with postgres_database.connect() as connection:
        connection.execute(
            "CREATE TABLE history (raw int8, known timestamptz, till int8, shop text,"
            " at timestamptz, unused numeric)"
        )
        connection.execute(
            "CREATE TABLE wanted (place int4, shop text, till int8, event_timestamp timestamptz)"
        )
        plain = feature_store(postgres_database, repo)
        strict = feature_store(postgres_database, repo, strictly_before=True)
        plain.apply(definitions())
        yield Bench(plain=plain, strict=strict, connection=connection)
        for store in (plain, strict):
            store.registry.write_engine.dispose()


def feature_store(database: Database, repo: Any, **options: Any) -> Any:
    from feast import FeatureStore

    registry = database.url(driver="psycopg")
    return FeatureStore(config=feast_config(repo, registry=registry, **options))


def definitions() -> list[Any]:
    from feast import Entity, FeatureView, Field, ValueType
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )
    from feast.types import Int64, String

    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    till = Entity(name="till", join_keys=["till"], value_type=ValueType.INT64)
    entities = {"shop": shop, "till": till}
    common = {
        "timestamp_field": "at",
        "created_timestamp_column": "known",
        "field_mapping": {"raw": "amount"},
    }
    table = PostgreSQLSource(name="history", table="public.history", **common)
    query = PostgreSQLSource(name="asked", query="SELECT * FROM history -- all", **common)

    def view(name: str, source: Any, ttl: timedelta) -> Any:
        return FeatureView(
            name=name,
            entities=[entities[key] for key in KEYS[name]],
            ttl=ttl,
            schema=[Field(name="amount", dtype=Int64)]
            + [Field(name=key, dtype={"shop": String, "till": Int64}[key]) for key in KEYS[name]],
            source=source,
        )

    none = timedelta()
    views = [
        view("lasting", table, none),
        view("fading", query, TTL),
        view("shops", query, none),
        view("tills", table, none),
    ]
    return [shop, till, table, query, *views]


def entity_frame(wanted: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "shop": [key[0] for key, _ in wanted],
            "till": [key[1] for key, _ in wanted],
            "event_timestamp": [t for _, t in wanted],
        }
    )


def answers(view: str, history: Sequence[FeatureRow], wanted: Sequence[Any], **rule: Any) -> Any:
    """What the oracle says, where the view has some of the keys only."""
    places = [("shop", "till").index(key) for key in KEYS[view]]

    def part(key: Any) -> Any:
        return tuple(key[place] for place in places)

    known = [FeatureRow(part(row.key), row.event_time, row.created, row.values) for row in history]
    right = Rule(ttl=TTL if view == "fading" else timedelta(), **rule)
    return [(look_up(known, part(key), t, right) or (None,))[0] for key, t in wanted]


@given(
    history=rows,
    wanted=entities,
    cut_off=st.booleans(),
    strictly=st.booleans(),
    as_sql=st.booleans(),
)
@settings(max_examples=25)
def test_views_agree_with_the_oracle(bench, history, wanted, cut_off, strictly, as_sql) -> None:
    bench.write_history(history)
    bench.write_wanted(wanted)
    store = bench.strict if strictly else bench.plain
    found = store.get_historical_features(
        entity_df=ORDERED if as_sql else entity_frame(wanted),
        features=[f"{view}:amount" for view in KEYS],
        full_feature_names=True,
        filter_by_created_timestamp=cut_off,
    ).to_arrow()
    assert found["shop"].to_pylist() == [key[0] for key, _ in wanted]
    assert found["event_timestamp"].to_pylist() == [t for _, t in wanted]
    for view in KEYS:
        right = answers(view, history, wanted, cut_off=cut_off, strictly_before=strictly)
        assert found[f"{view}__amount"].to_pylist() == right


@given(history=rows, since=times, until=times, cut_off=st.booleans())
@settings(max_examples=10)
def test_event_sets_are_the_rows_within_the_bounds(bench, history, since, until, cut_off) -> None:
    bench.write_history(history)
    found = bench.plain.get_historical_features(
        features=["lasting:amount"],
        start_date=since,
        end_date=until,
        filter_by_created_timestamp=cut_off,
    ).to_arrow()
    expected = [
        (*row.key, *row.values, row.event_time, row.created)
        for row in history
        if row.event_time
        and since <= row.event_time <= until
        and (not cut_off or (row.created and row.created <= until))
    ]
    assert found.column_names == ["shop", "till", "amount", "event_timestamp", "known"]
    assert Counter(zip(*found.to_pydict().values(), strict=True)) == Counter(expected)


@given(history=rows, since=times, until=times)
@settings(max_examples=10)
def test_pulls_include_both_ends(bench, history, since, until) -> None:
    bench.write_history(history)
    offline = bench.plain._get_provider().offline_store
    source = bench.plain.get_data_source("history")
    wanted = (bench.plain.config, source, ["shop", "till"], ["raw"], "at", "known", since, until)
    within = [row for row in history if row.event_time and since <= row.event_time <= until]
    found = offline.pull_all_from_table_or_query(*wanted).to_arrow()
    expected = [(*row.key, *row.values, row.event_time, row.created) for row in within]
    assert Counter(zip(*found.to_pydict().values(), strict=True)) == Counter(expected)
    latest = offline.pull_latest_from_table_or_query(*wanted).to_arrow()
    keyed = [row for row in within if None not in row.key]
    newest = {(*row.key, look_up(keyed, row.key, until, Rule())[0]) for row in keyed}
    answer = list(zip(*latest.select(["shop", "till", "raw"]).to_pydict().values(), strict=True))
    assert {row for row in answer if None not in row[:2]} == newest
    assert len(answer) == len({row.key for row in within})


def test_entity_rows_in_sql_need_a_view_that_lies_in_a_database(bench, tmp_path) -> None:
    from feast import FeatureStore, FeatureView, Field, FileSource
    from feast.types import Int64

    bench.write_wanted([(("1", 1), T0)])
    job = bench.plain.get_historical_features(entity_df=ORDERED, features=["lasting:amount"])
    assert job.metadata.keys == ["shop", "till"]
    assert job.metadata.max_event_timestamp == T0
    assert "ASOF LEFT JOIN" in job.to_sql()
    source = FileSource(name="numbers", path=str(tmp_path), timestamp_field="at")
    store: FeatureStore = bench.plain
    amount = Field(name="amount", dtype=Int64)
    store.apply([source, FeatureView(name="filed", schema=[amount], source=source)])
    with pytest.raises(UsageError, match="entity_df is SQL"):
        store.get_historical_features(entity_df=ORDERED, features=["filed:amount"])


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("DELETE FROM history", "syntax error"),
        ("SELECT 1) AS x; DROP TABLE history; --", "syntax error|multiple commands"),
        ("SELECT nextval('counter') AS n, now() AS event_timestamp", "read-only transaction"),
        ("SELECT nothing FROM wanted", 'column "nothing" does not exist'),
        ("SELECT shop, till FROM wanted", "one timestamp column"),
        ("SELECT shop, till, 'infinity'::timestamptz AS t FROM wanted", "infinite time"),
    ],
)
def test_sql_that_is_no_set_of_entity_rows_does_no_harm(bench, sql, line) -> None:
    bench.write_history([FeatureRow(("1", 1), T0, T0, (7,))])
    bench.write_wanted([(("1", 1), T0)])
    bench.connection.execute("CREATE SEQUENCE IF NOT EXISTS counter")
    with pytest.raises(DataError, match=line):
        bench.plain.get_historical_features(entity_df=sql, features=["lasting:amount"])
    assert bench.connection.execute("SELECT count(*) FROM history").fetchone() == (1,)
