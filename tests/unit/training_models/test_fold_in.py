"""Folded in, synthetic rows say who newcomers are, and touch nothing else by a bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ranker_cases import (
    BLOCKS,
    CROSS,
    PRIOR,
    SEQUENTIAL,
    TOWERS,
    all_scores,
    interactions,
    shuffled,
    taken,
)

from scalr_ray.core.errors import DataError, UsageError
from training.models import IALS, IALSConfig
from training.models.dcn import DCN
from training.models.implicit_als import ImplicitALS, ImplicitALSConfig
from training.models.item_knn import ItemKNN, ItemKNNConfig
from training.models.sequential import Sequential
from training.models.two_tower import TwoTower

USERS, NEWCOMERS, ITEMS = 30, 9, 12
OWNER = np.arange(USERS + NEWCOMERS)[:, None] % BLOCKS == np.arange(ITEMS)[None, :] % BLOCKS
ALS = IALSConfig(prior=PRIOR, factors=BLOCKS)
CONFIGS = {
    IALS: ALS,
    ImplicitALS: ImplicitALSConfig(prior=PRIOR, factors=BLOCKS),
    ItemKNN: ItemKNNConfig(prior=PRIOR, neighbours=ITEMS),
    TwoTower: TOWERS,
    Sequential: SEQUENTIAL,
    DCN: replace(CROSS, epochs=20),
}


def folded(kind):
    """The ranker that folds in."""
    return kind(replace(CONFIGS[kind], synthetic="fold-in"))


def world(weight=1.0):
    """Blocks; newcomers have synthetic rows alone, and so have users with rows, of other blocks."""
    real = np.argwhere(OWNER[:USERS])
    half = np.arange(ITEMS) < ITEMS // 2
    newcomers = np.argwhere(OWNER & (np.arange(len(OWNER)) >= USERS)[:, None] & half)
    strange = np.argwhere(np.roll(OWNER[:USERS], 1, axis=1))
    pairs = np.concatenate([real, newcomers, strange])
    synthetic = np.arange(len(pairs)) >= len(real)
    order = shuffled(np.arange(len(pairs)))
    weights = np.where(synthetic, weight, 1.0)
    return interactions(
        pairs[order],
        users=len(OWNER),
        items=ITEMS,
        synthetic=synthetic[order],
        weights=weights[order],
    ), ~half


@pytest.mark.parametrize("kind", CONFIGS)
def test_users_with_real_rows_are_scored_as_if_there_were_no_others(kind):
    data, _ = world()
    real = taken(data, np.flatnonzero(~data.is_synthetic))
    alone = all_scores(kind(CONFIGS[kind]), real)
    beside = all_scores(folded(kind), data)
    np.testing.assert_array_equal(beside[:USERS], alone[:USERS])
    assert np.abs(beside[USERS:] - alone[USERS:]).max() > 0.01


@pytest.mark.parametrize("kind", [IALS, ImplicitALS, ItemKNN, TwoTower, Sequential])
def test_newcomers_are_ranked_by_what_else_their_block_takes(kind):
    data, unseen = world()
    scores = all_scores(folded(kind), data)[USERS:, unseen]
    own = OWNER[USERS:, unseen]
    assert scores[own].mean() > scores[~own].mean() + 0.3


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_newcomer_of_no_weight_is_ranked_by_the_prior(kind):
    data, _ = world(weight=1e-6)
    scores = all_scores(folded(kind), data)[USERS:]
    none = all_scores(folded(kind), world(weight=0.0)[0])[USERS:]
    if kind is not ImplicitALS:  # which has a gap at zero; see there
        np.testing.assert_allclose(scores, none, atol=1e-3)
    np.testing.assert_array_equal(none, np.broadcast_to(none[:1], none.shape))


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind is not ItemKNN])
@pytest.mark.parametrize("kept", [2, -1])
def test_it_goes_on_from_any_step_and_from_the_last(kind, kept):
    data, _ = world()
    states = []
    whole = folded(kind)
    whole.fit(data, seed=0, checkpoint=states.append)
    other = folded(kind)
    other.restore(states[kept])
    other.resume(data)
    codes = np.arange(len(OWNER))
    np.testing.assert_array_equal(other.scores(codes), whole.scores(codes))


def test_factors_of_newcomers_are_the_minimum():
    data, _ = world(weight=0.3)
    tensors = {}
    ranker = folded(IALS)
    ranker.fit(data, seed=0)
    tensors = ranker.state().tensors
    items = tensors["items"].astype(np.float64)
    a, ridge_per_mass = ALS.unobserved_weight, ALS.regularisation
    matrix = data.matrix().toarray()
    for user in range(USERS, len(OWNER)):
        weights = matrix[user]
        mass = weights.sum() + a * ITEMS
        system = a * items.T @ items + (items.T * weights) @ items
        system += ridge_per_mass * mass * np.eye(items.shape[1])
        expected = np.linalg.solve(system, items.T @ weights)
        np.testing.assert_allclose(tensors["users"][user], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_without_real_rows_there_is_nothing_to_fold_into(kind):
    data, _ = world()
    drawn = taken(data, np.flatnonzero(data.is_synthetic))
    with pytest.raises(DataError, match="no interactions"):
        folded(kind).fit(drawn, seed=0)


@pytest.mark.parametrize("config", [IALSConfig, ImplicitALSConfig, ItemKNNConfig])
def test_another_way_in_is_refused(config):
    with pytest.raises(UsageError, match="it is one of rows, fold-in"):
        config(prior=PRIOR, synthetic="head")
