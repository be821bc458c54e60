"""The sequential ranker learns what follows what, in time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ranker_cases import PRIOR, SEQUENTIAL, all_scores, interactions

from scalr_ray.core.errors import UsageError
from training.models.sequential import Sequential, SequentialConfig, _placed

ITEMS, STEPS, USERS = 6, 8, 24


def ring():
    """Every user goes round, a row a day; the newest row is of the day before the cut."""
    pairs = [
        (user, (user + STEPS - step) % ITEMS) for user in range(USERS) for step in range(STEPS)
    ]
    data = interactions(pairs, users=USERS, items=ITEMS)
    days = np.tile(np.arange(STEPS) + 1, USERS)
    day_us = 86_400_000_000
    cut = data.timestamps[0] + day_us
    return replace(data, timestamps=cut - days * day_us)


def test_what_comes_next_ranks_first():
    data = ring()
    scores = all_scores(Sequential(replace(SEQUENTIAL, epochs=60)), data)
    newest = (np.arange(USERS) + STEPS) % ITEMS
    assert (scores.argmax(axis=1) == (newest + 1) % ITEMS).all()


def test_only_earlier_rows_speak():
    data = ring().merged()
    ranker = Sequential(SEQUENTIAL)
    ranker.fit(data, seed=0)
    net, last = ranker._net, STEPS
    users = net.user_mass.new_zeros(1).long()
    vectors = net._before(users, net._item_vectors(), net.times[users])
    net.history[0, -1] = (net.history[0, -1] + 1) % ITEMS
    changed = net._before(users, net._item_vectors(), net.times[users])
    assert bool((changed[0, -last:] == vectors[0, -last:]).all())
    net.history[0, -last] = (net.history[0, -last] + 1) % ITEMS
    changed = net._before(users, net._item_vectors(), net.times[users])
    assert not bool((changed[0, -1] == vectors[0, -1]).all())


def test_the_newest_rows_are_kept():
    data = ring().merged()
    placed = _placed(data, USERS, 3)
    newest = np.sort(data.timestamps[data.rows == 5])[-3:]
    np.testing.assert_array_equal(data.timestamps[placed[5]], newest)


def test_a_width_that_cannot_be_dealt_to_heads_is_refused():
    with pytest.raises(UsageError, match="a multiple of heads"):
        SequentialConfig(prior=PRIOR, width=9)
