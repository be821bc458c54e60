"""Drawing in this process: the placebo, and what the configuration asks for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from small_drawings import SCHEMA, Drawing, small_drawing

from scalr_ray.core.config import ScalrConfig
from scalr_ray.generate import PlanRules, plan_users
from scalr_ray.jobs.drawing import (
    accepted,
    draw_here,
    draw_placebo,
    plan_rules,
    thin_to_budget,
)


@pytest.fixture(scope="module")
def drawing() -> Drawing:
    return small_drawing()


@pytest.fixture(scope="module")
def events(drawing: Drawing) -> pa.Table:
    """What was drawn, every second row left out, weights that differ by user."""
    drawn = accepted(draw_here(drawing.plan, drawing.translator, drawing.settings, SCHEMA))
    drawn = drawn.take(pa.array(np.arange(0, drawn.num_rows, 2))).select(SCHEMA.names)
    users = drawn["user_id"].to_pylist()
    weights = [len(user) + (hash_of(user) % 7) / 10 for user in users]
    at = drawn.schema.get_field_index("sample_weight")
    return drawn.set_column(at, drawn.schema.field(at), pa.array(weights))


def hash_of(user: str) -> int:
    return sum(map(ord, user))


def placebo(drawing: Drawing, events: pa.Table, **changes) -> pa.Table:
    settings = replace(drawing.settings, batch_id="placebo", **changes)
    return draw_placebo(events, drawing.plan, drawing.translator, settings, SCHEMA)


def test_a_placebo_has_as_many_events_of_the_same_weight_for_the_same_users(drawing, events):
    found = placebo(drawing, events)
    assert found.schema.names == SCHEMA.names
    assert Counter(found["user_id"].to_pylist()) == Counter(events["user_id"].to_pylist())
    expected, weight = ({}, {})
    for table, sums in ((events, expected), (found, weight)):
        for row in table.to_pylist():
            sums[row["user_id"]] = sums.get(row["user_id"], 0.0) + row["sample_weight"]
    assert weight == pytest.approx(expected)


def test_a_placebo_knows_nothing_of_the_source(drawing, events):
    blind = drawing.translator.tuned(alpha=0.0, temperature=drawing.translator.temperature)
    found = placebo(drawing, events)
    assert placebo(drawing.by(blind), events).equals(found)
    # Nor does what would refuse an event of the batch hold for it.
    assert placebo(drawing, events, likelihood_floor=0.5, negatives=2, top_p=0.1).equals(found)


def test_another_seed_gives_another_placebo(drawing, events):
    assert not placebo(drawing, events, seed=99).equals(placebo(drawing, events))


def test_no_events_give_no_placebo(drawing, events):
    assert placebo(drawing, events.slice(0, 0)).num_rows == 0


def test_negatives_are_passed_over(drawing, events):
    at = events.schema.get_field_index("label")
    labels = pa.array((np.arange(events.num_rows) % 3 > 0).astype(np.float64))
    mixed = events.set_column(at, events.schema.field(at), labels)
    positives = mixed.filter(pa.array(labels.to_numpy() > 0))
    assert Counter(placebo(drawing, mixed)["user_id"].to_pylist()) == Counter(
        positives["user_id"].to_pylist()
    )


def slots(drawing: Drawing, rules: PlanRules) -> int:
    return sum(plan_users(drawing.events, rules)["slots"].to_pylist())


@pytest.mark.parametrize("budget", [None, 10, 500, 10**9])
def test_a_budget_thins_everybody_alike(drawing, budget):
    config = ScalrConfig.model_validate(
        {"generation": {"budget": budget, "per_user": 8}, "weights": {"decay_events": 2.0}}
    )
    as_of = drawing.settings.as_of
    thin = thin_to_budget(config, drawing.events, as_of)
    rules = plan_rules(config, as_of, decay_events=2.0)
    planned = slots(drawing, rules)
    assert thin == (1.0 if budget in (None, 10**9) else budget / planned)
    thinned = slots(drawing, replace(rules, thin=thin))
    # A coin for the fraction of an event of each user.
    assert abs(thinned - thin * planned) < 4 * np.sqrt(len(drawing.events.users) / 4) + 1
