"""Events streamed from a real store: those that are pulled, here and in pieces."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feast_config import feast_config
from marks import OPENS_FEAST
from small_worlds import day, event_table

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import UsageError
from scalr_ray.core.events import event_schema
from scalr_ray.generate import BucketRules, bucket_events
from scalr_ray.generate.buckets import SOURCE
from scalr_ray.offline_store.limits import open_duck
from scalr_ray.offline_store.pull import pull_events
from scalr_ray.offline_store.stream_events import stream_events

pytestmark = OPENS_FEAST

CUT = day(5)


def log(domain):
    rows = [(f"u{at % 7}", f"i{at % 3}", at % 8, at % 8 + (at % 4) * (at % 2)) for at in range(200)]
    micros = timedelta(microseconds=1) / timedelta(days=1)
    return event_table([*rows, ("u1", "last", 5 - micros), ("u1", "cut", 5)], domain)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, String

    repo = tmp_path_factory.mktemp("repo")
    opened = FeatureStore(config=feast_config(repo))
    event = Entity(name="event", join_keys=["event_id"], value_type=ValueType.STRING)
    columns = {"user_id": String, "item_id": String, "domain": String, "event_type": String}
    fields = [Field(name=name, dtype=kind) for name, kind in (columns | {"value": Float64}).items()]
    views = []
    for name, domain in (("source_events", "books"), ("target_events", "music"), ("none", None)):
        (repo / name).mkdir()
        if domain:
            pq.write_table(log(domain), repo / name / "part-0.parquet")
        source = FileSource(
            name=name,
            path=str(repo / name / "part-*.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="available_at",
        )
        views.append(FeatureView(name=name, entities=[event], schema=fields, source=source))
    opened.apply([event, *views])
    yield opened
    for name in ("read_engine", "write_engine"):
        getattr(opened.registry, name).dispose()


def sorted_by_id(rows):
    return rows.cast(
        pa.schema([(f.name, f.type) for f in event_schema("string", "string")])
    ).sort_by("event_id")


@pytest.mark.parametrize("cut", [CUT, day(0), day(100)])
def test_a_stream_holds_what_is_pulled(store, cut):
    stream = stream_events(store, "source_events", as_of=cut)
    with open_duck(stream.limits) as session:
        stream.open(session, "events")
        streamed = session.sql("FROM events").to_arrow_table()
    pulled = pull_events(store, "source_events", as_of=cut)
    assert sorted_by_id(streamed).equals(sorted_by_id(pulled))
    assert stream.count >= streamed.num_rows


def test_pieces_hold_what_is_pulled(store):
    stream = stream_events(store, "source_events", as_of=CUT)
    found = []
    for piece in stream.pieces():
        for batch in piece.read():
            with open_duck(stream.limits) as session:
                session.register("feature_rows", pa.Table.from_batches([batch]))
                found.append(session.sql(stream.sql).to_arrow_table())
    pulled = pull_events(store, "source_events", as_of=CUT)
    assert sorted_by_id(pa.concat_tables(found)).equals(sorted_by_id(pulled))


def test_a_view_without_data_streams_nothing(store):
    stream = stream_events(store, "none", as_of=CUT)
    with open_duck(stream.limits) as session:
        stream.open(session, "events")
        assert session.sql("FROM events").to_arrow_table().num_rows == 0
    assert (stream.count, list(stream.pieces()), stream.on_cluster) == (0, [], False)


def test_a_view_that_is_not_registered_is_named(store):
    with pytest.raises(UsageError, match="feature view films is not registered; run `scalr apply`"):
        stream_events(store, "films", as_of=CUT)


def test_buckets_are_made_of_the_stores_events(store, tmp_path):
    rules = BucketRules(
        ids=IdTypes(),
        as_of=CUT,
        source_domains=("books",),
        target_domain="music",
        history_events=1000,
        users_per_bucket=2,
    )
    sides = [stream_events(store, name, as_of=CUT) for name in ("source_events", "target_events")]
    made = bucket_events(*sides, rules, tmp_path, taken=stream_events(store, "none", as_of=CUT))
    found = pa.concat_tables([made.read(SOURCE, at) for at in range(made.counts.buckets)])
    pulled = pull_events(store, "source_events", as_of=CUT)
    last = pulled.filter(pc.equal(pulled["item_id"], "last")).num_rows
    assert last == 1
    expected = pulled.filter(pc.not_equal(pulled["item_id"], "last"))
    assert sorted_by_id(found).equals(sorted_by_id(expected))
