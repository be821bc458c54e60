"""The four ways in for synthetic rows do what each is for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ranker_cases import BLOCKS, SEQUENTIAL, TOWERS, all_scores, interactions, shuffled, taken

from training.models.sequential import Sequential
from training.models.two_tower import TwoTower

WAYS = ("rows", "head", "pretrain", "fold-in")
USERS, NEWCOMERS, ITEMS = 30, 9, 12
OWNER = np.arange(USERS + NEWCOMERS)[:, None] % BLOCKS == np.arange(ITEMS)[None, :] % BLOCKS


def newcomers():
    """Blocks; the last users have synthetic rows alone, of half of the items of their block."""
    early = np.arange(ITEMS) < ITEMS // 2
    known = OWNER & ((np.arange(len(OWNER)) < USERS)[:, None] | early)
    pairs = shuffled(np.argwhere(known))
    return interactions(
        pairs, users=len(OWNER), items=ITEMS, synthetic=pairs[:, 0] >= USERS
    ), ~early


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ranker", [(TwoTower, TOWERS), (Sequential, SEQUENTIAL)])
def test_synthetic_rows_tell_what_else_a_newcomer_takes(ranker, way):
    kind, config = ranker
    data, unseen = newcomers()
    scores = all_scores(kind(replace(config, synthetic=way)), data)[USERS:, unseen]
    own = OWNER[USERS:, unseen]
    assert scores[own].mean() > scores[~own].mean() + 0.3


@pytest.mark.parametrize("way", ["head", "pretrain"])
def test_where_they_disagree_real_rows_have_the_last_word(way):
    real = np.argwhere(OWNER[:USERS])
    drawn = np.argwhere(np.roll(OWNER[:USERS], 1, axis=1))  # another block
    pairs = np.concatenate([real, drawn, drawn, drawn])
    synthetic = np.arange(len(pairs)) >= len(real)
    data = interactions(pairs, users=USERS, items=ITEMS, synthetic=synthetic)

    def lead(way):
        """By how much items of the real rows lie above those of the synthetic ones."""
        scores = all_scores(TwoTower(replace(TOWERS, synthetic=way)), data)
        return scores[OWNER[:USERS]].mean() - scores[np.roll(OWNER[:USERS], 1, axis=1)].mean()

    assert lead("rows") < 0 < lead(way)


@pytest.mark.parametrize("way", WAYS)
def test_without_synthetic_rows_all_ways_are_one(way):
    data, _ = newcomers()
    real = taken(data, np.flatnonzero(~data.is_synthetic))
    there = all_scores(TwoTower(replace(TOWERS, synthetic=way)), real)
    np.testing.assert_allclose(there, all_scores(TwoTower(TOWERS), real), atol=1e-4)


def test_faint_rows_hardly_pretrain():
    data, _ = newcomers()
    faint = replace(data, weights=np.where(data.is_synthetic, 1e-6, 1.0))
    without = taken(data, np.flatnonzero(~data.is_synthetic))
    pretrained, plain, full = (
        all_scores(TwoTower(replace(TOWERS, synthetic="pretrain")), rows)
        for rows in (faint, without, data)
    )
    np.testing.assert_allclose(pretrained, plain, atol=1e-3)
    assert abs(full[:USERS] - plain[:USERS]).max() > 0.01
