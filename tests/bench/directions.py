"""What the translators are worth on real logs: the protocol of the README, one command.

    python -m tests.bench.directions --data FOLDER [--seeds 3] [--kinds prior,frequency,neural]

FOLDER holds the Amazon sets (`amazon2014_food_kitchen/events.parquet`, ...). Each direction is cut
in time, odd users lose their target history before the cut, everything is fitted before it, and
every target item is ranked for the same users. Rows say how a ranking does on the outcomes; lifts
are paired, with 95 % intervals: over the 90-day popularity of the same direction, and over the
prior that the translator itself starts from. A last line names what lies below its own prior with
its whole interval.

NE is the entropy of the outcomes relative to that under the 90-day popularity at its temperature,
ECE the share of outcomes that fall where they were not expected; before and after calibration.

`chosen` is what the validation window alone picks for each seed: the translator and prior that make
it likeliest. A translator whose evidence does not hold on users it was not chosen on is its prior.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.config import NeuralSettings
from scalr_ray.jobs.arms import chunks
from scalr_ray.learn import (
    Chosen,
    Grid,
    TrainingEvents,
    fit_prior,
    fit_translator,
    mean_likelihood,
    translator_as_of,
    validation_window,
)
from scalr_ray.learn.neural.fit import NeuralFit, fit_neural, withheld
from scalr_ray.translator import Translator, as_prior, log_scores
from scalr_ray.translator.calibration import ScoredUsers, normalised_entropy, reliability
from scalr_ray.translator.prior_mix import PriorMix
from tests.bench.amazon import DIRECTIONS, DOMAINS, Split, read_split
from tests.bench.segments import BINS, UserBins, calibration_error, relative_entropy
from training.lift import ArmResult, Interval, Segments, paired_lift, summarise
from training.metrics import top_k

GRID = Grid(shrinkages=(0.01, 0.1, 1.0, 5.0), alphas=(0.15, 0.3, 0.6, 1.0))
BACKGROUND = 0.01
K = 20
SEGMENTS = ("all", "hidden", "warm")
BOOTSTRAP = 1000


@dataclass(frozen=True, kw_only=True)
class Row:
    """A ranking of the test users, and how likely it makes what they did.

    Attributes:
        own: the ranking by the prior that the translator starts from; None for a prior.
    """

    name: str
    arm: ArmResult
    likelihood: NDArray[np.float64]
    raw: NDArray[np.float64]
    bins: list[UserBins]
    ece_before: float
    note: str = ""
    own: ArmResult | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One fit.

    Attributes:
        translator: as of the cut.
        on_stage: as of the validation cut, without what withheld users did in the target domain.
        chosen: what validation said of it.
    """

    translator: Translator
    on_stage: Translator
    chosen: Chosen[Any]


def on_stage(split: Split, seed: int) -> TrainingEvents:
    """What is known as of the validation cut, some target histories withheld."""
    before = split.events.as_of(split.validation_cut)
    return before.without_target_of(withheld(split.events, seed))


def fit_frequency(split: Split, prior: PriorMix, seed: int) -> Run:
    """The frequency translator."""
    fitted = fit_translator(
        split.events,
        validation_cut=split.validation_cut,
        cutoff=split.cut,
        grid=GRID,
        mix=prior,
        seed=seed,
    )
    recounted = translator_as_of(
        on_stage(split, seed),
        split.validation_cut,
        strength=fitted.translator.strength,
        mix=prior,
    )
    return Run(translator=fitted.translator, on_stage=recounted, chosen=fitted.chosen)


def fit_net(split: Split, prior: PriorMix, seed: int) -> Run:
    """The neural translator."""
    fitted = fit_neural(
        split.events,
        validation_cut=split.validation_cut,
        cutoff=split.cut,
        how=NeuralFit(mix=prior, alphas=GRID.alphas, settings=NeuralSettings(), seed=seed),
        hidden=withheld(split.events, seed),
        on_epoch=lambda name, report: sys.stderr.write(
            f"{name} {report.epoch}: loss {report.loss:.4f}, validation {report.validation:.4f}, "
            f"{report.seconds:.0f} s\n"
        ),
    )
    return Run(translator=fitted.translator, on_stage=fitted.at_validation, chosen=fitted.chosen)


KINDS: dict[str, Callable[[Split, PriorMix, int], Run]] = {
    "frequency": fit_frequency,
    "neural": fit_net,
}


def scored(translator: Translator, split: Split) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Log scores of the test users, in parts."""
    users = split.events.known(split.test.users, split.cut)
    for part in chunks(len(split.test.users)):
        yield part, log_scores(translator, users.part(part.start, part.stop))


def measure(
    name: str,
    translators: Sequence[Translator],
    split: Split,
    note: str = "",
    own: ArmResult | None = None,
) -> Row:
    """Rank and weigh the outcomes; one translator per seed."""
    test, tops, likelihoods, raws, bins, errors = split.test, [], [], [], [], []
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
        errors.append(reliability(users, bins=BINS).expected_calibration_error)
        bins.append(UserBins.of(users, at))
    return Row(
        name=name,
        arm=ArmResult.of(tops, test.relevant, int(test.rankable.sum())),
        likelihood=np.mean(likelihoods, axis=0),
        raw=np.mean(raws, axis=0),
        bins=bins,
        ece_before=float(np.mean(errors)),
        note=note,
        own=own,
    )


def study(split: Split, kinds: Sequence[str], labels: Sequence[str], seeds: int) -> Iterator[Row]:
    """The rows of a direction, the 90-day popularity first."""
    priors = {
        "90 days": PriorMix.recent(window_days=90, background=BACKGROUND),
        "fitted": fit_prior(split.events, split.validation_cut, split.cut),
    }
    tried: list[list[Run]] = []
    for label in labels:
        prior: Row | None = None
        for kind in kinds:
            began = time.perf_counter()
            runs = [KINDS[kind](split, priors[label], seed) for seed in range(seeds)]
            seconds = (time.perf_counter() - began) / seeds
            if prior is None:
                plain = as_prior(runs[0].translator)
                prior = measure(f"prior, {label}", [plain] * seeds, split)
                yield prior
            tried.append(runs)
            gains = ", ".join(
                f"{run.chosen.gain:+.3f} (z {run.chosen.z:.1f}, alpha {run.translator.alpha:g})"
                for run in (runs if kind == "neural" else runs[:1])
            )
            translators = [run.translator for run in runs]
            note = f"{gains}; {seconds:.0f} s"
            yield measure(f"{kind}, {label}", translators, split, note, prior.arm)
    picked = [likeliest(split, [runs[seed] for runs in tried], seed) for seed in range(seeds)]
    names = ", ".join(f"{run.translator.kind} (alpha {run.translator.alpha:g})" for run in picked)
    chosen = [run.translator for run in picked]
    own = measure("its prior", [as_prior(translator) for translator in chosen], split)
    yield measure("**chosen**", chosen, split, names, own.arm)


def likeliest(split: Split, runs: Sequence[Run], seed: int) -> Run:
    """The run under which the validation window is likeliest, all told the same of its users."""
    window = validation_window(
        split.events, split.validation_cut, split.cut, seed, known=on_stage(split, seed)
    )
    return max(runs, key=lambda run: mean_likelihood(run.on_stage, window))


def interval(found: Interval) -> str:
    """A lift in per cent with its interval."""
    return f"{100 * found.estimate:+.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def lifts(arm: ArmResult, base: ArmResult, segments: Segments) -> dict[str, Interval]:
    """What the NDCG of `arm` is over that of `base`, by segment."""
    found = paired_lift(arm, base, segments, bootstrap=BOOTSTRAP, seed=0)
    return {name: found[name][arm.metric_names[0]] for name in SEGMENTS}


def line(row: Row, base: Row, split: Split) -> str:
    """One row of the table."""
    test = split.test
    means = summarise(row.arm, test.segments)
    ndcg, recall, coverage = row.arm.metric_names
    cells = [row.name]
    cells += [f"{means[name][ndcg]:.4f}" for name in SEGMENTS]
    cells += [interval(lift) for lift in lifts(row.arm, base.arm, test.segments).values()]
    if row.own is None:
        cells += [""] * len(SEGMENTS)
    else:
        cells += [interval(lift) for lift in lifts(row.arm, row.own, test.segments).values()]
    cells += [f"{means['all'][recall]:.4f}", f"{100 * means['all'][coverage]:.1f} %"]
    entropy = [normalised_entropy(values, base.likelihood) for values in (row.raw, row.likelihood)]
    after = calibration_error(row.bins, test.segments["all"]).estimate
    cells += [f"{entropy[0]:.3f} → {entropy[1]:.3f}", f"{row.ece_before:.2f} → {after:.2f}"]
    cells += [row.note]
    return "| " + " | ".join(cells) + " |"


def segment_lines(row: Row, base: Row, split: Split) -> Iterator[str]:
    """One row of the second table for each segment."""
    segments = split.test.segments
    means = summarise(row.arm, segments)
    found = paired_lift(row.arm, base.arm, segments, bootstrap=BOOTSTRAP, seed=0)
    _, recall, coverage = row.arm.metric_names
    for name in SEGMENTS:
        entropy = relative_entropy(row.likelihood, base.likelihood, segments[name])
        error = calibration_error(row.bins, segments[name])
        cells = [
            row.name,
            name,
            f"{means[name][recall]:.4f}",
            interval(found[name][recall]),
            f"{100 * means[name][coverage]:.1f} %",
            interval(found[name][coverage]),
            f"{entropy.estimate:.3f} [{entropy.low:.3f}, {entropy.high:.3f}]",
            f"{error.estimate:.2f} [{error.low:.2f}, {error.high:.2f}]",
        ]
        yield "| " + " | ".join(cells) + " |"


def below(row: Row, segments: Segments) -> list[str]:
    """Where the row lies below its own prior with its whole interval."""
    if row.own is None:
        return []
    found = lifts(row.arm, row.own, segments)
    return [f"{row.name} on {name} users" for name, lift in found.items() if lift.high < 0]


HEADER = (
    "| translator, prior | NDCG@20 all | hidden | warm | over 90 days, all | hidden | warm "
    "| over its prior, all | hidden | warm "
    "| Recall@20 | coverage@20 | NE | ECE | validation |\n" + "|---" * 15 + "|"
)

SEGMENT_HEADER = (
    "\n| translator, prior | users | Recall@20 | over 90 days | coverage@20 | over 90 days | NE "
    "| ECE |\n" + "|---" * 8 + "|"
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
        worse: list[str] = []
        by_segment: list[str] = []
        for row in study(split, asked.kinds.split(","), asked.priors.split(","), asked.seeds):
            base = base or row
            say(line(row, base, split))
            worse += below(row, split.test.segments)
            by_segment += segment_lines(row, base, split)
        say(SEGMENT_HEADER)
        for told in by_segment:
            say(told)
        say(f"\nBelow its own prior with the whole interval: {', '.join(worse) or 'nothing'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
