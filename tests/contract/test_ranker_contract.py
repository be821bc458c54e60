"""What every ranker promises, whatever it learns."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import DataError, UsageError
from training.metrics import NO_ITEM
from training.models import (
    IALS,
    IALSConfig,
    Interactions,
    Popularity,
    PopularityConfig,
    rank_users,
)

CUT = datetime(2026, 3, 1, tzinfo=UTC)
DAY_US = to_micros(datetime(1970, 1, 2, tzinfo=UTC))
BLOCKS = 3
PRIOR = PopularityConfig(as_of=CUT)

RANKERS = {
    "popularity": lambda: Popularity(PRIOR),
    "all-time popularity": lambda: Popularity(replace(PRIOR, window_days=None)),
    # As many factors as the planted blocks need: more would fit what is held out as absent.
    "ials": lambda: IALS(IALSConfig(prior=PRIOR, factors=BLOCKS)),
}
PERSONAL = ("ials",)


@pytest.fixture(params=RANKERS)
def ranker(request):
    return RANKERS[request.param]()


def interactions(pairs, *, users, items, weights=None, synthetic=None):
    """Rows at one instant per day before the cut, the first pair being the newest."""
    rows, cols = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    days = np.arange(len(rows)) % 30 + 1
    return Interactions(
        users=pa.array([f"u{code}" for code in range(users)]),
        items=pa.array([f"i{code}" for code in range(items)]),
        rows=rows,
        cols=cols,
        weights=np.ones(len(rows)) if weights is None else np.array(weights, dtype=np.float64),
        timestamps=to_micros(CUT) - days * DAY_US,
        is_synthetic=np.zeros(len(rows), dtype=bool) if synthetic is None else np.array(synthetic),
    )


def random_pairs(users, items, count, seed=0):
    random = np.random.default_rng(seed)
    cells = random.choice(users * items, size=count, replace=False)
    return np.stack([cells // items, cells % items], axis=1)


def taken(data, keep):
    """The rows of `data` at the places `keep`, repeated ones included."""
    columns = ("rows", "cols", "weights", "timestamps", "is_synthetic")
    return replace(data, **{name: getattr(data, name)[keep] for name in columns})


def all_scores(ranker, data, seed=0):
    ranker.fit(data, seed=seed)
    return ranker.scores(np.arange(data.shape[0]))


def test_items_that_all_users_take_rank_above_items_that_nobody_takes(ranker):
    pairs = [(user, item) for user in range(20) for item in range(5)]
    scores = all_scores(ranker, interactions(pairs, users=20, items=12))
    assert scores[:, :5].min() > scores[:, 5:].max()


@pytest.mark.parametrize("name", PERSONAL)
@pytest.mark.parametrize("seed", range(3))
def test_a_personal_ranker_completes_the_block_of_each_user(name, seed):
    users, items = 60, 30
    owner = np.arange(users)[:, None] % BLOCKS == np.arange(items)[None, :] % BLOCKS
    held_out = owner & (np.random.default_rng(seed).random(owner.shape) < 0.3)
    data = interactions(np.argwhere(owner & ~held_out), users=users, items=items)
    ranker = RANKERS[name]()
    ranker.fit(data, seed=seed)
    top = rank_users(
        ranker,
        np.arange(users),
        k=int(held_out.sum(axis=1).max()),
        known=sp.csr_matrix(owner & ~held_out),
        rankable=np.ones(items, dtype=bool),
    )
    for user in range(users):
        wanted = set(np.flatnonzero(held_out[user]).tolist())
        assert set(top[user, : len(wanted)].tolist()) == wanted


def test_weight_two_is_the_row_twice(ranker):
    data = interactions(
        random_pairs(20, 15, 80), users=20, items=15, synthetic=np.arange(80) % 2 == 0
    )
    heavy = np.arange(80) % 5 == 0
    doubled = replace(data, weights=np.where(heavy, 2.0, 1.0))
    twice = taken(data, np.r_[np.arange(80), np.flatnonzero(heavy)])
    np.testing.assert_array_equal(all_scores(ranker, doubled), all_scores(ranker, twice))


def test_weight_zero_is_no_row(ranker):
    data = interactions(
        random_pairs(20, 15, 80), users=20, items=15, synthetic=np.arange(80) % 2 == 0
    )
    gone = np.arange(80) % 4 == 0
    silenced = replace(data, weights=np.where(gone, 0.0, 1.0))
    absent = taken(data, np.flatnonzero(~gone))
    np.testing.assert_array_equal(all_scores(ranker, silenced), all_scores(ranker, absent))


def test_a_small_weight_is_nearly_no_row(ranker):
    pairs = random_pairs(20, 15, 80)
    data = interactions(pairs, users=20, items=15, synthetic=np.arange(80) >= 60)
    faint = replace(data, weights=np.where(data.is_synthetic, 1e-6, 1.0))
    without = all_scores(ranker, taken(data, np.arange(60)))
    np.testing.assert_allclose(all_scores(ranker, faint), without, atol=1e-3)


def test_users_and_items_without_rows_get_finite_scores(ranker):
    scores = all_scores(ranker, interactions([(0, 0), (1, 1)], users=6, items=9))
    assert scores.shape == (6, 9)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_a_user_without_rows_is_ranked_by_popularity(ranker):
    pairs = [(user, item) for user in range(10) for item in range(user % 4 + 1)]
    scores = all_scores(ranker, interactions(pairs, users=11, items=5))
    assert np.argsort(-scores[10]).tolist() == [0, 1, 2, 3, 4]


def test_the_seed_decides_everything(ranker):
    data = interactions(random_pairs(20, 15, 80), users=20, items=15)
    first = all_scores(ranker, data, seed=7).copy()
    all_scores(ranker, data, seed=8)
    np.testing.assert_array_equal(all_scores(ranker, data, seed=7), first)


def test_fitting_again_forgets_what_was_learnt_before(ranker):
    data = interactions(random_pairs(20, 15, 80), users=20, items=15)
    fresh = all_scores(ranker, data).copy()
    all_scores(ranker, interactions(random_pairs(9, 9, 30, seed=1), users=9, items=9))
    np.testing.assert_array_equal(all_scores(ranker, data), fresh)


def test_a_user_with_synthetic_rows_only_is_served(ranker):
    pairs = [*[(user, item) for user in range(10) for item in range(4)], (10, 4), (10, 5)]
    synthetic = [user == 10 for user, _ in pairs]
    scores = all_scores(ranker, interactions(pairs, users=11, items=8, synthetic=synthetic))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", PERSONAL)
def test_a_personal_ranker_learns_from_synthetic_rows(name):
    pairs = [*[(user, item) for user in range(10) for item in range(4)], (10, 4), (10, 5)]
    synthetic = [user == 10 for user, _ in pairs]
    ranker = RANKERS[name]()
    scores = all_scores(ranker, interactions(pairs, users=11, items=8, synthetic=synthetic))
    assert set(np.argsort(-scores[10])[:2].tolist()) == {4, 5}


def test_synthetic_rows_alone_are_enough_to_fit(ranker):
    data = interactions([(0, 0), (1, 1)], users=3, items=3, synthetic=[True, True])
    assert np.isfinite(all_scores(ranker, data)).all()


def test_nothing_to_learn_from_is_refused(ranker):
    with pytest.raises(DataError, match="no interactions"):
        ranker.fit(interactions([], users=3, items=3), seed=0)


def test_scores_before_fitting_are_refused(ranker):
    with pytest.raises(UsageError, match="fit"):
        ranker.scores(np.array([0]))


def test_users_are_scored_one_by_one_as_together(ranker):
    data = interactions(random_pairs(20, 15, 80), users=20, items=15)
    together = all_scores(ranker, data)
    one_by_one = np.concatenate([ranker.scores(np.array([user])) for user in range(20)])
    np.testing.assert_allclose(one_by_one, together, rtol=1e-5, atol=1e-6)


def test_a_ranking_leaves_out_known_and_unrankable_items(ranker):
    pairs = random_pairs(20, 15, 80)
    data = interactions(pairs, users=20, items=15)
    ranker.fit(data, seed=0)
    users = np.array([3, 1, 17])
    known = data.matrix()[users]
    rankable = np.arange(15) % 3 > 0
    top = rank_users(ranker, users, 15, known=known, rankable=rankable)
    for place in range(3):
        allowed = rankable & (known[[place]].toarray().ravel() == 0)
        listed = top[place][top[place] != NO_ITEM]
        assert sorted(listed.tolist()) == np.flatnonzero(allowed).tolist()


def test_a_ranking_does_not_depend_on_chunks(ranker, monkeypatch):
    data = interactions(random_pairs(20, 15, 80), users=20, items=15)
    ranker.fit(data, seed=0)
    ask = {"known": data.matrix(), "rankable": np.ones(15, dtype=bool)}
    whole = rank_users(ranker, np.arange(20), 5, **ask)
    monkeypatch.setattr("training.models.base._BLOCK_CELLS", 45)
    np.testing.assert_array_equal(rank_users(ranker, np.arange(20), 5, **ask), whole)


def test_known_items_of_other_users_are_refused(ranker):
    data = interactions(random_pairs(20, 15, 80), users=20, items=15)
    ranker.fit(data, seed=0)
    with pytest.raises(DataError, match="known"):
        rank_users(ranker, np.arange(3), 5, known=data.matrix(), rankable=np.ones(15, dtype=bool))


def test_a_prior_that_looks_back_a_day_forgets_older_rows():
    data = interactions([(0, 0), (1, 0), (2, 1), (3, 1), (4, 1)], users=5, items=2)
    stale = replace(data, timestamps=data.timestamps - 40 * DAY_US * (data.cols == 1))
    recent = all_scores(Popularity(replace(PRIOR, window_days=30)), stale)
    ever = all_scores(Popularity(replace(PRIOR, window_days=None)), stale)
    assert recent[0, 0] > recent[0, 1]
    assert ever[0, 0] < ever[0, 1]
