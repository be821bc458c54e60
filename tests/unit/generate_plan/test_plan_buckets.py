"""A user's row of the plan follows from that user's events, however users are put together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import DAY_0, day
from table_streams import table_stream

from scalr_ray.core.clock import from_micros, to_micros
from scalr_ray.core.config import IdTypes
from scalr_ray.core.events import event_schema
from scalr_ray.core.keyed import id_keys
from scalr_ray.generate.bucketing import bucket_events
from scalr_ray.generate.buckets import SOURCE, TARGET, BucketRules
from scalr_ray.generate.plan import Coding, PlanRules, history_weight, plan_bucket, plan_users
from scalr_ray.learn import TrainingEvents
from scalr_ray.translator import Vocabulary

CUT = 10  # microseconds after the first day
USERS = [f"u{at}" for at in range(6)]
# (user, item, type, happened, how late it became known)
row = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from("abcd"),
    st.sampled_from(["view", "buy", None]),
    st.integers(0, CUT + 2),
    st.sampled_from([0, 0, 0, 1, 4]),
)
rows = st.lists(row, max_size=30)


def table(rows, domain):
    made = [
        {
            "event_id": f"{domain}-{at:03d}",
            "user_id": user,
            "item_id": item,
            "domain": domain,
            "event_type": kind,
            "event_timestamp": moment(happened),
            "available_at": moment(happened + late),
            "value": float(at),
        }
        for at, (user, item, kind, happened, late) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=event_schema("string", "string"))


def moment(micros):
    return from_micros(to_micros(DAY_0) + micros)


@st.composite
def worlds(draw):
    anchor = [("u0", "a", "view", 0, 0)]
    source = pa.concat_tables([table(anchor + draw(rows), "books"), table(draw(rows), "news")])
    return source, table(anchor + draw(rows), "music")


@st.composite
def rules_of(draw):
    watermark = st.integers(-1, CUT).map(lambda at: to_micros(moment(at)))
    return PlanRules(
        as_of=moment(CUT),
        per_user=draw(st.sampled_from([1, 5, 60])),
        taper=draw(st.sampled_from(["none", "count"])),
        decay_events=draw(st.sampled_from([0.0, 0.5, 3.0])),
        thin=draw(st.sampled_from([1.0, 0.4])),
        history_events=draw(st.sampled_from([1, 3, 10_000])),
        seed=5,
        since=draw(st.none() | st.dictionaries(st.sampled_from(["books", "news"]), watermark)),
    )


@st.composite
def codings(draw, source, target):
    """Codes of a translator that knows some of the items and types."""
    events = TrainingEvents.of(source, target)

    def some(vocabulary):
        ids = vocabulary.ids.to_pylist()
        kept = draw(st.lists(st.sampled_from(ids), unique=True, min_size=1)) if ids else []
        return Vocabulary(ids=pa.array(sorted(kept), pa.string()))

    return Coding(
        source_items=some(events.source_items),
        target_items=some(events.target_items),
        event_types=some(events.event_types),
        keeps_unknown=draw(st.booleans()),
    )


def by_user(*plans):
    """{user: row}, with values that can be compared; NaN equals NaN."""
    planned = [row for plan in plans for row in plan.to_pylist()]
    found = {row["user_id"]: repr(row) for row in planned}
    assert len(found) == len(planned)
    return found


@given(st.data(), worlds(), rules_of())
def test_whoever_is_planned_beside_makes_no_difference(data, world, rules):
    source, target = world
    coding = data.draw(codings(source, target))
    bucket = {user: data.draw(st.integers(0, 2), label=user) for user in USERS}
    parts = [
        [
            side.filter(pa.array([bucket[user] == number for user in side["user_id"].to_pylist()]))
            for side in world
        ]
        for number in range(3)
    ]
    whole = plan_users(TrainingEvents.of(source, target), rules, coding=coding)
    pieces = [plan_bucket(*part, coding, rules) for part in parts]
    assert by_user(*pieces) == by_user(whole)
    assert all(piece.schema.equals(whole.schema, check_metadata=True) for piece in pieces)


@given(st.data(), worlds())
def test_the_order_of_the_rows_makes_no_difference(data, world):
    source, target = world
    coding = data.draw(codings(source, target))
    rules = data.draw(rules_of())
    shuffled = [
        side.take(pa.array(data.draw(st.permutations(range(side.num_rows))), pa.int64()))
        for side in world
    ]
    expected = plan_bucket(source, target, coding, rules)
    assert by_user(plan_bucket(*shuffled, coding, rules)) == by_user(expected)


@settings(max_examples=25)  # each makes files
@given(st.data(), worlds(), rules_of())
def test_planned_from_buckets_on_disk_as_from_memory(tmp_path_factory, data, world, rules):
    coding = data.draw(codings(*world))
    domains = ("books", "news") if _visible(world[0], "news") else ("books",)
    source = world[0].filter(pc.is_in(world[0]["domain"], value_set=pa.array(domains)))
    made = bucket_events(
        table_stream(world[0], rules.as_of),
        table_stream(world[1], rules.as_of),
        BucketRules(
            ids=IdTypes(),
            as_of=rules.as_of,
            source_domains=domains,
            target_domain="music",
            history_events=rules.history_events,
            users_per_bucket=2,
        ),
        tmp_path_factory.mktemp("buckets"),
    )
    pieces = [
        plan_bucket(made.read(SOURCE, at), made.read(TARGET, at), coding, rules)
        for at in range(made.counts.buckets)
    ]
    whole = plan_users(TrainingEvents.of(source, world[1]), rules, coding=coding)
    assert by_user(*pieces) == by_user(whole)


def _visible(source, domain):
    return any(
        row["domain"] == domain
        and row["event_timestamp"] < moment(CUT)
        and row["available_at"] <= moment(CUT)
        for row in source.to_pylist()
    )


@given(worlds(), rules_of())
def test_what_a_user_owns_is_never_drawn_however_little_is_looked_at(world, rules):
    events = TrainingEvents.of(*world)
    items = events.target_items.ids.to_pylist()
    owned = {}
    for row in world[1].to_pylist():
        if row["event_timestamp"] < moment(CUT) and row["available_at"] <= moment(CUT):
            owned.setdefault(row["user_id"], set()).add(row["item_id"])
    for row in plan_users(events, rules).to_pylist():
        kept = [event["item"] for event in row["own"]]
        assert len(kept) <= rules.history_events
        assert {items[code] for code in kept + row["taken"]} == owned.get(row["user_id"], set())
        assert row["weight"] == history_weight(
            np.array([len(owned.get(row["user_id"], set()))]), rules.decay_events
        )


@given(worlds(), rules_of())
def test_nobody_is_planned_without_a_fresh_event(world, rules):
    plan = plan_users(TrainingEvents.of(*world), rules).to_pylist()
    for row in plan:
        assert row["slots"] > 0
        assert row["weight"] > 1e-3
        assert any(event["fresh"] for event in row["source"])


@given(worlds(), rules_of())
def test_fresh_is_what_appeared_after_the_watermark_of_its_domain(world, rules):
    source, _ = world
    events = TrainingEvents.of(*world)
    appeared = {
        row["event_id"]: (
            row["domain"],
            max(to_micros(row["event_timestamp"]) + 1, to_micros(row["available_at"])),
        )
        for row in source.to_pylist()
    }
    for row in plan_users(events, rules).to_pylist():
        for event in row["source"]:
            domain, appear = appeared[event["event_id"]]
            later = rules.since is None or appear > rules.since.get(domain, -(2**63))
            assert event["fresh"] == later


def test_only_the_newest_to_appear_are_looked_at_of_each_domain():
    late = ("u0", "a", "view", 1, 7)  # happened first and appeared last
    early = [("u0", item, "view", at, 0) for at, item in enumerate("bcd", start=2)]
    source = pa.concat_tables([table([late, *early], "books"), table(early, "news")])
    events = TrainingEvents.of(source, table([("u0", "x", None, 0, 0)], "music"))
    rules = PlanRules(as_of=moment(CUT), per_user=5, decay_events=9.0, history_events=2)
    (row,) = plan_users(events, rules).to_pylist()
    assert [event["event_id"] for event in row["source"]] == [
        "news-001",
        "books-003",
        "news-002",
        "books-000",
    ]


def test_user_keys_are_those_of_the_ids():
    source = table([("u5", "a", "view", 1, 0), ("u1", "a", "view", 1, 0)], "books")
    events = TrainingEvents.of(source, table([("u1", "x", None, 0, 0)], "music"))
    plan = plan_users(events, PlanRules(as_of=moment(CUT), per_user=5, decay_events=9.0))
    assert plan["user_id"].to_pylist() == ["u1", "u5"]
    expected = id_keys(pa.array(["u1", "u5"])).tolist()
    assert plan["user_key"].to_pylist() == expected


def planned_slots(source_rows, target_rows=(), **rules):
    source = table(source_rows, "books")
    target = table([("u0", "x", None, 0, 0), *target_rows], "music")
    anchored = pa.concat_tables([source, table([("u0", "z", None, 0, 0)], "anchor")])
    given_rules = {"as_of": moment(CUT), "per_user": 10, "decay_events": 4.0} | rules
    plan = plan_users(TrainingEvents.of(anchored, target), PlanRules(**given_rules))
    return dict(zip(plan["user_id"].to_pylist(), plan["slots"].to_pylist(), strict=True))


def test_the_taper_gives_fewer_to_whom_has_more():
    source = [(f"u{at}", "a", "view", 1, 0) for at in (1, 2)]
    target = [("u2", item, "buy", 1, 0) for item in "abcdefgh"]
    assert planned_slots(source, target) == {"u0": 10, "u1": 10, "u2": 10}
    tapered = planned_slots(source, target, taper="count")
    assert tapered == {"u0": 8, "u1": 10, "u2": 1}  # 10 exp(-1/4), 10, 10 exp(-8/4)


def test_slots_follow_the_share_of_fresh_events_and_are_one_at_least():
    source = [("u1", item, "view", at, 0) for at, item in enumerate("abcd")]
    source += [("u2", f"i{at}", "view", 0, 0) for at in range(40)] + [("u2", "a", "view", 5, 0)]
    since = {"books": to_micros(moment(3)), "anchor": to_micros(moment(9))}
    # What happens at 3 appears a microsecond later: one of four is fresh, and one of 41.
    assert planned_slots(source, since=since) == {"u1": 3, "u2": 1}


def test_thinning_keeps_the_expected_number_and_is_keyed_by_the_user():
    users = [(f"v{at:04d}", "a", "view", 1, 0) for at in range(2000)]
    thinned = planned_slots(users, thin=0.25)
    assert set(thinned.values()) == {2, 3}
    assert sum(thinned.values()) / 2001 == pytest.approx(2.5, abs=0.05)
    alone = planned_slots(users[:1], thin=0.25)
    assert all(thinned[user] == number for user, number in alone.items())


def test_target_history_counts_though_the_translator_does_not_know_the_items():
    source = table([("u1", "a", "view", 1, 0)], "books")
    target = table([("u1", "x", "buy", 1, 0), ("u1", "y", "buy", 2, 0)], "music")
    events = TrainingEvents.of(source, target)
    coding = Coding(
        source_items=events.source_items,
        target_items=Vocabulary(ids=pa.array(["x"])),
        event_types=events.event_types,
    )
    rules = PlanRules(as_of=day(1), per_user=5, decay_events=2.0)
    (row,) = plan_bucket(source, target, coding, rules).to_pylist()
    assert row["weight"] == pytest.approx(0.36787944)  # exp(-2/2)
    assert [event["item"] for event in row["own"]] == [0]
