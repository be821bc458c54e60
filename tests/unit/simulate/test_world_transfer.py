from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulate_arrays import domain_events

from scalr_ray.simulate import World, WorldConfig

MODEST = WorldConfig(
    users=3000,
    source_items=400,
    target_items=250,
    source_events_per_user=30,
    target_events_per_user=16,
)
SHRINK = 20.0


def profiles(world):
    """Everything users have, source (U, J) and target (U, I), of users active in both."""
    config = world.config
    size = (config.users, config.source_items), (config.users, config.target_items)
    source = domain_events(world, "source").matrix(*size[0], start=0, end=config.days)
    target = domain_events(world, "target").matrix(*size[1], start=0, end=config.days)
    both = source.any(axis=1) & target.any(axis=1)
    return source[both], target[both]


def dependence(world, shuffles=40):
    """How many standard deviations co-occurrence exceeds that of users paired at random."""
    source, target = (side - side.mean(axis=0) for side in profiles(world))
    rng = np.random.default_rng(0)

    def strength(order):
        return (((source.T @ target[order]) ** 2).sum()) ** 0.5

    chance = [strength(rng.permutation(len(target))) for _ in range(shuffles)]
    return (strength(np.arange(len(target))) - np.mean(chance)) / np.std(chance)


def ndcg_gain(config, alphas):
    """Relative NDCG@20 of prior x lift^alpha over the 90-day prior, all test users, per alpha."""
    world = World.generate(config)
    source, target = domain_events(world, "source"), domain_events(world, "target")
    cut = np.floor(np.quantile(target.day, 0.8))
    users, days = config.users, config.days
    history = source.matrix(users, config.source_items, start=0, end=cut)
    known = target.matrix(users, config.target_items, start=0, end=cut)
    recent = target.matrix(users, config.target_items, start=cut - 90, end=cut)
    seen = known.any(axis=0)
    hits = target.matrix(users, config.target_items, start=cut, end=days) * seen * (known == 0)
    tested = history.any(axis=1) & hits.any(axis=1)

    prior = np.log(recent.sum(axis=0) + 0.5)
    lift = np.log(frequency_lift(history, known)[tested])
    banned = np.where((known > 0) | ~seen, -np.inf, 0.0)[tested]
    base = ndcg_at_20(prior + banned, hits[tested])
    return [ndcg_at_20(prior + alpha * lift + banned, hits[tested]) / base - 1 for alpha in alphas]


def frequency_lift(history, known):
    """P(i | source items of the user) / P(i), counted over users active in both, shrunk to 1."""
    both = history.any(axis=1) & known.any(axis=1)
    together = history[both].T @ known[both]
    overall = (together.sum(axis=0) + 0.5) / (together.sum() + 0.5 * together.shape[1])
    given = (together + SHRINK * overall) / (together.sum(axis=1, keepdims=True) + SHRINK)
    counts = np.maximum(history.sum(axis=1, keepdims=True), 1)
    return np.where(history.any(axis=1, keepdims=True), history @ given / counts / overall, 1.0)


def ndcg_at_20(score, hits):
    top = np.argsort(-score, axis=1, kind="stable")[:, :20]
    discount = 1 / np.log2(np.arange(20) + 2)
    gained = (np.take_along_axis(hits, top, axis=1) * discount).sum(axis=1)
    ideal = np.cumsum(discount)[np.minimum(hits.sum(axis=1).astype(int), 20) - 1]
    return (gained / ideal).mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_cooccurrence_translator_clearly_beats_the_prior_where_taste_transfers(seed):
    (gain,) = ndcg_gain(replace(MODEST, seed=seed), alphas=[1.0])
    assert gain > 0.3


@pytest.mark.parametrize("seed", [0, 1])
def test_no_strength_of_evidence_beats_the_prior_in_the_null_world(seed):
    gains = ndcg_gain(replace(MODEST, seed=seed, transfer=0.0), alphas=[0.3, 0.6, 1.0, 2.0])
    assert max(gains) < 0.03
    assert gains[-1] < -0.02  # believing in noise costs


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_target_choices_are_independent_of_source_history_in_the_null_world(seed):
    world = World.generate(replace(MODEST, users=1000, transfer=0.0, seed=seed))
    assert abs(dependence(world)) < 3.5


def test_dependence_grows_with_the_dial():
    worlds = [
        World.generate(replace(MODEST, users=1000, transfer=dial)) for dial in (0.0, 0.3, 0.6, 1.0)
    ]
    strengths = [dependence(world) for world in worlds]
    assert strengths == sorted(strengths)
    assert strengths[1] > 3.5
    assert strengths[3] > 2 * strengths[1]
