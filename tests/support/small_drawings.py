"""A small simulated world, planned and ready to be drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
from small_worlds import domain_tables, quantile_day

from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.generate import DrawSettings, PlanRules, draw_events, plan_users
from scalr_ray.generate.catalogue import Catalogue
from scalr_ray.learn import TrainingEvents, translator_as_of
from scalr_ray.simulate import World, WorldConfig
from scalr_ray.translator import FrequencyTranslator, PriorMix, Strength

SCHEMA = synthetic_event_schema("string", "string")
STRENGTH = Strength(shrinkage=1.0, alpha=0.8, temperature=1.3)
SLOTS = 8
MIX = PriorMix.recent(window_days=30, background=0.05)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Who is drawn for, by which translator, how, and what had been observed by then."""

    source: pa.Table
    target: pa.Table
    events: TrainingEvents
    translator: FrequencyTranslator
    plan: pa.Table
    settings: DrawSettings

    def draw(
        self, plan: pa.Table | None = None, *, catalogue: Catalogue | None = None, **changes
    ) -> pa.Table:
        plan = self.plan if plan is None else plan
        settings = replace(self.settings, **changes)
        return draw_events(plan, self.translator, settings, SCHEMA, catalogue=catalogue)

    def by(self, translator: FrequencyTranslator) -> Drawing:
        return replace(self, translator=translator)


def listed(
    items: Sequence[Sequence[int]],
    times: Sequence[Sequence[int]] | None = None,
    ids: Sequence[Sequence[str]] | None = None,
    fresh: Sequence[Sequence[bool]] | None = None,
) -> pa.Array:
    """A column of events as a plan has it: per row the items, at these times, under these ids.

    All of them are fresh, unless it is said which.
    """
    lists = pa.array(items, pa.large_list(pa.int64()))
    flat = lists.flatten()
    columns = {
        "item": flat,
        "time": flat if times is None else pa.array([t for row in times for t in row], pa.int64()),
        "type": pa.array([-1] * len(flat), pa.int64()),
        "value": pa.array([float("nan")] * len(flat), pa.float32()),
        "event_id": pa.array([str(item) for item in flat.to_pylist()])
        if ids is None
        else pa.array([name for row in ids for name in row], pa.string()),
        "fresh": pa.array([True] * len(flat))
        if fresh is None
        else pa.array([flag for row in fresh for flag in row], pa.bool_()),
    }
    events = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    return pa.LargeListArray.from_arrays(lists.offsets, events)


def with_column(plan: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """The plan with another column of that name."""
    return plan.set_column(plan.schema.get_field_index(name), name, column)


def with_slots(plan: pa.Table, numbers: Sequence[int]) -> pa.Table:
    """The plan with so many events for each user."""
    return with_column(plan, "slots", pa.array(numbers, pa.int64()))


def with_taken(plan: pa.Table, items: Sequence[Sequence[int]]) -> pa.Table:
    """The plan of users to whom these items were proposed before."""
    return with_column(plan, "taken", pa.array(items, pa.large_list(pa.int64())))


def with_fresh(plan: pa.Table, flags: Sequence[Sequence[bool]]) -> pa.Table:
    """The plan, of whose source events these are fresh."""
    source = plan["source"].combine_chunks()
    columns = dict(zip(source.type.value_type.names, source.flatten().flatten(), strict=True))
    columns["fresh"] = pa.array([flag for row in flags for flag in row], pa.bool_())
    events = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    offsets = pa.array(np.cumsum([0, *map(len, flags)]))
    return with_column(plan, "source", pa.LargeListArray.from_arrays(offsets, events))


def settings_at(as_of: datetime) -> DrawSettings:
    return DrawSettings(
        batch_id="batch-1",
        translator_version="frequency-1",
        domain="target",
        as_of=as_of,
        strategy="sample",
        temperature=0.9,
        top_p=1.0,
        evidence=1.0,
        candidates=50_000,
        likelihood_floor=0.0,
        without_evidence="draw",
        negatives=0,
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
        translator=translator_as_of(events, as_of, strength=STRENGTH, mix=MIX),
        plan=plan_users(events, PlanRules(as_of=as_of, per_user=SLOTS, decay_events=2.0)),
        settings=settings_at(as_of),
    )
