"""What the events are worth to several trainers, against a placebo and against mass alone.

    python -m tests.bench.verdict --data FOLDER [--seeds 2] [--only food] [--kind neural]

For each direction translators draw events as of the test cut, as `scalr run` does by default:
sampled, for the users without target history. Both kinds are fitted, and each trainer gets the one
under whose best weight its likelihood on the validation window is greater; `--kind` names one.
Translators and trainers have the same prior, whose look-backs real events weigh on the validation
window, or the popularity of 90 days with `--prior "90 days"`; how much it weighs in the scores of
a trainer is what suits its real-only arm there. With `--windows-back 1` both cuts stand one window
earlier, and nothing after that test is seen. Each trainer then learns from

- the real events alone,
- the real and the synthetic events,
- the real events and a placebo: as many for the same users, drawn from the prior,
- the real events upsampled: with as much more weight in all as the synthetic events have,

and ranks the same users, with the same seeds; each seed has a draw of its own. The budget is equal:
as many passes over the rows, in as many steps, since a batch grows with the users of its arm
(`pretrain` and `fold-in` have their passes over the synthetic rows besides). How much a synthetic
event counts is chosen for each trainer by likelihood on the validation window and nothing else: the
least of `WEIGHTS` that is not worse than the best by more than a standard error, those left out
under which warm users lose there. Where that is 0, nothing is added, and all arms are real only.
Folded in, synthetic rows only say who the users without real ones are: warm users are ranked as by
real events alone, bit for bit, and no weight is left out.

Lifts of NDCG@20 are over real only, paired, with 95 % intervals over users and seeds. The last line
counts how often what is asked of the events holds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.config import NeuralSettings, ScalrConfig
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.generate import Coding, plan_users
from scalr_ray.jobs.arms import (
    Holdout,
    best_likelihood,
    code_rows,
    holdout,
    popularity_config,
    real_rows,
    synthetic_rows,
)
from scalr_ray.jobs.drawing import (
    draw_here,
    draw_placebo,
    draw_settings,
    observed_target,
    plan_rules,
    refine_here,
    refine_settings,
)
from scalr_ray.jobs.trial import Stage
from scalr_ray.jobs.weight_rule import harmless, least_harmless
from scalr_ray.learn import (
    Grid,
    TrainingEvents,
    fit_prior,
    fit_translator,
    translator_as_of,
)
from scalr_ray.learn.neural.fit import NeuralFit, fit_neural
from scalr_ray.translator import Translator
from scalr_ray.translator.prior_mix import PriorMix
from tests.bench.amazon import CUTS, DIRECTIONS, Split, read_split
from tests.bench.directions import interval, say
from tests.bench.verdict_trainers import TRAINERS, Trainer, skipped
from training.bootstrap import Interval
from training.lift import ArmResult, paired_lift, summarise
from training.metrics import gini_at_k, mrr_at_k, novelty_at_k
from training.models import Interactions, Popularity, PopularityConfig, Ranker, rank_users

GRID = Grid(shrinkages=(0.01, 0.1, 1.0, 5.0), alphas=(0.15, 0.3, 0.6, 1.0))
SCHEMA = synthetic_event_schema("int64", "int64")
WEIGHTS = (0.0, 0.03, 0.1, 0.3)
PRIOR_WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
WINDOW_DAYS, BACKGROUND = 90, 0.01
K = 20
BOOTSTRAP = 1000
SEGMENTS = ("all", "hidden", "warm")
ARMS = ("real only", "+ synthetic", "+ placebo", "real upsampled")
MOST_HARM = -0.03


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The world as of a cut: what arms are made of, and whom they rank.

    Attributes:
        translator: draws the events.
        admitted: (U,) the users who may get any.
    """

    events: TrainingEvents
    test: Holdout
    translator: Translator
    admitted: NDArray[np.bool_]
    prior: PopularityConfig

    def draw(self, seed: int) -> tuple[pa.Table, pa.Table]:
        """Synthetic events and their placebo as training rows of weight 1."""
        config = ScalrConfig(seed=seed)
        cut = self.prior.as_of
        rules = plan_rules(config, cut, decay_events=0.0)
        plan = plan_users(self.events, rules, coding=Coding.of(self.translator))
        plan = plan.filter(pa.array(self.admitted[self.events.users.codes(plan["user_id"])]))
        one, other = (
            draw_settings(config, batch_id=name, version=name, as_of=cut, label=name)
            for name in ("verdict", "placebo")
        )
        drawn = draw_here(plan, self.translator, one, SCHEMA)
        observed = observed_target(real_rows(self.events), self.translator)
        how = refine_settings(config, as_of=cut, scale=1.0)
        events = refine_here(drawn, observed, how, SCHEMA)
        placebo = draw_placebo(events, plan, self.translator, other, SCHEMA)
        return synthetic_rows(events), synthetic_rows(placebo)

    def real_only(self, trainer: Trainer, seed: int) -> Ranker:
        """Trained on the real rows."""
        return self.fitted(trainer, None, 0.0, seed)

    def fitted(self, trainer: Trainer, added: pa.Table | None, more: float, seed: int) -> Ranker:
        """Trained on the real rows, `more` of their weight, and what is added."""
        real = real_rows(self.events)
        rows = real if not more else scaled(real, 1.0 + more)
        if added is not None:
            rows = pa.concat_tables([rows, added.cast(rows.schema)])
        data = code_rows(rows, self.events)
        model = trainer(self.prior, users_of(data) / users_of(code_rows(real, self.events)))
        model.fit(data, seed=seed)
        return model


@dataclass(frozen=True, kw_only=True)
class World:
    """A kind of translator in a direction: on the validation window and in the test.

    Attributes:
        on_window: synthetic events, a draw for each seed.
        drawn: synthetic events of the test and their placebo, a draw for each seed.
    """

    validation: Bench
    test: Bench
    on_window: Sequence[pa.Table]
    drawn: Sequence[tuple[pa.Table, pa.Table]]

    @classmethod
    def of(cls, split: Split, kind: str, prior: PriorMix, seeds: int) -> World:
        """Fit a translator of `kind` over `prior`, and draw."""
        validation, test = benches(split, kind, prior)
        return cls(
            validation=validation,
            test=test,
            on_window=[validation.draw(seed)[0] for seed in range(seeds)],
            drawn=[test.draw(seed) for seed in range(seeds)],
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the validation window chooses for a trainer.

    Attributes:
        kind: of the translator.
        weight: of a synthetic event.
        best: the mean log-likelihood under the best weight that is allowed, nats.
    """

    kind: str
    weight: float
    best: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a trainer made of a direction.

    Attributes:
        choice: of the validation window.
        arms: by name.
        lifts: of NDCG over real only, by arm and segment.
    """

    choice: Choice
    arms: Mapping[str, ArmResult]
    lifts: Mapping[str, Mapping[str, Interval]]


def scaled(rows: pa.Table, by: float) -> pa.Table:
    """The rows with their weights times `by`."""
    at = rows.schema.get_field_index("sample_weight")
    weights = pc.multiply(rows["sample_weight"], by)
    return rows.set_column(at, rows.schema.field(at), weights)


def users_of(data: Interactions) -> int:
    """How many users have rows."""
    return len(np.unique(data.rows))


def fitted_frequency(split: Split, stage: Stage, mix: PriorMix) -> tuple[Translator, Translator]:
    """As of the validation cut, from what the stage leaves visible; and as of the test cut."""
    cuts = {"validation_cut": split.validation_cut, "cutoff": split.cut}
    fitted = fit_translator(split.events, **cuts, grid=GRID, mix=mix, seed=0).translator
    before = translator_as_of(
        stage.visible, split.validation_cut, strength=fitted.strength, mix=mix
    )
    return before, fitted


def fitted_net(split: Split, stage: Stage, mix: PriorMix) -> tuple[Translator, Translator]:
    """The same of a network."""
    how = NeuralFit(mix=mix, alphas=GRID.alphas, settings=NeuralSettings(), seed=0)
    cuts = {"validation_cut": split.validation_cut, "cutoff": split.cut}
    fitted = fit_neural(split.events, **cuts, how=how, hidden=stage.hidden)
    return fitted.at_validation, fitted.translator


FITTED = {"frequency": fitted_frequency, "neural": fitted_net}


PRIORS = {
    "90 days": lambda _: PriorMix.recent(window_days=WINDOW_DAYS, background=BACKGROUND),
    "fitted": lambda split: fit_prior(split.events, split.validation_cut, split.cut),
}


def benches(split: Split, kind: str, prior: PriorMix) -> tuple[Bench, Bench]:
    """The validation window, some users stripped of their history, and the test."""
    stage = Stage.of(split.events, validation_cut=split.validation_cut, cutoff=split.cut, seed=0)
    before, fitted = FITTED[kind](split, stage, prior)
    visible = stage.visible
    outcomes = split.events.target.between(split.validation_cut, split.cut)
    validation = Bench(
        events=visible,
        test=holdout(visible, outcomes.users, outcomes.items),
        translator=before,
        admitted=stage.hidden,
        prior=popularity_config(split.validation_cut, prior),
    )
    everybody = np.ones(len(split.events.users), dtype=bool)
    test = Bench(
        events=split.events,
        test=split.test,
        translator=fitted,
        admitted=everybody,
        prior=popularity_config(split.cut, prior),
    )
    return validation, test


def chosen(worlds: Mapping[str, World], trainer: Trainer, *, moves_warm: bool) -> Choice:
    """The kind under which the window is likelier, the first of equals, and its weight."""
    choices = []
    for kind, world in worlds.items():
        sys.stderr.write(f"  {kind}\n")
        choices.append(chosen_weight(kind, world, trainer, moves_warm=moves_warm))
    return max(choices, key=lambda choice: choice.best)


def chosen_weight(kind: str, world: World, trainer: Trainer, *, moves_warm: bool) -> Choice:
    """The least weight that is as good as the best on the window."""
    bench = world.validation
    warm = bench.test.segments["warm"]
    likelihood = {
        weight: np.mean(
            [
                best_likelihood(bench.fitted(trainer, at(rows, weight), 0.0, seed), bench.test)
                for seed, rows in enumerate(world.on_window)
            ],
            axis=0,
        )
        for weight in WEIGHTS
    }
    gains = {weight: found - likelihood[0.0] for weight, found in likelihood.items()}
    for weight, gain in gains.items():
        sys.stderr.write(f"  {weight}: {gain.mean():+.4f} nats, warm {gain[warm].mean():+.4f}\n")
    # Where their scores stay, only the temperature moves, which is fitted to all users.
    asked = warm if moves_warm else np.zeros_like(warm)
    weight = least_harmless(gains, asked)
    assert weight is not None  # no events at all harm nobody
    best = max(float(likelihood[each].mean()) for each in harmless(gains, asked))
    return Choice(kind=kind, weight=weight, best=best)


def settled(trainer: Trainer, bench: Bench, seeds: int) -> Trainer:
    """The trainer with the weight of the prior under which its real-only arm is likeliest."""
    models = [bench.real_only(trainer, seed) for seed in range(seeds)]
    if isinstance(models[0], Popularity):
        return trainer

    def likelihood(weight: float) -> float:
        return float(
            np.mean([best_likelihood(reweighted(model, weight), bench.test) for model in models])
        )

    best = max(PRIOR_WEIGHTS, key=likelihood)
    sys.stderr.write(f"  weight of the prior {best:g}\n")
    return lambda prior, growth: with_prior_weight(trainer(prior, growth), best)


def with_prior_weight(model: Ranker, weight: float) -> Ranker:
    """An unfitted ranker of the same settings, but for the weight of the prior."""
    return type(model)(replace(model._config, prior_weight=weight))


def reweighted(model: Ranker, weight: float) -> Ranker:
    """What was fitted under another weight of the prior, which no training depends on."""
    other = with_prior_weight(model, weight)
    other.restore(replace(model.state(), settings=other._config))
    return other


def at(rows: pa.Table, weight: float) -> pa.Table | None:
    """The rows at a weight, or none of them."""
    return scaled(rows, weight) if weight else None


def study(world: World, trainer: Trainer, choice: Choice) -> Found:
    """All arms of a trainer under a choice, a draw for each seed."""
    bench, weight = world.test, choice.weight
    test = bench.test
    real_mass = len(bench.events.target)

    def ranked(seed: int, added: pa.Table | None, more: float) -> NDArray[np.int64]:
        model = bench.fitted(trainer, added, more, seed)
        return rank_users(model, test.users, K, known=test.known, rankable=test.rankable)

    tops: dict[str, list[NDArray[np.int64]]] = {name: [] for name in ARMS}
    for seed, (synthetic, placebo) in enumerate(world.drawn):
        tops["real only"].append(ranked(seed, None, 0.0))
        if not weight:
            for name in ARMS[1:]:
                tops[name].append(tops["real only"][-1])
            continue
        mass = weight * synthetic.num_rows
        tops["+ synthetic"].append(ranked(seed, scaled(synthetic, weight), 0.0))
        tops["+ placebo"].append(ranked(seed, scaled(placebo, weight), 0.0))
        tops["real upsampled"].append(ranked(seed, None, mass / real_mass))
    size = int(test.rankable.sum())
    arms = {name: ArmResult.of(top, test.relevant, size) for name, top in tops.items()}
    lifts = {name: ndcg_lifts(arms[name], arms["real only"], test) for name in ARMS[1:]}
    return Found(choice=choice, arms=arms, lifts=lifts)


def ndcg_lifts(arm: ArmResult, base: ArmResult, test: Holdout) -> dict[str, Interval]:
    """What the NDCG of `arm` is over that of `base`, by segment."""
    found = paired_lift(arm, base, test.segments, bootstrap=BOOTSTRAP, seed=0)
    return {name: found[name][arm.metric_names[0]] for name in SEGMENTS}


def held(found: Found) -> tuple[bool, bool, bool]:
    """Whether hidden users gain above the placebo, no warm user is harmed, and all gain."""
    lift, placebo = found.lifts["+ synthetic"], found.lifts["+ placebo"]
    hidden, warm = lift["hidden"], lift["warm"]
    return (
        hidden.low > max(placebo["hidden"].estimate, 0.0),
        warm.high >= 0 and warm.estimate >= MOST_HARM,
        lift["all"].low > 0,
    )


def line(name: str, found: Found, test: Holdout) -> str:
    """A row of the first table."""
    arm = found.arms["real only"]
    means = summarise(arm, test.segments)
    ndcg = [f"{means[part][arm.metric_names[0]]:.4f}" for part in ("hidden", "warm")]
    synthetic = found.lifts["+ synthetic"]
    cells = [
        name,
        found.choice.kind,
        f"{found.choice.weight:g}",
        " / ".join(ndcg),
        *(interval(found.lifts[each]["hidden"]) for each in ARMS[1:]),
        interval(synthetic["warm"]),
        interval(synthetic["all"]),
    ]
    return f"| {' | '.join(cells)} |"


def other_line(name: str, found: Found, test: Holdout, shares: NDArray[np.float64]) -> str:
    """A row of the second table: what each arm recommends to all users."""
    cells = [name]
    arms = list(found.arms.values())
    means = [summarise(arm, test.segments)["all"] for arm in arms]
    _, recall, coverage = arms[0].metric_names
    cells.append(" / ".join(f"{mean[recall]:.4f}" for mean in means))
    cells.append(
        " / ".join(
            f"{np.mean([mrr_at_k(top, test.relevant).mean() for top in arm.top]):.4f}"
            for arm in arms
        )
    )
    cells.append(" / ".join(f"{100 * mean[coverage]:.1f}" for mean in means))
    cells.append(
        " / ".join(
            f"{np.mean([gini_at_k(top, arm.catalogue_size) for top in arm.top]):.3f}"
            for arm in arms
        )
    )
    cells.append(
        " / ".join(f"{np.mean([novelty_at_k(top, shares) for top in arm.top]):.1f}" for arm in arms)
    )
    return f"| {' | '.join(cells)} |"


HEADER = (
    "| trainer | kind | weight | real only, hidden / warm | lift, hidden | placebo's lift, hidden "
    "| upsampled's lift, hidden | lift, warm | lift, all |\n" + "|---" * 9 + "|"
)
OTHER_HEADER = (
    f"\n{' / '.join(ARMS)}, all users:\n\n"
    "| trainer | Recall@20 | MRR@20 | coverage@20, % | Gini | novelty, bits |\n" + "|---" * 6 + "|"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print two tables per direction, and how often what is asked holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--kind", choices=(*FITTED, "chosen"), default="chosen")
    parser.add_argument("--prior", choices=tuple(PRIORS), default="fitted")
    parser.add_argument("--windows-back", type=int, choices=range(len(CUTS) - 1), default=0)
    parser.add_argument("--only", help="a target domain; default: all four directions")
    parser.add_argument("--trainers", default=None, help=f"of {'; '.join(TRAINERS)}; by ';'")
    parser.add_argument("--weight", type=float, help="instead of the one that validation chooses")
    asked = parser.parse_args(argv)
    if asked.weight is not None and asked.kind == "chosen":
        parser.error("--weight leaves nothing to choose a kind by; name the kind")
    kinds = tuple(FITTED) if asked.kind == "chosen" else (asked.kind,)
    names = asked.trainers.split(";") if asked.trainers else list(TRAINERS)
    results: list[tuple[bool, bool, bool, bool]] = []
    for data, source, target in DIRECTIONS:
        if asked.only and asked.only != target:
            continue
        split = read_split(asked.data, data, [source], target, windows_back=asked.windows_back)
        prior = PRIORS[asked.prior](split)
        sys.stderr.write(f"{prior}\n")
        worlds = {kind: World.of(split, kind, prior, asked.seeds) for kind in kinds}
        counts = np.bincount(split.events.target.items, minlength=len(split.test.rankable))
        sizes = split.test.sizes
        say(f"\n**{source} → {target}** ({sizes['all']:,} test users)\n\n{HEADER}")
        others = []
        for name in names:
            if not asked.trainers and skipped(name, target):
                continue
            sys.stderr.write(f"{target}, {name}\n")
            trainer = TRAINERS[name]
            trainer = settled(trainer, next(iter(worlds.values())).validation, asked.seeds)
            if asked.weight is None:
                choice = chosen(worlds, trainer, moves_warm=not name.endswith("fold-in"))
            else:
                choice = Choice(kind=asked.kind, weight=asked.weight, best=0.0)
            found = study(worlds[choice.kind], trainer, choice)
            say(line(name, found, split.test))
            others.append(other_line(name, found, split.test, counts / counts.sum()))
            results.append((*held(found), choice.weight == 0))
        say(OTHER_HEADER)
        say("\n".join(others))
    above, harmless, gain, nothing = (sum(each) for each in zip(*results, strict=True))
    say(
        f"\nOf {len(results)} rows, {nothing} with nothing added: hidden users gain above the "
        f"placebo in {above}, warm users are not harmed in {harmless}, all users gain in {gain}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
