"""An item that nobody has touched is for those who love its kind."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from neural_worlds import Event, coded, day, event_table

from scalr_ray.core.clock import to_micros
from scalr_ray.core.config import NeuralSettings
from scalr_ray.learn import TrainingEvents, with_prior_as_of
from scalr_ray.learn.neural import fit as fitting
from scalr_ray.learn.neural.fit import NeuralFit, fit_neural
from scalr_ray.translator.neural.widening import with_items
from scalr_ray.translator.prior import NEW_ITEM_EVENTS
from scalr_ray.translator.prior_mix import PriorMix
from scalr_ray.translator.protocol import log_likelihood

USERS, KINDS, EACH = 240, 4, 6
CUTOFF = day(120)
# One new item of each kind; -1 and the like stand before all the others.
NEW = pa.array([-KINDS + kind for kind in range(KINDS)])


def features(ids: pa.Array, _: np.ndarray) -> pa.Table:
    """The kind of each item, which the new ones share with those of their number."""
    numbers = np.asarray(ids)
    kinds = np.where(numbers < 0, numbers + KINDS, numbers // EACH)
    return pa.table({"kind": pa.array([f"kind {kind}" for kind in kinds])})


def world() -> tuple[list[Event], list[Event], list[int]]:
    """Users of one kind take items of their kind, on both sides; and the kind of each user."""
    draw = np.random.default_rng(0)
    kinds = draw.integers(KINDS, size=USERS).tolist()

    def taken(days: int) -> list[Event]:
        return [
            (user, kind * EACH + int(draw.integers(EACH)), float(at), 0.0)
            for user, kind in enumerate(kinds)
            for at in draw.uniform(0, days, 6)
        ]

    return taken(90), taken(120), kinds


@pytest.mark.parametrize(
    "mix",
    [
        PriorMix.recent(window_days=60, background=0.1),
        PriorMix(windows_days=(30, None), weights=(0.6, 0.4)),
    ],
)
def test_new_items_of_a_loved_kind(monkeypatch, mix):
    monkeypatch.setattr(fitting, "_LEAST_STEPS", 100)
    monkeypatch.setattr(fitting, "_PATIENT_STEPS", 40)
    source, target, kinds = world()
    settings = NeuralSettings(
        width=16, length=16, heads=2, dropout=0.1, learning_rate=0.02, batch_rows=32, epochs=12,
        id_dropout=0.2,
    )  # fmt: skip
    how = NeuralFit(mix=mix, alphas=(1.0,), settings=settings, seed=0, item_features=features)
    events = coded(source, target)
    fitted = fit_neural(events, validation_cut=day(80), cutoff=CUTOFF, how=how)
    assert fitted.transfers
    trained = fitted.translator

    since = np.full(KINDS, to_micros(day(110)))
    wider = with_items(trained, NEW, served=features(NEW, since), first_seen=since)
    new = trained.target_items.codes(wider.target_items.ids) < 0
    table = event_table("target", target)
    log = TrainingEvents.coded(table.slice(0, 0), table)
    model = with_prior_as_of(wider, log, CUTOFF, new=new)

    prior = np.exp(model.log_prior.astype(float))
    assert prior.sum() == pytest.approx(1.0, rel=1e-5)
    once = log.as_of(CUTOFF).target_log.first_to_appear()
    recent = len(once.between(day(60), CUTOFF)) if mix.per_event else 0.0
    ever = len(once) + NEW_ITEM_EVENTS * KINDS
    weight = mix.weights[-1]
    expected = weight * NEW_ITEM_EVENTS / (recent + weight * ever if mix.per_event else ever)
    np.testing.assert_allclose(prior[new], expected, rtol=1e-4)
    assert prior[new].max() < prior[~new].min()

    everybody = events.under(model.source_items, model.target_items)
    codes = everybody.users.codes(pa.array(range(USERS)))
    likelihood = np.exp(log_likelihood(model, everybody.known(codes, CUTOFF)))
    assert np.allclose(likelihood.sum(axis=1), 1.0, atol=1e-4)
    for kind in range(KINDS):
        of_item = likelihood[:, model.target_items.codes(pa.array([-KINDS + kind]))[0]]
        loves = np.array(kinds) == kind
        assert of_item[loves].mean() > 3 * of_item[~loves].mean()
        assert np.median(of_item[loves]) > np.quantile(of_item[~loves], 0.9)
