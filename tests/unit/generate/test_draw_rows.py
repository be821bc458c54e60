"""What every drawn row must satisfy, and that nothing about the running of it shows in the rows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_drawings import SCHEMA, listed, small_drawing, with_column

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import LeakageError
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.generate import draw_events
from scalr_ray.generate.draw import BELOW_FLOOR
from scalr_ray.translator import log_likelihood

DRAWING = small_drawing()  # for properties, which take no fixtures


@pytest.fixture(scope="module")
def drawn(drawing):
    return drawing.draw()


def visible(table, as_of):
    return [
        event
        for event in table.to_pylist()
        if event["event_timestamp"] < as_of and event["available_at"] <= as_of
    ]


def test_the_schema_is_that_of_the_lake_and_a_reason(drawn):
    assert drawn.schema == SCHEMA.append(pa.field("reason", pa.string()))
    for field in SCHEMA:
        expected = drawn.num_rows if field.name == "value" else 0
        assert drawn[field.name].null_count == expected


def test_each_event_follows_its_own_users_source_event_and_precedes_the_cut(drawing, drawn):
    as_of = drawing.settings.as_of
    source = {event["event_id"]: event for event in visible(drawing.source, as_of)}
    for row in drawn.to_pylist():
        trigger = source[row["source_event_id"]]
        assert trigger["user_id"] == row["user_id"]
        assert trigger["event_timestamp"] < row["event_timestamp"] < as_of


def test_each_event_lies_at_or_after_the_first_sighting_of_its_item(drawing, drawn):
    first = {}
    for event in visible(drawing.target, drawing.settings.as_of):
        moment = event["event_timestamp"]
        first[event["item_id"]] = min(first.get(event["item_id"], moment), moment)
    assert all(first[row["item_id"]] <= row["event_timestamp"] for row in drawn.to_pylist())


def test_items_are_distinct_per_user_and_never_owned(drawing, drawn):
    owned = {
        (event["user_id"], event["item_id"])
        for event in visible(drawing.target, drawing.settings.as_of)
    }
    pairs = list(zip(drawn["user_id"].to_pylist(), drawn["item_id"].to_pylist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert not owned & set(pairs)
    planned_owners = {user for user, _ in owned} & set(drawing.plan["user_id"].to_pylist())
    assert len(planned_owners) > 20  # or there would be nothing to avoid


def test_clocks_lineage_and_weights(drawing, drawn):
    weight_of = dict(
        zip(drawing.plan["user_id"].to_pylist(), drawing.plan["weight"].to_pylist(), strict=True)
    )
    as_of = drawing.settings.as_of
    for row in drawn.to_pylist():
        assert (row["available_at"], row["generated_at"], row["train_cutoff"]) == (as_of,) * 3
        assert (row["batch_id"], row["translator_version"]) == ("batch-1", "frequency-1")
        assert (row["domain"], row["event_type"]) == ("target", "synthetic")
        assert row["sample_weight"] == pytest.approx(0.1 * weight_of[row["user_id"]])
        assert 0 < row["likelihood"] <= 1


def test_likelihood_is_the_translators_own(drawing, drawn):
    plan = drawing.plan
    users = drawing.events.known(plan["user_code"].to_numpy(), drawing.settings.as_of)
    expected = np.exp(log_likelihood(drawing.translator, users))
    user = np.searchsorted(plan["user_id"].to_numpy(), drawn["user_id"].to_numpy())
    item = drawing.translator.target_items.codes(drawn["item_id"])
    np.testing.assert_allclose(drawn["likelihood"], expected[user, item], rtol=1e-4)


def test_a_translator_from_before_the_generation_time_keeps_its_cutoff(drawing):
    later = drawing.settings.as_of + timedelta(days=2)
    row = drawing.draw(as_of=later).to_pylist()[0]
    assert row["train_cutoff"] == drawing.settings.as_of
    assert row["available_at"] == row["generated_at"] == later


def test_a_translator_from_after_the_generation_time_is_refused(drawing):
    with pytest.raises(LeakageError, match="train one as of then"):
        drawing.draw(as_of=drawing.settings.as_of - timedelta(microseconds=1))


def test_rows_stand_in_order_of_user_and_slot_with_ids_of_their_own(drawing, drawn):
    users = drawn["user_id"].to_pylist()
    assert users == sorted(users)
    assert set(users) == set(drawing.plan["user_id"].to_pylist())
    ids = drawn["event_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    others = drawing.draw(batch_id="batch-2")["event_id"].to_pylist()
    assert not set(ids) & set(others)


@given(st.data())
@settings(max_examples=40)
def test_block_size_order_and_chunks_change_nothing_bit_for_bit(data):
    plan, whole = DRAWING.plan, DRAWING.draw()
    cuts = data.draw(st.sets(st.integers(1, plan.num_rows - 1), max_size=12))
    edges = [0, *sorted(cuts), plan.num_rows]
    blocks = [plan.slice(a, b - a) for a, b in pairwise(edges)]
    drawn = [None] * len(blocks)
    for at in data.draw(st.permutations(range(len(blocks)))):
        drawn[at] = DRAWING.draw(blocks[at])
    assert pa.concat_tables(drawn).equals(whole)
    order = data.draw(st.permutations(range(len(blocks))))
    mixed = DRAWING.draw(pa.concat_tables([blocks[at] for at in order]))
    assert mixed.equals(pa.concat_tables([drawn[at] for at in order]))


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_the_inner_chunks_change_nothing_bit_for_bit(drawing, drawn, monkeypatch, chunk):
    monkeypatch.setattr("scalr_ray.generate.draw._SCORE_CHUNK", chunk)
    assert drawing.draw().equals(drawn)


def test_no_block_means_no_rows(drawing, drawn):
    assert drawing.draw(drawing.plan.slice(0, 0)).equals(drawn.slice(0, 0))


def test_another_seed_draws_otherwise(drawing, drawn):
    other = drawing.draw(seed=8)
    assert other.num_rows == drawn.num_rows
    assert other["item_id"] != drawn["item_id"]


def test_fewer_per_user_are_the_first_of_more(drawing, drawn):
    fewer = drawing.draw(per_user=3)
    kept, slot = [], defaultdict(int)
    for user in drawn["user_id"].to_pylist():
        kept.append(slot[user] < 3)
        slot[user] += 1
    assert fewer.equals(drawn.filter(pa.array(kept)))


def test_more_per_user_than_the_catalogue_draws_all_of_it(drawing):
    drawn = drawing.draw(per_user=10_000)
    rankable = int(drawing.translator.rankable.sum())
    assert rankable < len(drawing.translator.target_items)  # some are launched later
    given_to = defaultdict(int)
    for user in drawn["user_id"].to_pylist():
        given_to[user] += 1
    for row in drawing.plan.to_pylist():
        assert given_to[row["user_id"]] == rankable - len(row["own"])


def test_who_owns_everything_gets_nothing(drawing):
    rankable = np.flatnonzero(drawing.translator.rankable)
    plan = drawing.plan.slice(0, 3)
    plan = with_column(plan, "own", listed([rankable, [], rankable]))
    assert set(drawing.draw(plan)["user_id"].to_pylist()) == {plan["user_id"][1].as_py()}
    assert drawing.draw(plan.slice(0, 1)).num_rows == 0


@pytest.mark.parametrize("floor", [0.0, 0.03, 0.99])
def test_candidates_below_the_floor_carry_the_reason(drawing, drawn, floor):
    floored = drawing.draw(likelihood_floor=floor)
    below = [value < floor for value in floored["likelihood"].to_pylist()]
    reasons = [BELOW_FLOOR if low else None for low in below]
    assert floored["reason"].to_pylist() == reasons
    assert floored.drop_columns("reason").equals(drawn.drop_columns("reason"))
    assert (any(below), all(below)) == (floor > 0, floor == 0.99)


def test_integer_ids_are_drawn_too(drawing):
    users = pa.array(range(drawing.plan.num_rows), pa.int64())
    plan = drawing.plan.set_column(0, "user_id", users)
    items = pa.array(range(len(drawing.translator.target_items)), pa.int64())
    vocabulary = replace(drawing.translator.target_items, ids=items)
    translator = replace(drawing.translator, target_items=vocabulary)
    schema = synthetic_event_schema("int64", "int64")
    drawn = draw_events(plan, translator, drawing.settings, schema)
    assert drawn.schema.field("user_id").type == pa.int64()
    assert drawn["likelihood"].equals(drawing.draw()["likelihood"])


def test_a_source_event_at_the_very_last_moment_still_leaves_room(drawing):
    """The plan leaves two microseconds; the event takes the one between."""
    cut = to_micros(drawing.settings.as_of)
    plan = drawing.plan.slice(0, 5)
    items = [[event["item"] for event in row] for row in plan["source"].to_pylist()]
    late = listed(items, [[cut - 2] * len(row) for row in items])
    plan = with_column(plan, "source", late)
    drawn = drawing.draw(plan)
    assert drawn.num_rows > 0
    assert set(drawn["event_timestamp"].cast(pa.int64()).to_pylist()) == {cut - 1}
