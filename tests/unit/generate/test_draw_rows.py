"""What every drawn row must satisfy, and that nothing about the running of it shows in the rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from small_drawings import (
    SCHEMA,
    SLOTS,
    listed,
    small_drawing,
    with_column,
    with_fresh,
    with_slots,
    with_taken,
)

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import DataError, LeakageError
from scalr_ray.core.events import WEIGHT_FACTORS, synthetic_event_schema
from scalr_ray.generate import draw_events
from scalr_ray.generate.catalogue import Catalogue
from scalr_ray.generate.kernel.draw import BELOW_FLOOR, NO_EVIDENCE
from scalr_ray.generate.plan import known
from scalr_ray.translator import Vocabulary, as_prior, log_likelihood

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


def test_the_schema_is_that_of_the_lake_and_what_refinement_needs(drawn):
    beside = {
        "reason": pa.string(),
        "item_code": pa.int64(),
        "thinning": pa.float64(),
        "log_lift": pa.float64(),
    }
    assert drawn.schema == pa.schema([*SCHEMA, *beside.items()])
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
        assert row["sample_weight"] == row["history_weight"] == weight_of[row["user_id"]]
        assert {row[name] for name in WEIGHT_FACTORS if name != "history_weight"} == {1.0}
        assert 0 < row["likelihood"] <= 1
        assert 0 < row["propensity"] <= 1
        assert 0 < row["thinning"] < 1
        assert row["label"] == 1
        code = drawing.translator.target_items.codes(pa.array([row["item_id"]]))[0]
        assert row["item_code"] == code


def test_likelihood_is_the_translators_own(drawing, drawn):
    plan = drawing.plan
    users = known(plan, drawing.settings.as_of)
    expected = log_likelihood(drawing.translator, users)
    user = np.searchsorted(plan["user_id"].to_numpy(), drawn["user_id"].to_numpy())
    item = drawing.translator.target_items.codes(drawn["item_id"])
    np.testing.assert_allclose(drawn["likelihood"], np.exp(expected[user, item]), rtol=1e-4)
    prior = log_likelihood(as_prior(drawing.translator), users)
    lift = expected[user, item] - prior[user, item]
    np.testing.assert_allclose(drawn["log_lift"], lift, atol=1e-4)
    assert np.abs(lift).max() > 0.5


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


@pytest.mark.parametrize("elements", [1, 100, 3000])
def test_the_inner_chunks_change_nothing_bit_for_bit(drawing, monkeypatch, elements):
    whole = drawing.draw(negatives=2)
    for budget in (
        "proposals._LISTED_SCORES",
        "proposals._CACHED_SCORES",
        "event_times._CHUNK_EVENTS",
        "negatives._ATTEMPTS_AT_ONCE",
        "negatives._SCORES_AT_ONCE",
    ):
        monkeypatch.setattr(f"scalr_ray.generate.kernel.{budget}", elements)
    assert drawing.draw(negatives=2).equals(whole)


def test_no_block_means_no_rows(drawing, drawn):
    assert drawing.draw(drawing.plan.slice(0, 0)).equals(drawn.slice(0, 0))


def test_another_seed_draws_otherwise(drawing, drawn):
    other = drawing.draw(seed=8)
    assert other.num_rows == drawn.num_rows
    assert other["item_id"] != drawn["item_id"]


@given(st.data())
@settings(max_examples=25)
def test_the_draws_of_fewer_slots_are_the_first_of_more(data):
    number = st.integers(0, SLOTS)
    slots = data.draw(st.lists(number, min_size=len(DRAWING.plan), max_size=len(DRAWING.plan)))
    changes = {
        "strategy": data.draw(st.sampled_from(["sample", "top"])),
        "top_p": data.draw(st.sampled_from([0.6, 1.0])),
        "candidates": data.draw(st.sampled_from([6, 50_000])),
    }
    whole, fewer = DRAWING.draw(**changes), DRAWING.draw(with_slots(DRAWING.plan, slots), **changes)
    most = dict(zip(DRAWING.plan["user_id"].to_pylist(), slots, strict=True))
    kept, drawn_so_far = [], Counter()
    for user in whole["user_id"].to_pylist():
        kept.append(drawn_so_far[user] < most[user])
        drawn_so_far[user] += 1
    assert fewer.equals(whole.filter(pa.array(kept)))


def test_more_slots_than_the_catalogue_draw_all_of_it(drawing):
    drawn = drawing.draw(with_slots(drawing.plan, [10_000] * len(drawing.plan)))
    rankable = int(drawing.translator.rankable.sum())
    assert rankable < len(drawing.translator.target_items)  # some are launched later
    given_to = defaultdict(int)
    for user in drawn["user_id"].to_pylist():
        given_to[user] += 1
    for row in drawing.plan.to_pylist():
        assert given_to[row["user_id"]] == rankable - len({own["item"] for own in row["own"]})


def test_what_was_proposed_before_is_not_proposed_again(drawing, drawn):
    """An increment draws for the same user again, under another batch."""
    before = defaultdict(list)
    for user, item in zip(
        drawn["user_id"].to_pylist(), drawn["item_code"].to_pylist(), strict=True
    ):
        before[user].append(item)
    plan = with_taken(drawing.plan, [before[user] for user in drawing.plan["user_id"].to_pylist()])
    again = drawing.draw(plan, batch_id="batch-2", negatives=1)
    assert again.num_rows > 0
    pairs = zip(again["user_id"].to_pylist(), again["item_code"].to_pylist(), strict=True)
    assert not any(item in before[user] for user, item in pairs)


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


def test_users_of_whom_nothing_is_known_are_refused_where_it_is_asked(drawing):
    """One has but a source item that nobody of the target domain had."""
    plan = drawing.plan.slice(0, 3)
    times = [[event["time"] for event in row] for row in plan["source"].to_pylist()]
    items = [[event["item"] for event in row] for row in plan["source"].to_pylist()]
    items[0] = [0] * len(items[0])
    plan = with_column(plan, "source", listed(items, times))
    others = np.arange(drawing.translator.counts.shape[0]) > 0
    counts = sparse.csr_matrix(drawing.translator.counts.multiply(others[:, None]))
    drawing = drawing.by(replace(drawing.translator, counts=counts))
    asked = {"likelihood_floor": 0.03, "negatives": 1}
    refused = drawing.draw(plan, without_evidence="refuse", **asked)
    nobody = plan["user_id"][0].as_py()
    for row in refused.to_pylist():
        low = BELOW_FLOOR if row["likelihood"] < 0.03 and row["label"] else None
        assert row["reason"] == (NO_EVIDENCE if row["user_id"] == nobody else low)
    assert {*refused["reason"].to_pylist()} == {None, NO_EVIDENCE, BELOW_FLOOR}
    drawn = drawing.draw(plan, without_evidence="draw", **asked)
    assert NO_EVIDENCE not in drawn["reason"].to_pylist()
    assert drawn.filter(pc.equal(drawn["label"], 1)).num_rows == 3 * SLOTS


def test_without_transfer_only_users_without_a_known_item_are_refused(drawing):
    """A placebo is drawn for the same users as what it is compared with."""
    placebo = drawing.by(as_prior(drawing.translator))
    assert placebo.draw(without_evidence="refuse")["reason"].null_count == placebo.draw().num_rows
    plan = drawing.plan.slice(0, 1)
    times = [[event["time"] for event in plan["source"][0].as_py()]]
    unknown = with_column(plan, "source", listed([[-1] * len(times[0])], times))
    assert set(placebo.draw(unknown, without_evidence="refuse")["reason"].to_pylist()) == {
        NO_EVIDENCE
    }


def test_scores_that_are_no_numbers_are_refused(drawing):
    marginal = drawing.translator.marginal.copy()
    marginal[3] = np.nan
    broken = drawing.by(replace(drawing.translator, marginal=marginal))
    with pytest.raises(DataError, match="scalr train"):
        broken.draw()


def test_only_fresh_events_trigger(drawing):
    rows = drawing.plan["source"].to_pylist()
    fresh = [[at % 3 == 0 for at in range(len(row))] for row in rows]
    plan = with_fresh(drawing.plan, fresh)
    may = {
        event["event_id"]
        for row, flags in zip(rows, fresh, strict=True)
        for event, flag in zip(row, flags, strict=True)
        if flag
    }
    drawn = drawing.draw(plan)
    assert set(drawn["source_event_id"].to_pylist()) <= may
    # What is drawn does not depend on what may trigger it.
    assert drawn["item_id"].equals(drawing.draw()["item_id"])


def test_whom_nothing_triggers_gets_nothing(drawing):
    lengths = [len(row) for row in drawing.plan["source"].to_pylist()]
    plan = with_fresh(drawing.plan, [[at > 0] * length for at, length in enumerate(lengths)])
    assert drawing.plan["user_id"][0].as_py() not in drawing.draw(plan)["user_id"].to_pylist()
    cut = to_micros(drawing.settings.as_of)
    last = listed([[0, 1], [0, 1]], [[cut - 1, cut - 1], [5, cut - 1]], [["a", "b"], ["c", "d"]])
    drawn = drawing.draw(with_column(drawing.plan.slice(0, 2), "source", last))
    assert set(drawn["source_event_id"].to_pylist()) == {"c"}


def test_items_first_seen_at_the_cut_are_never_proposed(drawing):
    cut = to_micros(drawing.settings.as_of)
    first_seen = drawing.translator.first_seen.copy()
    first_seen[::2] = cut
    first_seen[1] = cut - 1
    late = drawing.by(replace(drawing.translator, first_seen=first_seen))
    drawn = late.draw(with_slots(drawing.plan, [50] * len(drawing.plan)), negatives=1)
    codes = drawn["item_code"].to_numpy()
    assert (codes % 2 == 1).all()
    times = drawn["event_timestamp"].cast(pa.int64()).to_numpy()
    assert set(times[codes == 1]) == {cut - 1}


def test_users_of_different_groups_are_proposed_different_items(drawing):
    items = len(drawing.translator.target_items)
    item_group = (np.arange(items) >= items // 2).astype(np.int32)
    values = Vocabulary(ids=pa.array(["de", "fr"]))
    catalogue = Catalogue(item_group=item_group, user_features=("market",), values=values)
    group = np.arange(len(drawing.plan)) % 3
    plan = with_column(drawing.plan, "group", pa.array(group))
    drawn = drawing.draw(plan, catalogue=catalogue, negatives=1)
    of = dict(zip(plan["user_id"].to_pylist(), group.tolist(), strict=True))
    groups = np.array([of[user] for user in drawn["user_id"].to_pylist()])
    assert set(groups) == {0, 1}  # to the last nothing may be proposed
    assert (item_group[drawn["item_code"].to_numpy()] == groups).all()


def test_a_catalogue_of_other_items_or_groups_is_refused(drawing):
    with pytest.raises(DataError, match="plan the users again"):
        drawing.draw(catalogue=Catalogue.everything(3))
    plan = with_column(drawing.plan, "group", pa.array([5] * len(drawing.plan)))
    with pytest.raises(DataError, match="plan the users again"):
        drawing.draw(plan)


def test_integer_ids_are_drawn_too(drawing):
    plan = with_slots(drawing.plan, [1000] * len(drawing.plan))
    whole = drawing.draw(plan)
    plan = plan.set_column(0, "user_id", pa.array(range(len(plan)), pa.int64()))
    items = pa.array(range(len(drawing.translator.target_items)), pa.int64())
    translator = replace(drawing.translator, target_items=Vocabulary(ids=items))
    schema = synthetic_event_schema("int64", "int64")
    drawn = draw_events(plan, translator, drawing.settings, schema)
    assert drawn["item_id"].type == pa.int64()
    assert drawn["item_id"].equals(drawn["item_code"])
    # Other ids have other keys, so they come in another order.
    order = [("user_id", "ascending"), ("item_code", "ascending")]
    likelihoods = [table.sort_by(order)["likelihood"] for table in (drawn, whole)]
    assert likelihoods[0].equals(likelihoods[1])


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
