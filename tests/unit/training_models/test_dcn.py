"""The cross network: probabilities of pairs, by normalised entropy and against what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ranker_cases import BLOCKS, CROSS, interactions

from scalr_ray.core.errors import UsageError
from training.models.dcn import DCN
from training.models.negatives import drawn_items
from training.pointwise import normalised_entropy

USERS, ITEMS = 60, 12


def blocks(seed):
    """Users take items of their block, two of which are taken three times as often."""
    random = np.random.default_rng(seed)
    shares = np.where(np.arange(ITEMS) < BLOCKS, 3.0, 1.0)
    owner = np.arange(USERS)[:, None] % BLOCKS == np.arange(ITEMS)[None, :] % BLOCKS
    odds = owner * shares
    pairs = [
        (user, int(item))
        for user in range(USERS)
        for item in random.choice(ITEMS, 8, p=odds[user] / odds[user].sum())
    ]
    return interactions(pairs, users=USERS, items=ITEMS), odds / odds.sum(axis=1, keepdims=True)


def judged(ranker, data, seed=1):
    """Normalised entropy on rows and their negatives, and predicted over observed."""
    items = drawn_items(data, np.arange(len(data.rows)), CROSS.negatives, seed)
    users = np.repeat(data.rows, items.shape[1])
    said = ranker.probabilities(users, items.ravel())
    labels = np.tile(np.arange(items.shape[1]) == 0, len(items))
    return normalised_entropy(labels, said, np.ones(len(said))), said.sum() / labels.sum()


def test_unseen_rows_are_predicted_better_than_by_the_base_rate_and_calibrated():
    ranker = DCN(CROSS)
    ranker.fit(blocks(0)[0], seed=0)
    entropy, ratio = judged(ranker, blocks(5)[0])
    assert entropy < 0.8  # the planted shares themselves give 0.61
    assert ratio == pytest.approx(1.0, abs=0.12)


def test_a_head_of_its_own_keeps_what_synthetic_rows_say_out_of_the_probabilities():
    real, _ = blocks(0)
    pairs = [*np.stack([real.rows, real.cols], axis=1), *[(user, 11) for user in range(USERS)] * 8]
    flags = np.arange(len(pairs)) >= len(real.rows)
    mixed = interactions(pairs, users=USERS, items=ITEMS, synthetic=flags)
    before, ratios = after_real_rows(real), {}
    for way in ("rows", "head"):
        ranker = DCN(replace(CROSS, synthetic=way))
        ranker.fit(mixed, seed=0)
        users = np.arange(USERS)
        ratios[way] = ranker.probabilities(users, np.full(USERS, 11)).mean() / before
    assert ratios["rows"] > 1.5
    assert ratios["head"] == pytest.approx(1.0, abs=0.15)


def after_real_rows(data):
    """The mean probability of item 11 after training on real rows alone."""
    ranker = DCN(CROSS)
    ranker.fit(data, seed=0)
    return ranker.probabilities(np.arange(USERS), np.full(USERS, 11)).mean()


def test_negatives_of_a_row_do_not_depend_on_other_rows():
    data, _ = blocks(0)
    every = drawn_items(data, np.arange(len(data.rows)), 4, 7)
    some = drawn_items(data, np.array([5, 9]), 4, 7)
    np.testing.assert_array_equal(some, every[[5, 9]])
    counts = np.bincount(every[:, 1:].ravel(), minlength=ITEMS)
    assert counts.min() > 0.7 * counts.mean()


def test_an_unknown_way_in_is_refused():
    with pytest.raises(UsageError, match="synthetic is 'tail'"):
        replace(CROSS, synthetic="tail")
