"""How often the verdict says `helps` where nothing can: at most 5 of 100 is asked.

    python -m tests.bench.false_alarms [--seeds 100] [--users 300] [--workers 2]

Each seed gives three small worlds, which go through what `scalr evaluate` does: a frequency
translator draws for the users without target history, the downstream model is trained on real
events alone, with the synthetic events and with a placebo, and the verdict is read off. In the
`null` world target choices do not depend on the source domain. In the `shuffled` one they do, but
the source histories are dealt out anew among the users who have one. The `planted` world is that
one untouched: a verdict that never says `helps` would be of no use.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.config import ScalrConfig
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.generate import plan_users
from scalr_ray.jobs.arms import downstream_arm, real_rows, synthetic_rows, trainer_config
from scalr_ray.jobs.drawing import (
    draw_here,
    draw_placebo,
    draw_settings,
    observed_target,
    plan_rules,
    refine_here,
    refine_settings,
)
from scalr_ray.learn import Grid, fit_translator
from scalr_ray.simulate import World, WorldConfig
from scalr_ray.translator.prior_mix import PriorMix
from tests.bench.worlds import split_world
from tests.support.small_worlds import domain_tables
from training.lift import Verdict, judge, paired_lift

KINDS = ("null", "shuffled", "planted")
GRID = Grid(shrinkages=(0.1, 1.0), alphas=(0.3, 1.0))
SCHEMA = synthetic_event_schema("string", "string")
CONFIG = ScalrConfig()
PRIOR = PriorMix.recent(window_days=90, background=0.01)
SCALE = 0.1
TRAINER_SEEDS = 3
K = 20


def verdict(kind: str, users: int, seed: int) -> Verdict:
    """What is said of the events of one world."""
    source, target = tables(kind, users, seed)
    split = split_world(source, target)
    events, cut, test = split.events, split.cut, split.test
    model = fit_translator(
        events,
        validation_cut=split.validation_cut,
        cutoff=cut,
        grid=GRID,
        mix=PRIOR,
        seed=seed,
    ).translator
    real = real_rows(events)
    plan = plan_users(events, plan_rules(CONFIG, cut, decay_events=0.0))
    settings = [
        draw_settings(CONFIG, batch_id=name, version=name, as_of=cut, label=f"{name}-{seed}")
        for name in ("events", *(f"placebo-{number}" for number in range(TRAINER_SEEDS)))
    ]
    drawn = refine_here(
        draw_here(plan, model, settings[0], SCHEMA),
        observed_target(real, model),
        refine_settings(CONFIG, as_of=cut, scale=SCALE),
        SCHEMA,
    )
    placebos = [draw_placebo(drawn, plan, model, one, SCHEMA) for one in settings[1:]]
    trainer = trainer_config(cut, PRIOR)
    arms = {
        name: downstream_arm([with_rows(real, rows) for rows in added], trainer, events, test, K)
        for name, added in (
            ("real only", [None] * TRAINER_SEEDS),
            ("synthetic", [drawn] * TRAINER_SEEDS),
            ("placebo", placebos),
        )
    }
    over_real, over_placebo = (
        paired_lift(arms["synthetic"], arms[name], test.segments, bootstrap=1000, seed=seed)
        for name in ("real only", "placebo")
    )
    return judge(over_real, over_placebo, users=test.sizes)[0]


def tables(kind: str, users: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """The source and the target events of a world."""
    world = World.generate(
        WorldConfig(
            seed=seed,
            users=users,
            source_items=100,
            target_items=150,
            days=240,
            latent=4,
            genres=8,
            transfer=0.0 if kind == "null" else 1.0,
            sharpness=6.0,
            overlap_frac=0.85,
            source_events_per_user=20.0,
            target_events_per_user=15.0,
        )
    )
    source, target = domain_tables(world)
    if kind == "shuffled":
        ids = pc.unique(source["user_id"])
        others = ids.take(pa.array(np.random.default_rng(seed).permutation(len(ids))))
        at = source.schema.get_field_index("user_id")
        moved = others.take(pc.index_in(source["user_id"].combine_chunks(), ids))
        source = source.set_column(at, source.schema.field(at), moved)
    return source, target


def with_rows(real: pa.Table, drawn: pa.Table | None) -> pa.Table:
    """The real rows and those of drawn events."""
    if drawn is None:
        return real
    return pa.concat_tables([real, synthetic_rows(drawn).cast(real.schema)])


def main(argv: Sequence[str] | None = None) -> int:
    """Print how often each verdict was given, by kind of world."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--kinds", default=",".join(KINDS))
    asked = parser.parse_args(argv)
    said = list(Verdict)
    sys.stdout.write(f"| world | {' | '.join(said)} |\n{'|---' * (1 + len(said))}|\n")
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool:
        for kind in asked.kinds.split(","):
            counts = Counter(pool.map(partial(verdict, kind, asked.users), range(asked.seeds)))
            sys.stdout.write(f"| {kind} | {' | '.join(str(counts[one]) for one in said)} |\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
