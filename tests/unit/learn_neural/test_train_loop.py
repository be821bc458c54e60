from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from neural_worlds import catalogue_of, coded, day, net_of, pairs

from scalr_ray.core.errors import DataError, TrainingDiverged
from scalr_ray.learn.events import TrainingEvents
from scalr_ray.learn.neural.examples import training_rows
from scalr_ray.learn.neural.feed import table_feed
from scalr_ray.learn.neural.loop import EpochReport, LoopSettings, LoopState, train_loop
from scalr_ray.translator.neural.loss import mean_log_likelihood, tuned_log_likelihood
from scalr_ray.translator.neural.net import TranslatorNet

HOW = LoopSettings(epochs=4, batch_rows=32, learning_rate=1e-2, warmup_steps=5)


class Task:
    """A world, its rows before day 150 and after, and how a net stands on the latter."""

    def __init__(self, world: TrainingEvents, negatives: int = 0) -> None:
        self.world = world
        self.learned = training_rows(world, start=day(0), end=day(150), length=16)
        self.checked = training_rows(world, start=day(150), end=day(210), length=16)
        self.full = catalogue_of(world)
        self.catalogue = replace(self.full, negatives=negatives)

    def validate(self, net: TranslatorNet) -> float:
        return tuned_log_likelihood(net, [self.checked], self.full)

    def train(
        self, how: LoopSettings, net: TranslatorNet | None = None, state: LoopState | None = None
    ) -> tuple[TranslatorNet, list[EpochReport], list[LoopState]]:
        net = net or net_of(self.world)
        states: list[LoopState] = []
        last = train_loop(
            net,
            table_feed(self.learned, batch_rows=how.batch_rows, seed=how.seed).batches,
            self.validate,
            how,
            catalogue=self.catalogue,
            state=state,
            on_epoch=lambda state, _: states.append(copy.deepcopy(state)),
        )
        return net, last.reports, states


@pytest.fixture(scope="module")
def planted() -> Task:
    return Task(coded(*pairs(0, users=200)))


def numbers(reports: list[EpochReport]) -> list[tuple[float, float]]:
    return [(report.loss, report.validation) for report in reports]


def same_weights(one: TranslatorNet, other: TranslatorNet) -> bool:
    pairs_of = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs_of)


def test_the_same_seed_gives_the_same_trajectory(planted):
    (one, first, _), (other, second, _) = planted.train(HOW), planted.train(HOW)
    assert numbers(first) == numbers(second)
    assert same_weights(one, other)


def test_another_seed_gives_another_trajectory(planted):
    _, first, _ = planted.train(HOW)
    _, second, _ = planted.train(replace(HOW, seed=1))
    assert numbers(first) != numbers(second)


@pytest.mark.parametrize("negatives", [0, 16])
def test_a_resumed_run_equals_an_uninterrupted_one(planted, negatives):
    task = Task(planted.world, negatives)
    how = replace(HOW, cosine=True, accumulate=2)
    whole, reports, states = task.train(how)
    torch.manual_seed(99)
    resumed, later, _ = task.train(how, net_of(task.world, seed=5), states[1])
    assert numbers(later) == numbers(reports)
    assert same_weights(resumed, whole)


def test_it_learns_a_planted_mapping_far_above_the_prior(planted):
    prior = planted.validate(net_of(planted.world))
    net, _, _ = planted.train(replace(HOW, epochs=12))
    assert planted.validate(net) - prior > 1.0


def test_sampled_candidates_learn_it_too(planted):
    task = Task(planted.world, negatives=12)
    prior = task.validate(net_of(task.world))
    net, _, _ = task.train(replace(HOW, epochs=12))
    assert task.validate(net) - prior > 1.0


def test_where_nothing_transfers_nothing_is_gained():
    task = Task(coded(*pairs(0, users=300, planted=0.0)))
    prior = task.validate(net_of(task.world))
    net, _, _ = task.train(replace(HOW, learning_rate=2e-3, patience=1))
    assert abs(task.validate(net) - prior) < 0.03


def test_training_ends_with_the_weights_that_validated_best(planted):
    how = replace(HOW, epochs=30, learning_rate=5e-2, patience=2)
    net, reports, _ = planted.train(how)
    assert len(reports) < 30
    best = max(report.validation for report in reports)
    assert [report.best for report in reports[-2:]] == [False, False]
    assert planted.validate(net) == best


def test_a_loss_that_is_not_finite_is_named(planted):
    net = net_of(planted.world)
    with torch.no_grad():
        net.query.weight.fill_(float("inf"))
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        planted.train(HOW, net)


def test_rows_without_any_known_item_are_named():
    task = Task(coded(*pairs(0, users=40)))
    first_of_all = min(event[2] for event in pairs(0, users=40)[1])
    nobody_knew = training_rows(task.world, start=day(0), end=day(first_of_all + 1e-3), length=16)
    with pytest.raises(DataError, match="no target event to learn from"):
        train_loop(
            net_of(task.world),
            table_feed(nobody_knew, batch_rows=HOW.batch_rows, seed=0).batches,
            task.validate,
            HOW,
            catalogue=task.catalogue,
        )


def test_validation_without_any_known_item_is_named():
    task = Task(coded(*pairs(0, users=40)))
    with pytest.raises(DataError, match="validation window"):
        mean_log_likelihood(net_of(task.world), [], task.full)
