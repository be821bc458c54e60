"""What each step of generation is worth: sampling, floor, alignment, density and history weights.

    python -m tests.bench.ablation --data FOLDER [--direction 'kitchen -> food']

For each direction a frequency translator draws events as of the test cut, each row of the table by
one step more or less than plain sampling for the users without target history. The downstream model
trains on the real events and on each of them, and ranks the same users; lifts over the real events
alone are paired, with 95 % intervals over users and seeds. AUC says how well a classifier tells the
events that are left from real ones: 0.5 is not at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.config import ScalrConfig
from scalr_ray.core.events import TIMESTAMP, synthetic_event_schema
from scalr_ray.generate import fit_refinement, plan_users, refine
from scalr_ray.jobs.arms import downstream_arm, real_rows, synthetic_rows, trainer_config
from scalr_ray.jobs.drawing import (
    accepted,
    draw_here,
    draw_settings,
    observed_target,
    plan_rules,
    refine_settings,
)
from scalr_ray.learn import Grid, fit_translator
from scalr_ray.translator import FrequencyTranslator
from scalr_ray.translator.prior_mix import PriorMix
from tests.bench.amazon import DIRECTIONS, Split, read_split
from training.lift import ArmResult, Interval, paired_lift

GRID = Grid(shrinkages=(0.01, 0.1, 1.0, 5.0), alphas=(0.15, 0.3, 0.6, 1.0))
PRIOR = PriorMix.recent(window_days=90, background=0.01)
SCALE = 0.1
SEEDS = 3
BOOTSTRAP = 1000
EVERYBODY = 1e9

# name -> settings beside the defaults, and the decay of the weight with target history
STEPS: dict[str, tuple[dict[str, Any], float]] = {
    "the likeliest of each user": ({"generation": {"strategy": "top"}}, 0.0),
    "sampled": ({}, 0.0),
    "sampled from the top 90 %": ({"generation": {"top_p": 0.9}}, 0.0),
    "sampled, likelihood floor 1e-4": ({"generation": {"likelihood_floor": 1e-4}}, 0.0),
    "sampled, aligned by popularity": ({"alignment": {"by": "popularity"}}, 0.0),
    "sampled, density weights": ({"alignment": {"density_clip": 10.0}}, 0.0),
    "sampled, likelihood weights": ({"weights": {"likelihood_power": 1.0}}, 0.0),
    "sampled, aligned and density weights": (
        {"alignment": {"by": "popularity", "density_clip": 10.0}},
        0.0,
    ),
    "sampled, for all users alike": ({}, EVERYBODY),
    "sampled, for all users, exp(-n / 3)": ({}, 3.0),
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The events of one row of the table.

    Attributes:
        rows: training rows.
        event_ids: (N,) of the rows.
        duplicates: how many repeat a real event.
        auc: before and after refinement; None where it was not asked.
    """

    rows: pa.Table
    event_ids: pa.Array
    duplicates: int
    auc: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Downstream:
    """The downstream model of one direction, on its real events and on synthetic ones beside them.

    Attributes:
        split: the direction.
        real: its real events, as training rows.
    """

    split: Split
    real: pa.Table

    @classmethod
    def of(cls, split: Split) -> Downstream:
        """That of a direction."""
        return cls(split=split, real=real_rows(split.events))

    def arm(self, rows: pa.Table | None = None) -> ArmResult:
        """Train on the real rows and these, by several seeds, and rank the test users."""
        real, split = self.real, self.split
        table = real if rows is None else pa.concat_tables([real, rows.cast(real.schema)])
        config = trainer_config(split.cut, PRIOR)
        return downstream_arm([table] * SEEDS, config, split.events, split.test, 20)

    def lifts(self, rows: pa.Table, base: ArmResult) -> dict[str, Interval]:
        """The lift of NDCG@20 by these rows over real rows alone, by segment of users."""
        found = paired_lift(
            self.arm(rows), base, self.split.test.segments, bootstrap=BOOTSTRAP, seed=0
        )
        return {segment: metrics["ndcg_at_20"] for segment, metrics in found.items()}

    def covered(self, rows: pa.Table) -> float:
        """The share of the catalogue that has an event among the rows."""
        return len(rows["item_id"].unique()) / int(self.split.test.rankable.sum())

    def mass(self, rows: pa.Table) -> float:
        """The weights of the rows, per real event."""
        return float(pc.sum(rows["sample_weight"]).as_py() or 0.0) / self.real.num_rows


def fit(split: Split) -> FrequencyTranslator:
    """The translator of a direction, over the 90-day prior."""
    return fit_translator(
        split.events,
        validation_cut=split.validation_cut,
        cutoff=split.cut,
        grid=GRID,
        mix=PRIOR,
        seed=0,
    ).translator


def draw(
    split: Split, model: FrequencyTranslator, changes: Mapping[str, Any], decay: float = 0.0
) -> Drawn:
    """The events that a change of the settings gives, by the decay of the weight with history."""
    config = ScalrConfig.model_validate(changes)
    schema = _schema(split)
    plan = plan_users(split.events, plan_rules(config, split.cut, decay_events=decay))
    settings = draw_settings(
        config, batch_id="ablation", version="ablation", as_of=split.cut, label="ablation"
    )
    drawn = draw_here(plan, model, settings, schema)
    observed = observed_target(real_rows(split.events), model)
    how = refine_settings(config, as_of=split.cut, scale=SCALE)
    refinement, report = fit_refinement(drawn, observed, how)
    events = accepted(refine(drawn, refinement, schema))
    judged = report.discriminator
    auc = None
    if judged is not None:
        last = judged.weighted or judged.after or judged.before
        auc = (judged.before.estimate, last.estimate)
    return Drawn(
        rows=synthetic_rows(events),
        event_ids=events["event_id"].combine_chunks(),
        duplicates=_repeats(events, observed.events),
        auc=auc,
    )


def per_event(split: Split, model: FrequencyTranslator) -> Drawn:
    """For each source event the item most often bought with its item."""
    plan = plan_users(split.events, plan_rules(ScalrConfig(), split.cut, decay_events=0.0))
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
    rows = pa.table(
        {
            "user_id": plan["user_id"].take(pa.array(users[kept])),
            "item_id": model.target_items.ids.take(pa.array(item[kept])),
            "event_timestamp": flat.field("time").take(pa.array(kept)).cast(TIMESTAMP),
            "sample_weight": pa.array(np.full(len(kept), SCALE)),
            "is_synthetic": pa.array(np.ones(len(kept), dtype=bool)),
        }
    )
    return Drawn(
        rows=rows,
        event_ids=flat.field("event_id").take(pa.array(kept)),
        duplicates=_repeats(rows, real_rows(split.events)),
        auc=None,
    )


def compare(split: Split) -> list[str]:
    """The lines of one direction."""
    model, downstream = fit(split), Downstream.of(split)
    base = downstream.arm()
    lines = []
    names = ["the likeliest of each source event", *STEPS]
    for name in names:
        drawn = draw(split, model, *STEPS[name]) if name in STEPS else per_event(split, model)
        rows, lifts = drawn.rows, downstream.lifts(drawn.rows, base)
        cells = [
            name,
            f"{rows.num_rows:,}",
            f"{100 * downstream.covered(rows):.0f} %",
            f"{drawn.duplicates}",
            "" if drawn.auc is None else f"{drawn.auc[0]:.3f} → {drawn.auc[1]:.3f}",
            f"{downstream.mass(rows):.2f}",
            *(shown(lifts[segment]) for segment in ("hidden", "warm")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def shown(lift: Interval) -> str:
    """A lift and its interval, in per cent."""
    return f"{100 * lift.estimate:+.0f} % [{100 * lift.low:.0f}, {100 * lift.high:.0f}]"


def _schema(split: Split) -> pa.Schema:
    kinds = (str(of.ids.type) for of in (split.events.users, split.events.target_items))
    return synthetic_event_schema(*kinds)


def _repeats(events: pa.Table, real: pa.Table) -> int:
    keys = ["user_id", "item_id"]
    return events.select(keys).join(real.select(keys), keys, join_type="left semi").num_rows


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table per direction."""
    parser = argparse.ArgumentParser(description="what each step of generation is worth")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--direction", default="", help="say 'kitchen -> food'; all by default")
    asked = parser.parse_args(argv)
    head = "drawn|events|catalogue covered|real ones repeated|AUC|mass|lift, hidden|lift, warm"
    for name, source, target in DIRECTIONS:
        if asked.direction not in ("", f"{source} -> {target}"):
            continue
        split = read_split(asked.data, name, [source], target)
        sys.stdout.write(f"\n**{source} → {target}**\n\n")
        sys.stdout.write(f"| {head.replace('|', ' | ')} |\n|{'---|' * 8}\n")
        sys.stdout.write("\n".join(compare(split)) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
