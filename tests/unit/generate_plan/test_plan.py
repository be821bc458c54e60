from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import day, event_table

from scalr_ray.core.clock import to_micros
from scalr_ray.generate import PlanRules, history_weight, plan_users
from scalr_ray.generate.plan import VOCABULARY_KEY
from scalr_ray.learn import TrainingEvents

ANCHOR = [("u0", "a", 0)]
MICROSECOND = timedelta(microseconds=1) / timedelta(days=1)
# (user, item, happened, known); one moment in the last microsecond before day 5.
moments = st.sampled_from([0, 1, 2, 3, 4, 5 - 2 * MICROSECOND, 5 - MICROSECOND, 5, 6])
row = st.tuples(
    st.sampled_from(["u0", "u1", "u2", "u3"]), st.sampled_from("abc"), moments, moments
).map(lambda r: (*r[:3], max(r[2:])))
rows = st.lists(row, max_size=16)


def code(source, target):
    return TrainingEvents.of(
        event_table([*ANCHOR, *source], "books"), event_table([*ANCHOR, *target], "music")
    )


def planned(events, cut, decay):
    rules = PlanRules(as_of=day(cut), per_user=8, decay_events=decay)
    return plan_users(events, rules)


def first_visible(rows, cut):
    """{user: [(time, event id, item)]}: first visible events of pairs, in order of appearance."""
    visible = [
        (happened, f"{at:05d}", user, item)
        for at, (user, item, happened, known) in enumerate([(*ANCHOR[0], 0), *rows])
        if happened < cut and known <= cut
    ]
    seen, by_user = set(), {}
    for happened, event_id, user, item in sorted(visible):
        if (user, item) not in seen:
            seen.add((user, item))
            by_user.setdefault(user, []).append((to_micros(day(happened)), event_id, item))
    known_from = {f"{at:05d}": row[3] for at, row in enumerate([(*ANCHOR[0], 0), *rows])}
    for events in by_user.values():
        events.sort(key=lambda event: max(event[0] + 1, to_micros(day(known_from[event[1]]))))
    return by_user


@given(rows, rows, st.sampled_from([0.0, 0.2, 3.0]))
def test_the_plan_against_a_plain_search(source, target, decay):
    events = code(source, target)
    plan = planned(events, 5, decay).to_pylist()
    source_of, target_of = first_visible(source, 5), first_visible(target, 5)
    expected = {}
    for user, history in source_of.items():
        # Nothing can follow an event in the last microsecond and still lie before the cut.
        triggers = [event for event in history if event[0] + 1 < to_micros(day(5))]
        owned = target_of.get(user, [])
        weight = math.exp(-len(owned) / decay) if decay else float(not owned)
        if triggers and weight > 1e-3:
            expected[user] = (triggers, [item for _, _, item in owned], weight)
    assert [row["user_id"] for row in plan] == sorted(expected)
    keys = events.source_items.ids.to_pylist()
    items = events.target_items.ids.to_pylist()
    for row in plan:
        triggers, owned, weight = expected[row["user_id"]]
        assert row["weight"] == pytest.approx(weight)
        assert [
            (event["time"], event["event_id"], keys[event["item"]].split("\x1f")[1])
            for event in row["source"]
        ] == [(time, f"books-{event_id}", item) for time, event_id, item in triggers]
        assert [items[event["item"]] for event in row["own"]] == owned


@given(rows, rows)
def test_nobody_is_planned_without_a_source_event(source, target):
    plan = planned(code(source, target), 5, 50.0)
    assert all(len(row) > 0 for row in plan["source"].to_pylist())


def test_before_all_events_nobody_is_planned():
    plan = planned(code([], []), 0, 0.0)
    assert plan.num_rows == 0
    assert plan.schema.metadata[VOCABULARY_KEY]


def test_weights_fade_with_history_and_at_decay_zero_vanish():
    counts = np.array([0, 1, 2, 30])
    assert history_weight(counts, 0.0).tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(history_weight(counts, 2.0), np.exp(-counts / 2))


def test_users_whose_weight_vanishes_are_left_out():
    heavy = [("u1", f"t{at}", 1, 1) for at in range(7)]
    source = [("u1", "a", 1, 1), ("u2", "a", 1, 1)]
    plan = planned(code(source, heavy), 5, 1.0)
    assert "u1" not in plan["user_id"].to_pylist()  # exp(-7) is below a thousandth
    assert "u2" in plan["user_id"].to_pylist()


def test_plans_under_other_item_codes_are_told_apart():
    base = planned(code([], []), 5, 1.0).schema.metadata
    more_users = planned(code([("u9", "a", 1, 1)], []), 5, 1.0)
    more_items = planned(code([("u0", "b", 1, 1)], []), 5, 1.0)
    assert more_users.schema.metadata == base
    assert more_items.schema.metadata != base
