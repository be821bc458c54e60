"""Sampling against taking the likeliest: how much of the catalogue is drawn, and what it is worth.

    python -m tests.bench.sampling --data FOLDER

For each direction, a frequency translator draws as many events for the users without target
history in three ways: sampled, the likeliest items of each user, and for each source event its one
likeliest item. The downstream model trains on the real events and on each of them, and ranks the
same users; lifts are paired, with 95 % intervals.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.generate import DrawSettings, plan_users
from scalr_ray.jobs.arms import downstream_arm, real_rows, synthetic_rows, trainer_config
from scalr_ray.jobs.trial import draw_locally
from scalr_ray.learn import Grid, Prior, fit_translator
from scalr_ray.translator import FrequencyTranslator
from tests.bench.amazon import DIRECTIONS, Split, read_split
from training.lift import paired_lift

GRID = Grid(shrinkages=(0.01, 0.1, 1.0, 5.0), alphas=(0.15, 0.3, 0.6, 1.0))
SCHEMA = synthetic_event_schema("int64", "int64")
PER_USER = 60
WEIGHT = 0.1
SEEDS = 3
BOOTSTRAP = 1000
# Low enough that noise never turns the order of two scores, high enough to divide by.
TOP = 1e-4


def settings(split: Split, temperature: float) -> DrawSettings:
    """How the events are drawn."""
    return DrawSettings(
        batch_id="sampling",
        translator_version="sampling",
        domain="target",
        as_of=split.cut,
        per_user=PER_USER,
        temperature=temperature,
        evidence=1.0,
        likelihood_floor=0.0,
        weight_scale=WEIGHT,
        seed=0,
    )


def likeliest_per_event(model: FrequencyTranslator, plan: pa.Table) -> pa.Table:
    """Training rows: for each source event the item most often bought with its item."""
    best = np.full(len(model.source_items), -1)
    counts = model.counts
    for row in np.flatnonzero(np.diff(counts.indptr)):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        best[row] = counts.indices[part][np.argmax(counts.data[part])]
    events = plan["source"].combine_chunks()
    users = np.repeat(np.arange(plan.num_rows), events.value_lengths().to_numpy())
    flat = events.flatten()
    item = best[flat.field("item").to_numpy()]
    found = item >= 0
    _, first = np.unique(np.stack([users[found], item[found]]), axis=1, return_index=True)
    kept = np.flatnonzero(found)[np.sort(first)]
    return pa.table(
        {
            "user_id": plan["user_id"].take(pa.array(users[kept])),
            "item_id": model.target_items.ids.take(pa.array(item[kept])),
            "event_timestamp": flat.field("time")
            .take(pa.array(kept))
            .cast(SCHEMA.field("event_timestamp").type),
            "sample_weight": pa.array(np.full(len(kept), WEIGHT)),
            "is_synthetic": pa.array(np.ones(len(kept), dtype=bool)),
        }
    )


def compare(split: Split) -> list[str]:
    """The lines of one direction."""
    prior = Prior.fixed(90, 0.01)
    model = fit_translator(
        split.events,
        validation_cut=split.validation_cut,
        cutoff=split.cut,
        grid=GRID,
        mix=prior.mix,
        seed=0,
    ).translator
    plan = plan_users(split.events, split.cut, decay_events=0.0)
    drawn = {
        name: synthetic_rows(draw_locally(plan, model, settings(split, at), SCHEMA, 512))
        for name, at in (("sampled", 1.0), (f"the {PER_USER} likeliest", TOP))
    }
    drawn["the likeliest of each source event"] = likeliest_per_event(model, plan)
    real = real_rows(split.events)
    config = replace(trainer_config(split.cut, window_days=90, background=0.01))

    def arm(rows: pa.Table | None) -> object:
        table = real if rows is None else pa.concat_tables([real, rows.cast(real.schema)])
        return downstream_arm([table] * SEEDS, config, split.events, split.test, 20)

    base = arm(None)
    items = int(split.test.rankable.sum())
    lines = []
    for name, rows in drawn.items():
        found = paired_lift(arm(rows), base, split.test.segments, bootstrap=BOOTSTRAP, seed=0)
        lift = {part: found[part]["ndcg_at_20"] for part in ("hidden", "warm")}
        covered = len(rows["item_id"].unique()) / items
        cells = [
            f"{100 * one.estimate:+.0f} % [{100 * one.low:.0f}, {100 * one.high:.0f}]"
            for one in lift.values()
        ]
        lines.append(
            f"| {name} | {rows.num_rows:,} | {100 * covered:.0f} % | {' | '.join(cells)} |"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table per direction."""
    parser = argparse.ArgumentParser(description="sampling against taking the likeliest")
    parser.add_argument("--data", type=Path, required=True)
    asked = parser.parse_args(argv)
    for name, source, target in DIRECTIONS:
        split = read_split(asked.data, name, [source], target)
        sys.stdout.write(f"\n**{source} → {target}**\n\n")
        sys.stdout.write("| drawn | events | catalogue covered | lift, hidden | lift, warm |\n")
        sys.stdout.write("|---|---|---|---|---|\n")
        sys.stdout.write("\n".join(compare(split)) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
