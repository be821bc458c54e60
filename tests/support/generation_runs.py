"""The small drawing, bucketed and drawn through Ray, with translators that end their workers."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import table_streams
from small_drawings import SCHEMA, Drawing
from table_streams import table_stream

from scalr_ray.core.config import IdTypes
from scalr_ray.generate import (
    BucketRules,
    Buckets,
    Coding,
    Destination,
    DrawTask,
    ObservedTarget,
    PlanRules,
    Refinement,
    RefineSettings,
    bucket_events,
    fit_refinement,
    plan_users,
)
from scalr_ray.learn import TrainingEvents
from scalr_ray.translator import FrequencyTranslator

# Workers cannot import what stands beside the tests: it travels whole.
for module in (sys.modules[__name__], table_streams):
    ray.cloudpickle.register_pickle_by_value(module)


@dataclass(frozen=True, kw_only=True)
class MortalTranslator(FrequencyTranslator):
    """Ends its worker process at its second use in it, once in all; the marker tells."""

    marker: Path

    def log_lift(self, history, own):
        if history.shape[0] > 1:  # the one that is warmed with is alone
            try:
                self.marker.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os._exit(1)
        return FrequencyTranslator.log_lift(self, history, own)


@dataclass(frozen=True, kw_only=True)
class DoomedTranslator(FrequencyTranslator):
    """Ends every worker process that draws for more than one user with it."""

    def log_lift(self, history, own):
        if history.shape[0] > 1:
            os._exit(1)
        return FrequencyTranslator.log_lift(self, history, own)


@dataclass(frozen=True, kw_only=True)
class BrokenTranslator(FrequencyTranslator):
    """Cannot be used at all."""

    def log_lift(self, *_):
        raise ZeroDivisionError("planted")


@dataclass(frozen=True, kw_only=True)
class NumberlessTranslator(FrequencyTranslator):
    """Its evidence is no number."""

    def log_lift(self, history, own):
        return FrequencyTranslator.log_lift(self, history, own) * np.float32("nan")


@dataclass(frozen=True, kw_only=True)
class CountingTranslator(FrequencyTranslator):
    """Notes each use for more than one user, and fails at the `fails_at`-th."""

    notes: Path
    fails_at: int = 10**9

    def log_lift(self, history, own):
        if history.shape[0] > 1:
            (self.notes / f"{os.getpid()}-{os.urandom(8).hex()}").touch()
            if len(list(self.notes.iterdir())) >= self.fails_at:
                raise ZeroDivisionError("planted")
        return FrequencyTranslator.log_lift(self, history, own)


def as_kind(kind, translator, **more):
    own = {field.name: getattr(translator, field.name) for field in fields(translator)}
    return kind(**(own | more))


RULES = {"per_user": 8, "decay_events": 2.0}


def bucketed(
    drawing: Drawing, folder: Path, *, users=20, on_cluster=False, history_events=10_000, **more
) -> Buckets:
    """The events of the drawing in buckets."""
    as_of = drawing.settings.as_of
    rules = BucketRules(
        ids=IdTypes(),
        as_of=as_of,
        source_domains=("source",),
        target_domain="target",
        history_events=history_events,
        users_per_bucket=users,
    )
    sides = [
        table_stream(side, as_of, on_cluster=on_cluster)
        for side in (drawing.source, drawing.target)
    ]
    return bucket_events(*sides, rules, folder, **more)


def task_of(drawing: Drawing, buckets: Buckets, *, catalogue=None, **rules) -> DrawTask:
    return DrawTask(
        buckets=buckets,
        translator=drawing.translator,
        rules=PlanRules(as_of=drawing.settings.as_of, **(RULES | rules)),
        settings=drawing.settings,
        schema=SCHEMA,
        catalogue=catalogue,
    )


def expected_rows(drawing: Drawing, *, catalogue=None, **rules) -> pa.Table:
    """What the kernel draws for everybody at once."""
    plan = plan_users(
        TrainingEvents.of(drawing.source, drawing.target),
        PlanRules(as_of=drawing.settings.as_of, **(RULES | rules)),
        coding=Coding.of(drawing.translator),
    )
    return sorted_rows(drawing.draw(plan, catalogue=catalogue))


def sorted_rows(rows: pa.Table) -> pa.Table:
    return rows.sort_by("event_id").combine_chunks()


def rows_in(*files: Path) -> pa.Table:
    """All rows, in order of event id."""
    return sorted_rows(pa.concat_tables([pq.read_table(path) for path in sorted(files)]))


def accepted(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.is_null(rows["reason"]))


def refinement_of(drawing: Drawing, rows) -> Refinement:
    """One that refuses some rows by alignment, others by a cap, and weighs."""
    translator, events = drawing.translator, drawing.target
    cut = pa.scalar(drawing.settings.as_of, events.schema.field("event_timestamp").type)
    observed = ObservedTarget(
        events=events.filter(pc.less(events["event_timestamp"], cut)).select(
            ["user_id", "item_id", "event_timestamp"]
        ),
        item_ids=translator.target_items.ids,
        prior=np.exp(translator.log_prior.astype(np.float64)),
        first_seen=translator.first_seen,
    )
    settings = RefineSettings(
        by="popularity",
        buckets=3,
        per_item=20,
        likelihood_power=1.0,
        age_half_life_days=10.0,
        scale=0.1,
        as_of=drawing.settings.as_of,
    )
    return fit_refinement(rows, observed, settings)[0]


def destination(folder: Path) -> Destination:
    return Destination(staged=folder / "batch", refused=folder / "rejected")


def by(drawing: Drawing, kind, **more) -> Drawing:
    return replace(drawing, translator=as_kind(kind, drawing.translator, **more))
