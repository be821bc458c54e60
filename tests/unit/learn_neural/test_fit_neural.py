"""Fitting a network: what it finds, what it must not find, and what it must not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from neural_worlds import Event, coded, day, event_table

from scalr_ray.core.config import NeuralSettings
from scalr_ray.core.errors import DataError
from scalr_ray.learn import TrainingEvents, with_prior_as_of
from scalr_ray.learn.neural import fit as fitting
from scalr_ray.learn.neural.fit import NeuralFit, fit_neural, stopping_task
from scalr_ray.learn.prior import prior_as_of
from scalr_ray.translator.prior import log_prior_of
from scalr_ray.translator.prior_mix import PriorMix

USERS, KINDS, EACH = 240, 4, 6
HOW = NeuralFit(
    mix=PriorMix.recent(window_days=60, background=0.1),
    alphas=(0.3, 1.0),
    settings=NeuralSettings(
        width=16, length=16, heads=2, dropout=0.1, learning_rate=0.02, batch_rows=32, epochs=12
    ),
    seed=0,
)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(fitting, "_LEAST_STEPS", 100)
    monkeypatch.setattr(fitting, "_PATIENT_STEPS", 40)


def world(*, transfer: bool, seed: int = 0) -> tuple[list[Event], list[Event]]:
    """Users of one kind take items of their kind; without transfer the source tells another."""
    draw = np.random.default_rng(seed)
    source: list[Event] = []
    target: list[Event] = []
    for user in range(USERS):
        kind = int(draw.integers(KINDS))
        told = kind if transfer else int(draw.integers(KINDS))
        source += [
            (user, told * EACH + int(draw.integers(EACH)), float(at), 0.0)
            for at in draw.uniform(0, 90, 6)
        ]
        target += [
            (user, kind * EACH + int(draw.integers(EACH)), float(at), 0.0)
            for at in draw.uniform(0, 120, 6)
        ]
    return source, target


def fit(source: list[Event], target: list[Event], **changes):
    return fit_neural(
        coded(source, target), validation_cut=day(80), cutoff=day(120), how=HOW, **changes
    )


def test_it_finds_what_the_source_tells_of_users_it_has_never_seen():
    fitted = fit(*world(transfer=True))
    assert fitted.transfers
    assert fitted.chosen.gain > 0.3
    assert fitted.translator.alpha > 0


def test_knowing_a_user_again_is_no_transfer():
    # Here a user's kind shows in what they did in the target domain, which the source cannot tell.
    fitted = fit(*world(transfer=False))
    assert not fitted.transfers
    assert fitted.translator.alpha == 0
    assert fitted.chosen.z < 1.96


def test_nothing_at_or_after_the_cutoff_moves_a_bit():
    source, target = world(transfer=True)
    plain = fit(source, target)
    later = [(user, 1, 121.0 + user / 1000, 0.0) for user in range(50)]
    late = [(user, 2, 20.0, 500.0) for user in range(50)]
    other = fit([*source, *later, *late], [*target, *later, *late])
    assert plain.chosen.gain == other.chosen.gain
    ours, theirs = plain.translator.net.state_dict(), other.translator.net.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert plain.translator.log_prior.tobytes() == other.translator.log_prior.tobytes()
    # Of a later generation time only the prior is another: that which a training then would count.
    alone = event_table("target", [*target, *later, *late])
    events = TrainingEvents.coded(alone.slice(0, 0), alone)
    assert with_prior_as_of(plain.translator, events, day(120)) is plain.translator
    again = prior_as_of(events, day(120), kind="neural", mix=HOW.mix)
    assert log_prior_of(again).tobytes() == plain.translator.log_prior.tobytes()
    then = with_prior_as_of(plain.translator, events, day(150))
    assert then.net is plain.translator.net
    expected = prior_as_of(events, day(150), kind="neural", mix=HOW.mix)
    assert then.log_prior.tobytes() == log_prior_of(expected).tobytes()
    assert then.log_prior[1] > plain.translator.log_prior[1]


def test_too_few_users_without_target_history_are_named():
    source, target = world(transfer=True)
    with pytest.raises(DataError, match="no target history"):
        fit(source, target, hidden=np.zeros(USERS, dtype=bool))


def test_a_training_is_known_by_everything_it_is_made_from():
    source, target = world(transfer=True)
    hidden = np.zeros(USERS, dtype=bool)

    def known_by(target: list[Event], seed: int = 0) -> str:
        how = replace(HOW, seed=seed)
        events = coded(source, target)
        return stopping_task(events, validation_cut=day(80), how=how, hidden=hidden).fingerprint

    assert known_by(target) == known_by(target)
    # An event before the validation cut: those at or after it are not trained on.
    told = next(place for place, event in enumerate(target) if event[2] < 80)
    user, item, at, late = target[told]
    other_item = (user, (item + 1) % (KINDS * EACH), at, late)
    swapped = [*target[:told], other_item, *target[told + 1 :]]
    assert len({known_by(target), known_by(swapped), known_by(target, seed=1)}) == 3
