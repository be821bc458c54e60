"""The drawn items against a plain search, item by item, for every way of drawing.

The oracle computes for each user alone, in plain Python, what the kernel computes for blocks: the
items that may be proposed, their weights, the cut to the likeliest, the noise of user and item, and
the probabilities of what comes out.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_drawings import listed, small_drawing, with_column, with_slots, with_taken

from scalr_ray.core.clock import from_micros, to_micros
from scalr_ray.core.keyed import id_keys, keyed_gumbel, stream_seed
from scalr_ray.generate.catalogue import Catalogue
from scalr_ray.generate.kernel.draw import EVENT_TYPE, NEGATIVE_TYPE
from scalr_ray.generate.plan import known
from scalr_ray.translator import Vocabulary

DRAWING = small_drawing()
ITEMS = len(DRAWING.translator.target_items)
USERS = 6

codes = st.lists(st.integers(0, ITEMS - 1), max_size=8, unique=True)
cases = st.fixed_dictionaries(
    {
        "slots": st.lists(st.integers(0, 40), min_size=USERS, max_size=USERS),
        "taken": st.lists(codes, min_size=USERS, max_size=USERS),
        "own": st.lists(codes, min_size=USERS, max_size=USERS),
        "group": st.lists(st.integers(0, 1), min_size=USERS, max_size=USERS),
        # Of each item: the group it may be proposed to, or nobody.
        "item_group": st.lists(st.integers(-1, 1), min_size=ITEMS, max_size=ITEMS),
    }
)
ways = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(["sample", "top"]),
        "temperature": st.sampled_from([0.5, 1.0, 1.7]),
        "top_p": st.sampled_from([0.3, 0.77, 1.0]),
        "evidence": st.sampled_from([0.0, 1.0, 1.5]),
        "candidates": st.sampled_from([1, 5, 17, 50_000]),
        "likelihood_floor": st.sampled_from([0.0, 0.05]),
        "negatives": st.sampled_from([0, 1, 3]),
        "seed": st.integers(0, 3),
    }
)


def planned(case):
    plan = with_slots(DRAWING.plan.slice(0, USERS), case["slots"])
    plan = with_column(with_taken(plan, case["taken"]), "own", listed(case["own"]))
    plan = with_column(plan, "group", pa.array(case["group"]))
    catalogue = Catalogue(
        item_group=np.array(case["item_group"], dtype=np.int32),
        user_features=("market",),
        values=Vocabulary(ids=pa.array(["de", "fr"])),
    )
    return plan, catalogue


def eligible(case, at):
    """The items that may be proposed to a user."""
    cut = to_micros(DRAWING.settings.as_of)
    return [
        item
        for item in range(ITEMS)
        if case["item_group"][item] == case["group"][at]
        and DRAWING.translator.prior[item] > 0
        and DRAWING.translator.first_seen[item] < cut
        and item not in case["taken"][at]
        and item not in case["own"][at]
    ]


def evidence_of(plan):
    """(B, I) under the items the users own in this plan."""
    return DRAWING.translator.evidence(known(plan, DRAWING.settings.as_of)).astype(float)


def plain_draw(case, way, evidence, at):
    """[(item, propensity)] of a user, in order."""
    log_prior = DRAWING.translator.log_prior.astype(float)
    weight = {
        item: log_prior[item] + way["evidence"] * evidence[at, item] for item in eligible(case, at)
    }
    order = sorted(weight, key=lambda item: (-weight[item], item))[: way["candidates"]]
    if way["strategy"] == "top":
        return [(item, 1.0) for item in order[: case["slots"][at]]]
    power = {item: math.exp(weight[item] / way["temperature"]) for item in order}
    total, reached, kept = math.fsum(power.values()), 0.0, []
    for item in order:
        if reached >= way["top_p"]:
            break
        kept.append(item)
        reached += power[item] / total
    whole = math.fsum(power[item] for item in kept)
    user_key = id_keys(DRAWING.plan["user_id"].combine_chunks())[at]
    item_keys = id_keys(DRAWING.translator.target_items.ids)
    seed = stream_seed("item", way["seed"])
    noisy = {
        item: math.log(power[item]) + float(keyed_gumbel(seed, user_key, item_keys[item]))
        for item in kept
    }
    drawn = sorted(kept, key=lambda item: -noisy[item])[: case["slots"][at]]
    return [(item, power[item] / whole) for item in drawn]


def plain_likelihood(case, evidence, at):
    """{item: calibrated probability} over what may be proposed to a user."""
    translator = DRAWING.translator
    score = {
        item: math.exp(
            (float(translator.log_prior[item]) + translator.alpha * evidence[at, item])
            / translator.temperature
        )
        for item in eligible(case, at)
    }
    total = math.fsum(score.values())
    return {item: value / total for item, value in score.items()}


@given(cases, ways)
@settings(max_examples=100, deadline=None)
def test_the_kernel_draws_what_a_plain_search_draws(case, way):
    plan, catalogue = planned(case)
    drawn = DRAWING.draw(plan, catalogue=catalogue, **way).to_pylist()
    evidence = evidence_of(plan)
    for at, user in enumerate(plan["user_id"].to_pylist()):
        rows = [row for row in drawn if row["user_id"] == user]
        events = [row for row in rows if row["event_type"] == EVENT_TYPE]
        expected = plain_draw(case, way, evidence, at)
        assert [row["item_code"] for row in events] == [item for item, _ in expected]
        for row, (_, propensity) in zip(events, expected, strict=True):
            assert row["propensity"] == pytest.approx(propensity, rel=1e-4)
        likelihood = plain_likelihood(case, evidence, at)
        for row in rows:
            assert row["likelihood"] == pytest.approx(likelihood[row["item_code"]], rel=1e-4)
            refused = row["label"] == 1 and row["likelihood"] < way["likelihood_floor"]
            assert (row["reason"] is not None) == refused
        assert_negatives(case, way, at, rows, events)


def assert_negatives(case, way, at, rows, events):
    """As many as are asked for or left; of the rest of the items; right after the user's events."""
    negatives = [row for row in rows if row["event_type"] == NEGATIVE_TYPE]
    assert rows == [*events, *negatives]
    accepted = [row for row in events if row["reason"] is None]
    proposed = {row["item_code"] for row in events}
    left = [item for item in eligible(case, at) if item not in proposed]
    items = [row["item_code"] for row in negatives]
    assert len(items) == min(way["negatives"] * len(accepted), len(left))
    assert len(set(items)) == len(items)
    assert set(items) <= set(left)
    mass = math.fsum(DRAWING.translator.prior[item] for item in left)
    triggers = {row["source_event_id"] for row in accepted}
    for row in negatives:
        share = DRAWING.translator.prior[row["item_code"]] / mass
        assert row["propensity"] == pytest.approx(share, rel=1e-4)
        assert row["label"] == 0
        assert row["source_event_id"] in triggers


@given(cases, ways)
@settings(max_examples=40, deadline=None)
def test_times_and_ids_of_all_rows_are_right_and_the_same_on_a_retry(case, way):
    plan, catalogue = planned(case)
    drawn = DRAWING.draw(plan, catalogue=catalogue, **way)
    assert drawn.equals(DRAWING.draw(plan, catalogue=catalogue, **way))
    happened = {
        (row["user_id"], event["event_id"]): event["time"]
        for row in plan.to_pylist()
        for event in row["source"]
    }
    for row in drawn.to_pylist():
        trigger = from_micros(happened[row["user_id"], row["source_event_id"]])
        assert trigger < row["event_timestamp"] < DRAWING.settings.as_of
        first_seen = from_micros(int(DRAWING.translator.first_seen[row["item_code"]]))
        assert first_seen <= row["event_timestamp"]
    ids = drawn["event_id"].to_pylist()
    assert len(set(ids)) == len(ids)


@given(cases, ways, st.data())
@settings(max_examples=40, deadline=None)
def test_a_user_gets_the_same_whoever_else_is_in_the_block(case, way, data):
    plan, catalogue = planned(case)
    whole = DRAWING.draw(plan, catalogue=catalogue, **way)
    order = data.draw(st.permutations(range(USERS)))[: data.draw(st.integers(0, USERS))]
    some = DRAWING.draw(plan.take(pa.array(order, pa.int64())), catalogue=catalogue, **way)
    alone = [DRAWING.draw(plan.slice(at, 1), catalogue=catalogue, **way) for at in order] or [
        whole.slice(0, 0)
    ]
    assert some.equals(pa.concat_tables(alone))
    users = [plan["user_id"][at].as_py() for at in order]
    rows = [row for user in users for row in whole.to_pylist() if row["user_id"] == user]
    assert some.to_pylist() == rows
