"""Several generations of synthetic events, while real ones keep coming.

Each generation is drawn, by the real kernel, for what users did in the source domain since the one
before, and is published beside what is there. As long as only observed events are translated, the
share of synthetic events and the concentration on popular items stay where they were. Feeding the
synthetic events back as if they had been observed shows what the rule is for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from small_drawings import SCHEMA, settings_at, with_taken
from small_worlds import domain_tables

from scalr_ray.core.clock import to_micros
from scalr_ray.generate import Coding, PlanRules, draw_events, plan_users
from scalr_ray.learn import TrainingEvents, translator_as_of
from scalr_ray.simulate import World, WorldConfig
from scalr_ray.translator import PriorMix, Strength, Vocabulary

GENERATIONS = 7
EVERY = timedelta(days=20)
WEIGHT = 0.1
MIX = PriorMix.recent(window_days=60, background=0.05)
STRENGTH = Strength(shrinkage=1.0, alpha=0.8, temperature=1.0)
EVENT = ["event_id", "user_id", "item_id", "domain", "event_type"]
EVENT += ["event_timestamp", "available_at", "value"]


@dataclass
class Life:
    """What became of a target domain, generation by generation."""

    shares: list[float] = field(default_factory=list)
    ginis: list[float] = field(default_factory=list)
    drawn_ginis: list[float] = field(default_factory=list)
    drawn_items: list[int] = field(default_factory=list)


def gini(items: pa.ChunkedArray, weights: np.ndarray, catalogue: Vocabulary) -> float:
    """Inequality of the items' weights: 0 where all have the same, towards 1 where one has all."""
    each = np.bincount(catalogue.codes(items), weights, minlength=len(catalogue))
    ordered = np.sort(each)
    place = np.arange(1, len(ordered) + 1)
    return float((2 * place - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


def visible(events: pa.Table, as_of: datetime) -> pa.Table:
    cut = pa.scalar(as_of, events.schema.field("event_timestamp").type)
    return events.filter(
        pc.and_(pc.less(events["event_timestamp"], cut), pc.less_equal(events["available_at"], cut))
    )


def as_observed(drawn: pa.Table) -> pa.Table:
    """Synthetic events with the mark taken off, as no reader would ever hand them out."""
    at = drawn.schema.get_field_index("event_type")
    disguised = drawn.set_column(at, "event_type", pa.array(["view"] * drawn.num_rows, pa.string()))
    return disguised.select(EVENT)


def draw(
    source: pa.Table, target: pa.Table, as_of: datetime, since: datetime | None, published: pa.Table
) -> pa.Table:
    """The batch of one generation."""
    events = TrainingEvents.of(source, target)
    translator = translator_as_of(events, as_of, strength=STRENGTH, mix=MIX)
    rules = PlanRules(
        as_of=as_of,
        per_user=8,
        decay_events=100.0,
        since=None if since is None else {"source": to_micros(since)},
    )
    plan = plan_users(events, rules, coding=Coding.of(translator))
    had = Vocabulary.of(plan["user_id"]).codes(published["user_id"])
    items = translator.target_items.codes(published["item_id"])
    taken = [items[(had == user) & (items >= 0)].tolist() for user in range(plan.num_rows)]
    batch = f"batch-{as_of:%m%d}"
    settings = replace(settings_at(as_of), batch_id=batch, temperature=0.7)
    drawn = draw_events(with_taken(plan, taken), translator, settings, SCHEMA)
    return drawn.filter(drawn["reason"].is_null()).select(SCHEMA.names)


@cache
def live(*, organic: bool) -> Life:
    """All generations; unless organic, what is drawn is mistaken for observed the next time."""
    world = World.generate(
        WorldConfig(
            users=500, source_items=80, target_items=300, days=240, launch_frac=0.0, seed=3,
            source_events_per_user=24, target_events_per_user=8,
        )
    )  # fmt: skip
    source, target = domain_tables(world)
    catalogue = Vocabulary.of(target["item_id"])
    first = pc.min(target["event_timestamp"]).as_py() + timedelta(days=100)
    life, published, since = Life(), SCHEMA.empty_table(), None
    for generation in range(GENERATIONS):
        as_of = first + generation * EVERY
        real = visible(target, as_of)
        believed = (
            real if organic else pa.concat_tables([real, as_observed(published).cast(real.schema)])
        )
        drawn = draw(visible(source, as_of), believed, as_of, since, published)
        published, since = pa.concat_tables([published, drawn]), as_of
        weights = WEIGHT * published["sample_weight"].to_numpy()
        mixed = pa.chunked_array([*real["item_id"].chunks, *published["item_id"].chunks])
        life.shares.append(float(weights.sum() / (weights.sum() + real.num_rows)))
        life.ginis.append(gini(mixed, np.append(np.ones(real.num_rows), weights), catalogue))
        life.drawn_ginis.append(gini(drawn["item_id"], np.ones(drawn.num_rows), catalogue))
        life.drawn_items.append(pc.count_distinct(drawn["item_id"]).as_py())
    return life


def test_the_share_of_synthetic_events_stays_bounded():
    life = live(organic=True)
    assert len(life.shares) == GENERATIONS
    assert 0.2 < life.shares[0] < 0.5
    assert max(life.shares) <= life.shares[0] + 0.01


def test_the_concentration_on_popular_items_stays_bounded():
    life = live(organic=True)
    assert max(life.ginis) <= life.ginis[0] + 0.01
    assert max(life.drawn_ginis) <= life.drawn_ginis[0] + 0.05
    assert min(life.drawn_items) >= life.drawn_items[0] / 2


def test_synthetic_events_fed_back_as_observed_narrow_the_catalogue():
    organic, looped = live(organic=True), live(organic=False)
    # Nothing can be fed back before it was drawn.
    assert looped.drawn_items[0] == organic.drawn_items[0]
    assert looped.ginis[0] == organic.ginis[0]
    for kept, fed in zip(organic.drawn_ginis[1:], looped.drawn_ginis[1:], strict=True):
        assert fed > kept + 0.02
    for kept, fed in zip(organic.ginis[1:], looped.ginis[1:], strict=True):
        assert fed > kept
    assert sum(looped.drawn_items[1:]) < 0.7 * sum(organic.drawn_items[1:])
