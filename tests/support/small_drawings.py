"""A small simulated world, planned and ready to be drawn from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa
from small_worlds import domain_tables, quantile_day

from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.generate import DrawSettings, draw_events, plan_users
from scalr_ray.learn import TrainingEvents, translator_as_of
from scalr_ray.simulate import World, WorldConfig
from scalr_ray.translator import FrequencyTranslator, Strength

SCHEMA = synthetic_event_schema("string", "string")
STRENGTH = Strength(window_days=30, shrinkage=1.0, alpha=0.8, temperature=1.3)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Who is drawn for, by which translator, how, and what had been observed by then."""

    source: pa.Table
    target: pa.Table
    events: TrainingEvents
    translator: FrequencyTranslator
    plan: pa.Table
    settings: DrawSettings

    def draw(self, plan: pa.Table | None = None, **changes) -> pa.Table:
        settings = replace(self.settings, **changes)
        return draw_events(self.plan if plan is None else plan, self.translator, settings, SCHEMA)

    def by(self, translator: FrequencyTranslator) -> Drawing:
        return replace(self, translator=translator)


def settings_at(as_of: datetime) -> DrawSettings:
    return DrawSettings(
        batch_id="batch-1",
        translator_version="frequency-1",
        domain="target",
        as_of=as_of,
        per_user=8,
        temperature=0.9,
        evidence=1.0,
        likelihood_floor=0.0,
        weight_scale=0.1,
        seed=7,
    )


def small_drawing() -> Drawing:
    world = World.generate(
        WorldConfig(
            users=150,
            source_items=40,
            target_items=30,
            days=60,
            source_events_per_user=8,
            target_events_per_user=4,
        )
    )
    source, target = domain_tables(world)
    as_of = quantile_day(target, 0.8)
    events = TrainingEvents.of(source, target)
    return Drawing(
        source=source,
        target=target,
        events=events,
        translator=translator_as_of(events, as_of, strength=STRENGTH, background=0.05),
        plan=plan_users(events, as_of, decay_events=2.0),
        settings=settings_at(as_of),
    )
