"""What the translators are worth on real logs: the protocol of the README, one command.

    python -m tests.bench.directions --data FOLDER [--seeds 3] [--kinds prior,frequency,neural]

FOLDER holds the Amazon sets (`amazon2014_food_kitchen/events.parquet`, ...). Each direction is cut
in time, odd users lose their target history before the cut, everything is fitted before it, and
every target item is ranked for the same users. Rows say how a ranking does on the outcomes; lifts
are paired, over the 90-day popularity of the same direction, with 95 % intervals.

NE is the entropy of the outcomes relative to that under the 90-day popularity at its temperature,
ECE the share of outcomes that fall where they were not expected; before and after calibration.

`chosen` is what the validation window alone would pick: the translator and prior that make it
likeliest, where the translator is also likelier than its prior on users it was not chosen on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.config import NeuralSettings
from scalr_ray.jobs.arms import chunks
from scalr_ray.learn import (
    Chosen,
    Grid,
    Prior,
    fit_prior,
    fit_translator,
)
from scalr_ray.translator import Translator, as_prior, log_scores
from scalr_ray.translator.calibration import ScoredUsers, normalised_entropy, reliability
from tests.bench.amazon import DIRECTIONS, DOMAINS, Split, read_split
from training.lift import ArmResult, paired_lift, summarise
from training.metrics import top_k

GRID = Grid(shrinkages=(0.01, 0.1, 1.0, 5.0), alphas=(0.15, 0.3, 0.6, 1.0))
BACKGROUND = 0.01
K = 20
BINS = 20
BOOTSTRAP = 1000


@dataclass(frozen=True, kw_only=True)
class Row:
    """A ranking of the test users, and how likely it makes what they did."""

    name: str
    arm: ArmResult
    likelihood: NDArray[np.float64]
    raw: NDArray[np.float64]
    ece: float
    ece_before: float
    note: str = ""


def fit_frequency(split: Split, prior: Prior, seed: int) -> tuple[Translator, Chosen[Any]]:
    """The frequency translator as of the cut, and what validation said."""
    fitted = fit_translator(
        split.events,
        validation_cut=split.validation_cut,
        cutoff=split.cut,
        grid=GRID,
        mix=prior.mix,
        seed=seed,
    )
    return fitted.translator, fitted.chosen


def fit_neural(split: Split, prior: Prior, seed: int) -> tuple[Translator, Chosen[Any]]:
    """The neural translator likewise."""
    from scalr_ray.learn.neural.fit import NeuralFit
    from scalr_ray.learn.neural.fit import fit_neural as fit

    fitted = fit(
        split.events,
        validation_cut=split.validation_cut,
        cutoff=split.cut,
        how=NeuralFit(mix=prior.mix, alphas=GRID.alphas, settings=NeuralSettings(), seed=seed),
        on_epoch=lambda name, report: sys.stderr.write(
            f"{name} {report.epoch}: loss {report.loss:.4f}, validation {report.validation:.4f}, "
            f"{report.seconds:.0f} s\n"
        ),
    )
    return fitted.translator, fitted.chosen


KINDS: dict[str, Callable[[Split, Prior, int], tuple[Translator, Chosen[Any]]]] = {
    "frequency": fit_frequency,
    "neural": fit_neural,
}


def scored(translator: Translator, split: Split) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Log scores of the test users, in parts."""
    users = split.events.known(split.test.users, split.cut)
    for part in chunks(len(split.test.users)):
        yield part, log_scores(translator, users.part(part.start, part.stop))


def measure(name: str, translators: Sequence[Translator], split: Split, note: str = "") -> Row:
    """Rank and weigh the outcomes; one translator per seed."""
    test, tops, likelihoods, raws, errors = split.test, [], [], [], []
    for translator in translators:
        top, users = [], []
        for part, scores in scored(translator, split):
            known, relevant = test.known[part], test.relevant[part]
            top.append(top_k(scores, K, excluded=known, rankable=test.rankable))
            users.append(ScoredUsers.of(scores, own=known, relevant=relevant))
        tops.append(np.concatenate(top))
        at = translator.temperature
        likelihoods.append(np.concatenate([part.likelihood(at) for part in users]))
        raws.append(np.concatenate([part.likelihood() for part in users]))
        errors.append(
            [
                reliability(users, bins=BINS, temperature=one).expected_calibration_error
                for one in (1.0, at)
            ]
        )
    before, after = np.mean(errors, axis=0)
    return Row(
        name=name,
        arm=ArmResult.of(tops, test.relevant, int(test.rankable.sum())),
        likelihood=np.mean(likelihoods, axis=0),
        raw=np.mean(raws, axis=0),
        ece=float(after),
        ece_before=float(before),
        note=note,
    )


def study(split: Split, kinds: Sequence[str], labels: Sequence[str], seeds: int) -> Iterator[Row]:
    """The rows of a direction, the 90-day popularity first."""
    priors = {
        "90 days": Prior.fixed(90, BACKGROUND),
        "fitted": fit_prior(split.events, split.validation_cut, split.cut, background=BACKGROUND),
    }
    picks: list[tuple[float, Row]] = []
    for label in labels:
        prior = priors[label]
        base: Row | None = None
        for kind in kinds:
            began = time.perf_counter()
            runs = [
                KINDS[kind](split, prior, seed) for seed in range(seeds if kind == "neural" else 1)
            ]
            seconds = (time.perf_counter() - began) / len(runs)
            chosen = runs[0][1]
            if base is None:
                base = measure(f"prior, {label}", [as_prior(runs[0][0])], split)
                yield base
            row = measure(
                f"{kind}, {label}",
                [translator for translator, _ in runs],
                split,
                f"alpha {runs[0][0].alpha:g}, {chosen.gain:+.3f} nats (z {chosen.z:.1f}), "
                f"{seconds:.0f} s",
            )
            yield row
            picks.append((chosen.likelihood, row if chosen.transfers else base))
    likelihood, row = max(picks, key=lambda pick: pick[0])
    note = f"{row.name}, {likelihood:.3f} nats on validation"
    yield replace(row, name="**chosen**", note=note)


def interval(found: Any) -> str:
    """A lift in per cent with its interval."""
    return f"{100 * found.estimate:+.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def line(row: Row, base: Row, split: Split) -> str:
    """One row of the table."""
    test = split.test
    treated, control = row.arm, base.arm
    if len(control.top) != len(treated.top):
        control = ArmResult(
            top=np.repeat(control.top, len(treated.top), axis=0),
            ndcg=np.repeat(control.ndcg, len(treated.top), axis=0),
            recall=np.repeat(control.recall, len(treated.top), axis=0),
            catalogue_size=control.catalogue_size,
        )
    lifts = paired_lift(treated, control, test.segments, bootstrap=BOOTSTRAP, seed=0)
    means = summarise(row.arm, test.segments)
    ndcg, recall, coverage = row.arm.metric_names
    cells = [row.name]
    cells += [f"{means[name][ndcg]:.4f}" for name in ("all", "hidden", "warm")]
    cells += [interval(lifts[name][ndcg]) for name in ("all", "hidden", "warm")]
    cells += [f"{means['all'][recall]:.4f}", f"{100 * means['all'][coverage]:.1f} %"]
    entropy = [normalised_entropy(values, base.likelihood) for values in (row.raw, row.likelihood)]
    cells += [f"{entropy[0]:.3f} → {entropy[1]:.3f}", f"{row.ece_before:.2f} → {row.ece:.2f}"]
    cells += [row.note]
    return "| " + " | ".join(cells) + " |"


HEADER = (
    "| translator, prior | NDCG@20 all | hidden | warm | over 90 days, all | hidden | warm "
    "| Recall@20 | coverage@20 | NE | ECE | validation |\n" + "|---" * 12 + "|"
)


def say(text: str) -> None:
    """Print at once: a direction takes minutes."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table per direction."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of the neural translator")
    parser.add_argument("--kinds", default="frequency,neural")
    parser.add_argument("--priors", default="90 days,fitted")
    parser.add_argument("--only", help="a target domain; default: all four directions")
    parser.add_argument("--all-sources", action="store_true", help="all three other domains")
    asked = parser.parse_args(argv)
    for name, source, target in DIRECTIONS:
        if asked.only and asked.only != target:
            continue
        sources = sorted(DOMAINS - {target}) if asked.all_sources else [source]
        split = read_split(asked.data, name, sources, target)
        sizes = split.test.sizes
        say(
            f"\n**{' + '.join(sources)} → {target}** ({sizes['all']:,} test users, "
            f"{sizes['hidden']:,} of them hidden; {int(split.test.rankable.sum()):,} items)\n"
        )
        say(HEADER)
        base: Row | None = None
        for row in study(split, asked.kinds.split(","), asked.priors.split(","), asked.seeds):
            base = base or row
            say(line(row, base, split))
    return 0


if __name__ == "__main__":
    sys.exit(main())
