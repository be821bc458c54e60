"""How a repository draws: its configuration in the terms of `scalr_ray.generate`.

The trial and the placebo draw in this process, batches on Ray; the rules are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.config import ScalrConfig
from scalr_ray.core.keyed import stream_seed
from scalr_ray.generate import (
    Catalogue,
    DrawSettings,
    ObservedTarget,
    PlanRules,
    RefineSettings,
    Served,
    draw_events,
    fit_refinement,
    plan_users,
    refine,
)
from scalr_ray.learn import TrainingEvents
from scalr_ray.translator import Translator, as_prior

# Users that are drawn for at a time where all is drawn in this process.
_BLOCK_USERS = 2048

# What is tried where `weights.decay_events` is `auto`: users with history get nothing, or less.
_DECAYS = (0.0, 1.0, 3.0)


def decays(config: ScalrConfig) -> tuple[float, ...]:
    """The values of `weights.decay_events` to try."""
    decay = config.weights.decay_events
    return _DECAYS if decay == "auto" else (decay,)


def plan_rules(
    config: ScalrConfig,
    as_of: datetime,
    *,
    decay_events: float,
    thin: float = 1.0,
    since: Mapping[str, int] | None = None,
) -> PlanRules:
    """Who gets how many events as of a time."""
    return PlanRules(
        as_of=as_of,
        per_user=config.generation.per_user,
        taper=config.generation.taper,
        decay_events=decay_events,
        thin=thin,
        history_events=config.generation.history_events,
        seed=stream_seed("plan", config.seed),
        since=since,
        per_user_total=config.generation.per_user_total or config.generation.per_user,
    )


def thin_to_budget(config: ScalrConfig, events: TrainingEvents, as_of: datetime) -> float:
    """The share of everybody's events that keeps to `generation.budget`, for the trial.

    Where the decay is not known yet, it is that of the most users.
    """
    if config.generation.budget is None:
        return 1.0
    rules = plan_rules(config, as_of, decay_events=max(decays(config)))
    wanted = pc.sum(plan_users(events, rules)["slots"]).as_py() or 0
    return min(1.0, config.generation.budget / max(wanted, 1))


def draw_settings(
    config: ScalrConfig, *, batch_id: str, version: str, as_of: datetime, label: str
) -> DrawSettings:
    """How candidates are drawn; `label` names the stream of random numbers."""
    generation = config.generation
    return DrawSettings(
        batch_id=batch_id,
        translator_version=version,
        domain=config.domains.target,
        as_of=as_of,
        strategy=generation.strategy,
        temperature=generation.temperature,
        top_p=generation.top_p,
        evidence=generation.evidence,
        candidates=generation.candidates,
        likelihood_floor=generation.likelihood_floor,
        without_evidence=generation.without_evidence,
        negatives=generation.negatives,
        seed=stream_seed(label, config.seed),
    )


def refine_settings(
    config: ScalrConfig, *, as_of: datetime, scale: float, published_mass: float = 0.0
) -> RefineSettings:
    """How drawn events are aligned, capped and weighed, beside those that are published."""
    return RefineSettings(
        by=config.alignment.by,
        buckets=config.alignment.buckets,
        density_clip=config.alignment.density_clip,
        per_item=config.generation.per_item,
        likelihood_power=config.weights.likelihood_power,
        age_half_life_days=config.weights.age_half_life_days,
        mass_frac=config.weights.mass_frac,
        published_mass=published_mass,
        scale=scale,
        as_of=as_of,
        seed=stream_seed("refine", config.seed),
    )


def observed_target(
    events: pa.Table,
    translator: Translator,
    item_values: pa.Array | None = None,
    served: Sequence[Served] = (),
) -> ObservedTarget:
    """The target domain as it was seen, to hold drawn events against.

    Args:
        events: `user_id`, `item_id`, `event_timestamp` of what was visible as of the cut, the
            first event of each pair.
        translator: says the prior of each item.
        item_values: (I,) the feature that alignment goes by, where it is not popularity.
        served: services whose features are held against each other too.
    """
    return ObservedTarget(
        events=events.select(["user_id", "item_id", "event_timestamp"]),
        item_ids=translator.target_items.ids,
        prior=np.exp(translator.log_prior.astype(np.float64)),
        first_seen=translator.first_seen,
        item_values=item_values,
        served=tuple(served),
    )


def draw_here(
    plan: pa.Table,
    translator: Translator,
    settings: DrawSettings,
    schema: pa.Schema,
    catalogue: Catalogue | None = None,
) -> pa.Table:
    """All rows that `draw_events` gives for the plan, drawn in this process."""
    blocks = [
        draw_events(
            plan.slice(start, _BLOCK_USERS), translator, settings, schema, catalogue=catalogue
        )
        # An empty plan is drawn from once too, for the columns.
        for start in range(0, max(plan.num_rows, 1), _BLOCK_USERS)
    ]
    return pa.concat_tables(blocks)


def refine_here(
    drawn: pa.Table, observed: ObservedTarget, settings: RefineSettings, schema: pa.Schema
) -> pa.Table:
    """The events that pass refinement, with their weights."""
    refinement, _ = fit_refinement(drawn, observed, settings)
    return accepted(refine(drawn, refinement, schema)).select(schema.names)


def accepted(rows: pa.Table) -> pa.Table:
    """The rows without a reason to refuse them."""
    return rows.filter(pc.is_null(rows["reason"]))


def draw_placebo(
    events: pa.Table,
    plan: pa.Table,
    translator: Translator,
    settings: DrawSettings,
    schema: pa.Schema,
    catalogue: Catalogue | None = None,
) -> pa.Table:
    """As many events for the same users, of the same weight in all, drawn from the prior.

    Args:
        events: synthetic events; negatives among them are passed over.
        plan: with these users.
        translator: whose prior is drawn from.
        settings: name the batch and the seed.
        schema: of a synthetic event.
        catalogue: which items may be proposed.
    """
    events = events.filter(pc.greater(events["label"], 0.0))
    per_user = events.group_by("user_id").aggregate(
        [("event_id", "count"), ("sample_weight", "mean")]
    )
    at = pc.index_in(plan["user_id"].combine_chunks(), per_user["user_id"].combine_chunks())
    there = pc.is_valid(at)
    plan, at = plan.filter(there), at.filter(there)
    slots = per_user["event_id_count"].combine_chunks().take(at)
    plan = plan.set_column(plan.schema.get_field_index("slots"), "slots", slots)
    plain = replace(
        settings,
        strategy="sample",
        temperature=1.0,
        top_p=1.0,
        likelihood_floor=0.0,
        without_evidence="draw",
        negatives=0,
    )
    drawn = draw_here(plan, as_prior(translator), plain, schema, catalogue)
    drawn = accepted(drawn).select(schema.names)
    mean = per_user["sample_weight_mean"].combine_chunks()
    of_user = pc.index_in(drawn["user_id"].combine_chunks(), per_user["user_id"].combine_chunks())
    return with_weights(drawn, mean.take(of_user))


def with_weights(events: pa.Table, weights: pa.Array) -> pa.Table:
    """The events with other sample weights (N,)."""
    at = events.schema.get_field_index("sample_weight")
    return events.set_column(at, events.schema.field(at), weights)
