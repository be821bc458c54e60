"""How near the learned likelihood comes to the truth, in worlds where the truth is known.

    python -m tests.bench.truth [--users 500,1000,2000,4000] [--null]

Users without target history are asked about as of the cut. `KL` is the mean divergence of the
translator's likelihood from the true one, in nats; the entropy of the truth is the least log loss
that is possible, and the log loss of a translator is that plus its KL. `ECE` holds the likelihood
against the truth in bins of ascending likelihood that expect equally many choices: the share of
them that fall into another bin than expected, both ways counted. Nothing is drawn, so that the
truth itself has KL 0 and ECE 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.clock import floor_day, from_micros
from scalr_ray.core.config import NeuralSettings
from scalr_ray.core.events import event_schema
from scalr_ray.learn import FittedTranslator, Grid, TrainingEvents, fit_translator
from scalr_ray.learn.neural.fit import NeuralFit, fit_neural
from scalr_ray.simulate import World, WorldConfig
from scalr_ray.translator import FrequencyTranslator, PriorMix, Translator, as_prior, log_likelihood

MIX = PriorMix.recent(window_days=30, background=0.05)
ALPHAS = (0.15, 0.3, 0.6, 1.0, 1.5)
GRID = Grid(shrinkages=(0.01, 0.1, 1.0, 5.0), alphas=ALPHAS)
BINS = 20
SCHEMA = event_schema("string", "string")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A world up to a cut, and its users without target history."""

    world: World
    events: TrainingEvents
    codes: NDArray[np.int64]
    truth: NDArray[np.float64]
    validation_cut: datetime
    cut: datetime


def ask(users: int, transfer: float, *, seed: int = 0) -> Asked:
    """Simulate, hide the target history of every other user, and ask for the truth."""
    world = World.generate(
        WorldConfig(
            seed=seed,
            users=users,
            source_items=150,
            target_items=300,
            days=240,
            latent=4,
            genres=8,
            transfer=transfer,
            sharpness=6.0,
            overlap_frac=0.85,
            source_events_per_user=30.0,
            target_events_per_user=30.0,
        )
    )
    ids = pa.array([f"e{at:07d}" for at in range(world.events.num_rows)])
    events = world.events.append_column("event_id", ids).select(SCHEMA.names).cast(SCHEMA)
    is_target = pc.equal(events["domain"], world.config.target_domain)
    target, source = events.filter(is_target), events.filter(pc.invert(is_target))
    times = target["event_timestamp"].cast(pa.int64()).to_numpy()
    validation_cut, cut = (floor_day(from_micros(int(np.quantile(times, q)))) for q in (0.65, 0.8))
    at = pa.scalar(cut, SCHEMA.field("event_timestamp").type)
    odd = pc.equal(pc.utf8_slice_codeunits(target["user_id"], -1), "1")
    for digit in "3579":
        odd = pc.or_(odd, pc.equal(pc.utf8_slice_codeunits(target["user_id"], -1), digit))
    known = target.filter(pc.and_(pc.less(target["event_timestamp"], at), pc.invert(odd)))
    coded = TrainingEvents.of(source.filter(pc.less(source["event_timestamp"], at)), known)
    seen = coded.as_of(cut)
    has_source = np.bincount(seen.source.users, minlength=len(coded.users)) > 0
    has_target = np.bincount(seen.target.users, minlength=len(coded.users)) > 0
    codes = np.flatnonzero(has_source & ~has_target)
    names = coded.users.ids.take(pa.array(codes)).to_pylist()
    truth = world.target_probabilities(names, cut)
    order = [world.target_item_ids.index(item) for item in coded.target_items.ids.to_pylist()]
    truth = truth[:, order]
    return Asked(
        world=world,
        events=coded,
        codes=codes,
        truth=truth / truth.sum(axis=1, keepdims=True),
        validation_cut=validation_cut,
        cut=cut,
    )


def divergence(translator: Translator, asked: Asked) -> float:
    """The mean KL divergence of the likelihood from the truth, nats, over seen items."""
    truth, guess = against(translator, asked)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(truth > 0, truth * (np.log(truth) - guess), 0.0)
    return float(terms.sum(axis=1).mean())


def calibration_error(translator: Translator, asked: Asked) -> float:
    """The share of choices that fall into another bin than the likelihood expects."""
    truth, guess = against(translator, asked)
    return expected_calibration_error(truth, np.exp(guess))


def expected_calibration_error(truth: NDArray[np.float64], guess: NDArray[np.float64]) -> float:
    """sum_k |truth_k - guess_k| / sum_k truth_k over bins of about equal guess; (B, I) each."""
    order = np.argsort(guess, axis=None, kind="stable")
    truth, guess = truth.ravel()[order], guess.ravel()[order]
    middle = (np.cumsum(guess) - guess / 2) / guess.sum()
    place = np.minimum((middle * BINS).astype(np.int64), BINS - 1)
    true, guessed = (np.bincount(place, side, minlength=BINS) for side in (truth, guess))
    return float(np.abs(true - guessed).sum() / truth.sum())


def against(
    translator: Translator, asked: Asked
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The truth and the log of the likelihood, (B, I) each, over the items seen."""
    seen = np.isfinite(translator.log_prior)
    truth = asked.truth[:, seen]
    users = asked.events.known(asked.codes, asked.cut)
    guess = log_likelihood(translator, users)[:, seen].astype(np.float64)
    return truth / truth.sum(axis=1, keepdims=True), guess


def entropy(asked: Asked) -> float:
    """The mean entropy of the truth, nats."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(asked.truth > 0, asked.truth * np.log(asked.truth), 0.0)
    return float(-terms.sum(axis=1).mean())


def count(asked: Asked) -> FittedTranslator[FrequencyTranslator]:
    """The frequency translator of the world."""
    return fit_translator(
        asked.events,
        validation_cut=asked.validation_cut,
        cutoff=asked.cut,
        grid=GRID,
        mix=MIX,
        seed=0,
    )


def measure(users: int, transfer: float) -> str:
    """One line of the table."""
    asked = ask(users, transfer)
    counted = count(asked)
    began = time.perf_counter()
    how = NeuralFit(mix=MIX, alphas=ALPHAS, settings=NeuralSettings(), seed=0)
    trained = fit_neural(
        asked.events, validation_cut=asked.validation_cut, cutoff=asked.cut, how=how
    )
    seconds = time.perf_counter() - began
    cells = [
        f"{users:,}",
        f"{len(asked.events.target_log):,}",
        f"{entropy(asked):.2f}",
        *errors(as_prior(counted.translator), asked),
    ]
    for fitted in (counted, trained):
        gain = f"{fitted.chosen.gain:+.3f} (z {fitted.chosen.z:.1f})"
        cells += [
            *errors(fitted.translator, asked),
            f"{fitted.translator.alpha:g}",
            gain,
        ]
    return f"| {' | '.join(cells)} | {seconds:.0f} s |"


def errors(translator: Translator, asked: Asked) -> list[str]:
    """KL and ECE."""
    found = (divergence(translator, asked), calibration_error(translator, asked))
    return [f"{value:.2f}" for value in found]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per size of world."""
    parser = argparse.ArgumentParser(description="the learned likelihood against the truth")
    parser.add_argument("--users", default="500,1000,2000,4000")
    parser.add_argument("--null", action="store_true", help="worlds in which nothing transfers")
    asked = parser.parse_args(argv)
    sys.stdout.write(
        "| users | target events | entropy of the truth | KL, prior | ECE | KL, frequency | ECE "
        "| alpha | gain | KL, neural | ECE | alpha | gain | training |\n" + "|---" * 14 + "|\n"
    )
    for users in asked.users.split(","):
        sys.stdout.write(measure(int(users), 0.0 if asked.null else 1.0) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
