"""Bad input and hostile names, through Feast's public face: right, or refused in one clear line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast_config import feast_config

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import TIMESTAMP

pytestmark = pytest.mark.feast

T0 = datetime(2026, 3, 1, tzinfo=UTC)
BERLIN = timezone(timedelta(hours=1))

# Feast's own endings and columns, the names in our statements, and what tries to break out of them
RESERVED = ["x__timestamp", "x__status", "x__ts", "x_ts", "x_x", "x_y", "__index_level_0__"]
OUR_WORDS = ["row", "t", "k0", "f0", "ts", "vis", "created", "entity", "entity_rows", "wanted"]
HOSTILE = ['"; DROP TABLE x; --', "'; DROP TABLE x; --", "two\nlines", "naïve ☃", "{a} $1 %s", "*"]


def open_store(
    repo: Path,
    *,
    key: str = "shop",
    features: Sequence[str] = ("amount",),
    view: str = "sales",
    at: str = "at",
    known: str = "known",
    source: str = "sales_source",
    path: str = "sales/part-*.parquet",
) -> Any:
    """Shop `a` has 1 (2, 3, ...) in its features and shop `b` 101, both from T0 on."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Int64, String

    times = pa.array([T0, T0], TIMESTAMP)
    columns = {key: pa.array(["a", "b"]), at: times, known: times}
    for place, feature in enumerate(features):
        columns.setdefault(feature, pa.array([1 + place, 101 + place]))
    (repo / path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), (repo / path).with_name("part-0.parquet"))
    store = FeatureStore(config=feast_config(repo))
    entity = Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
    files = FileSource(name=source, path=path, timestamp_field=at, created_timestamp_column=known)
    fields = [Field(name=key, dtype=String), *(Field(name=f, dtype=Int64) for f in features)]
    served = FeatureView(name=view, entities=[entity], schema=fields, source=files)
    store.apply([entity, files, served])
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Any:
    return open_store(tmp_path_factory.mktemp("refusals"))


def frame(times: Any = T0, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"shop": ["a", "?"], "event_timestamp": times} | columns)


def ask(store: Any, entity_df: Any, feature: str = "sales:amount", **options: Any) -> list[Any]:
    found = store.get_historical_features(entity_df, [feature], **options).to_arrow()
    return found.column(found.num_columns - 1).to_pylist()


@pytest.mark.parametrize("name", [*RESERVED, *OUR_WORDS, *HOSTILE])
def test_a_feature_may_have_any_name(tmp_path, name) -> None:
    store = open_store(tmp_path, features=[name])
    entities = frame(**{other: 7 for other in ["x", "dup", *OUR_WORDS, *HOSTILE] if other != name})
    assert ask(store, entities, f"sales:{name}", filter_by_created_timestamp=True) == [1, None]
    event_set = store.get_historical_features(features=[f"sales:{name}"], end_date=T0).to_arrow()
    assert sorted(event_set[name].to_pylist()) == [1, 101]


@pytest.mark.parametrize("part", ["key", "view", "at", "known", "source"])
@pytest.mark.parametrize("name", [*HOSTILE[:4], "row", "k0", "x__timestamp"])
def test_so_may_everything_else(tmp_path, part, name) -> None:
    store = open_store(tmp_path, **{part: name})
    key, view = (
        name if part == which else old for which, old in (("key", "shop"), ("view", "sales"))
    )
    entities = frame().rename(columns={"shop": key})
    assert ask(store, entities, f"{view}:amount", filter_by_created_timestamp=True) == [1, None]
    full = store.get_historical_features(entities, [f"{view}:amount"], full_feature_names=True)
    assert full.to_arrow()[f"{view}__amount"].to_pylist() == [1, None]
    event_set = store.get_historical_features(features=[f"{view}:amount"], end_date=T0).to_arrow()
    assert sorted(event_set["amount"].to_pylist()) == [1, 101]


@pytest.mark.parametrize("folder", ["d'); DROP TABLE x; --", 'd"q', "d☃\nd", "{d}$1"])
def test_a_path_is_a_path_and_nothing_else(tmp_path, folder) -> None:
    assert ask(open_store(tmp_path, path=f"{folder}/part-*.parquet"), frame()) == [1, None]


def test_a_key_is_a_value_and_nothing_else(store) -> None:
    wanted = frame(shop=["' OR '1'='1", 'a"; DROP TABLE x; --'])
    assert ask(store, wanted) == [None, None]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ({"features": ["net", "Net"]}, "'net' and 'Net' differ only in case"),
        ({"features": ["Shop"]}, "'shop' and 'Shop' differ only in case"),
        ({"key": "__dummy_id"}, "'sales' has the join key '__dummy_id', which Feast reserves"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(tmp_path, names, line) -> None:
    store = open_store(tmp_path, **names)
    features = [f"sales:{name}" for name in names.get("features", ["amount"])]
    with pytest.raises(UsageError, match=line):
        store.get_historical_features(frame(__dummy_id="a"), features).to_arrow()
    with pytest.raises(UsageError, match=line):
        store.get_historical_features(features=features, end_date=T0).to_arrow()


@pytest.mark.parametrize("names", [{"features": ["event_timestamp"]}, {"known": "event_timestamp"}])
def test_an_event_set_has_one_event_timestamp(tmp_path, names) -> None:
    store = open_store(tmp_path, **names)
    feature = names.get("features", ["amount"])[0]
    with pytest.raises(UsageError, match="event time 'at' is given as 'event_timestamp', which is"):
        store.get_historical_features(features=[f"sales:{feature}"], end_date=T0)
    if "known" in names:
        assert ask(store, frame()) == [1, None], "as an entity column it is the caller's"
    else:
        with pytest.raises(UsageError, match="event_timestamp is both an entity column and a f"):
            ask(store, frame(), "sales:event_timestamp")


def test_full_names_that_meet_are_refused(tmp_path) -> None:
    open_store(tmp_path, view="a", features=["b__c"])
    store = open_store(tmp_path, view="a__b", features=["c"])
    both = ["a:b__c", "a__b:c"]
    with pytest.raises(UsageError, match="a__b__c is asked for twice; rename a view"):
        store.get_historical_features(frame(), both, full_feature_names=True)


def objects(*times: Any) -> pd.Series:
    return pd.Series(times, dtype=object)


@pytest.mark.parametrize(
    "times",
    [
        objects(T0.astimezone(BERLIN), T0.astimezone(timezone(-timedelta(hours=9)))),
        objects(pd.Timestamp(T0).tz_convert("Asia/Tokyo"), T0),
        objects(T0.astimezone(BERLIN), T0.replace(tzinfo=None)),
        objects(T0.replace(tzinfo=None), T0.astimezone(BERLIN)),
        objects(T0.date(), T0.astimezone(BERLIN)),
    ],
    ids=["two zones", "pandas zones", "aware then naive", "naive then aware", "a date"],
)
def test_zones_may_differ_by_row_and_none_means_utc(store, times) -> None:
    shops = ["a", "b"]
    assert ask(store, frame(times, shop=shops)) == [1, 101]
    moment = timedelta(microseconds=1)
    if not any(type(time) is type(T0.date()) for time in times):
        assert ask(store, frame(times - moment, shop=shops)) == [None, None]


@pytest.mark.parametrize(
    ("entity_df", "line"),
    [
        (frame(["2026-03-01T00:00:00Z", "2026-03-01T00:00:00+01:00"]), "is string, not a times"),
        (frame(objects(T0, "2026-03-01")), "entity_df cannot be turned into columns"),
        (frame([1, 2]), "'event_timestamp' is int64, not a timestamp"),
        (frame().rename(columns={"shop": "Shop"}), r"lacks the key column\(s\) shop of feature"),
        (frame().drop(columns="shop"), r"lacks the key column\(s\) shop of feature view 'sales'"),
        (frame(shop=[["a"], ["b"]]), "'shop' is list.*, but feature view 'sales' keys it as"),
        (frame(shop=[b"a", b"b"]), "'shop' is binary, but feature view 'sales' keys it as string"),
        (frame(shop=[True, False]), "'shop' is bool, but feature view 'sales' keys it as string"),
        (frame(x=1, y=1).set_axis(["shop", "event_timestamp", "x", "x"], axis=1), "Duplicate col"),
        (frame(x=1).set_axis(["shop", "event_timestamp", "shop"], axis=1), "Duplicate column"),
        (
            pa.Table.from_arrays(
                [["a"], pa.array([T0]), ["b"]], ["shop", "event_timestamp", "shop"]
            ),
            r"entity_df has the column\(s\) shop twice",
        ),
        (pd.DataFrame(), "it has no columns"),
    ],
)
def test_entity_rows_that_cannot_be_used(store, entity_df, line) -> None:
    with pytest.raises(DataError, match=line):
        ask(store, entity_df)


@pytest.mark.parametrize(
    "empty",
    [
        frame().iloc[:0],
        pd.DataFrame({"shop": [], "event_timestamp": []}),
        pa.table({"shop": pa.array([], pa.string()), "event_timestamp": pa.array([], TIMESTAMP)}),
    ],
    ids=["typed", "untyped", "arrow"],
)
def test_no_entity_rows_give_no_rows(store, empty) -> None:
    found = store.get_historical_features(empty, ["sales:amount"]).to_arrow()
    assert found.num_rows == 0
    assert found.column_names == ["shop", "event_timestamp", "amount"]
    assert found.schema.field("event_timestamp").type == TIMESTAMP
    assert found.schema.field("amount").type == pa.int64()


def test_rows_without_a_key_find_nothing(store) -> None:
    assert ask(store, frame(shop=[None, None])) == [None, None]


def test_rows_without_a_time_find_nothing(store) -> None:
    assert ask(store, frame(objects(None, T0), shop=["a", "b"])) == [None, 101]


@pytest.mark.parametrize(
    ("ref", "error", "line"),
    [
        ("sales:profit", KeyError, "Feature profit not found in projection sales"),
        ("purchases:amount", Exception, "Feature view purchases does not exist"),
        ("amount", ValueError, "Invalid feature reference 'amount'"),
    ],
)
def test_feast_itself_refuses_what_is_not_registered(store, ref, error, line) -> None:
    with pytest.raises(error, match=line):
        ask(store, frame(), ref)


def test_an_unknown_feature_is_named_with_those_there_are(store) -> None:
    """Who calls the store without Feast's own check in front."""
    from scalr_ray.offline_store import AsOfOfflineStore

    views = [store.get_feature_view("sales")]
    with pytest.raises(UsageError, match="'sales' has no feature profit; it has amount"):
        AsOfOfflineStore.get_historical_features(
            store.config, views, ["sales:profit"], frame(), store.registry, "refusals"
        )
