"""An example is never told of items what became known after it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from neural_worlds import catalogue_of, coded, day, net_of, pairs, stirred

from scalr_ray.core.clock import to_micros
from scalr_ray.core.config import NeuralSettings
from scalr_ray.core.errors import DataError
from scalr_ray.learn.neural.examples import training_rows
from scalr_ray.learn.neural.fit import NeuralFit, stopping_task
from scalr_ray.learn.neural.task import TrainingTask
from scalr_ray.translator.neural.batch import collate
from scalr_ray.translator.neural.candidates import Candidates
from scalr_ray.translator.neural.features import FIRST_CODE, FeatureSpec
from scalr_ray.translator.prior_mix import PriorMix

VALIDATION_CUT = day(180)


def stopping(item_features) -> TrainingTask:
    events = coded(*pairs(0, users=120))
    how = NeuralFit(
        mix=PriorMix.recent(window_days=90, background=0.1),
        alphas=(1.0,),
        settings=NeuralSettings(width=16, length=16),
        seed=0,
        item_features=item_features,
    )
    hidden = np.zeros(len(events.users), dtype=bool)
    return stopping_task(events, validation_cut=VALIDATION_CUT, how=how, hidden=hidden)


def when_asked(ids: pa.Array, times: np.ndarray) -> pa.Table:
    """Serves of each item when it is asked about."""
    assert len(ids) == len(times)
    return pa.table({"asked": pa.array(times).cast(pa.string())})


def read_as_of(task: TrainingTask, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(Q,) the times of all queries of the rows, and as of when each reads features of items."""
    batch = collate(rows)
    candidates: Candidates = task.catalogue.candidates(batch, 0)
    spec = task.shape.item_features
    codes = candidates.features["asked"].view(-1, len(task.catalogue)).numpy()
    assert (codes == codes[:, :1]).all()
    told = codes[candidates.eras.numpy(), 0]
    # What is served at the cut alone has no code: it is not learned from.
    named = [int(value) for value in spec.columns[0].values]
    cut = int(task.catalogue.feature_times[-1])
    as_of = np.array([named[code - FIRST_CODE] if code >= FIRST_CODE else cut for code in told])
    return batch.query_times.numpy(), as_of


def test_an_example_reads_what_was_known_when_its_part_of_the_examples_began():
    task = stopping(when_asked)
    times, as_of = read_as_of(task, task.rows)
    assert (as_of <= times).all()
    parts = np.unique(as_of)
    assert len(parts) == 8
    shares = np.bincount(np.searchsorted(parts, as_of)) / len(times)
    assert shares.min() > 0.08
    # Each part reads the latest that any could: what was known when it began.
    starts = [times[as_of == part].min() for part in parts]
    assert all(start - part < 86_400_000_000 for start, part in zip(starts, parts, strict=True))


def test_what_says_when_to_stop_reads_what_was_known_at_its_cut():
    task = stopping(when_asked)
    times, as_of = read_as_of(task, task.validation)
    assert set(times.tolist()) == set(as_of.tolist()) == {int(task.catalogue.feature_times[-1])}
    assert times[0] < to_micros(VALIDATION_CUT)


def test_what_is_served_at_the_cut_alone_is_not_learned_from():
    def late(ids: pa.Array, times: np.ndarray) -> pa.Table:
        last = times == times.max()
        return pa.table({"a": pa.array(times), "b": pa.array(np.ones(len(ids)), mask=~last)})

    spec = stopping(late).shape.item_features
    assert [column.name for column in spec.columns] == ["a"]
    assert spec.notes == ("feature b is left out: it has no value in the training window",)
    with pytest.raises(DataError, match="materialise them for the training window"):
        stopping(lambda ids, times: late(ids, times).select(["b"]))


def test_another_answer_as_of_any_of_the_times_makes_another_training():
    def answering(change: int):
        def ask(ids: pa.Array, times: np.ndarray) -> pa.Table:
            moments = np.unique(times)
            changed = times == moments[change] if change < len(moments) else np.zeros(len(ids))
            return pa.table({"a": pa.array((times // 86_400_000_000) % 7 + 10 * changed)})

        return ask

    known_by = {stopping(answering(change)).fingerprint for change in (0, 5, 8, 99)}
    assert len(known_by) == 4


def test_queries_of_several_times_are_matched_as_each_is_alone():
    world = coded(*pairs(1, users=20))
    items, times = len(world.target_items), [day(0), day(60), day(120)]
    served = pa.table(
        {"a": np.arange(3.0 * items) % 17, "b": [f"k{at % 5}" for at in range(3 * items)]}
    )
    spec = FeatureSpec.fit(served)
    catalogue = replace(
        catalogue_of(world),
        features=spec.encode(served),
        feature_times=np.array([to_micros(time) for time in times]),
    )
    net = stirred(net_of(world, item_features=spec)).eval()
    rows = training_rows(world, start=day(0), end=day(210), length=16)
    with torch.inference_mode():
        batch = collate(rows)
        candidates = catalogue.candidates(batch, 0)
        assert set(candidates.eras.tolist()) == {0, 1, 2}
        together = net(batch, candidates)
        for query in range(0, len(batch), 7):
            era = int(candidates.eras[query])
            alone = candidates.of_queries(query, query + 1)
            of_era = {
                name: value.view(3, items, *value.shape[1:])[era]
                for name, value in candidates.features.items()
            }
            vectors = net.item_vectors(candidates.items, of_era)
            state = net.states(batch)[query : query + 1]
            torch.testing.assert_close(
                net.match(state, vectors, alone.ages, alone.moments), together[query : query + 1]
            )


def test_gradients_come_through_the_features_of_every_time():
    world = coded(*pairs(1, users=20))
    items = len(world.target_items)
    served = pa.table({"a": [f"k{at}" for at in range(2 * items)]})
    spec = FeatureSpec.fit(served)
    catalogue = replace(
        catalogue_of(world),
        features=spec.encode(served),
        feature_times=np.array([to_micros(day(0)), to_micros(day(100))]),
    )
    net = stirred(net_of(world, item_features=spec)).train()
    batch = collate(training_rows(world, start=day(0), end=day(210), length=16))
    net(batch, catalogue.candidates(batch, 0)).square().sum().backward()
    gradient = net.item_features.parts[0].weight.grad
    assert bool((gradient[FIRST_CODE:].abs().sum(dim=1) > 0).all())
