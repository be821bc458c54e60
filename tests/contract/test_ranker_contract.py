"""What every ranker promises, whatever it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from ranker_cases import (
    BLOCKS,
    DAY_US,
    FADING,
    ITERATIVE,
    OVERFITTING,
    PERSONAL,
    PRIOR,
    RANKERS,
    all_scores,
    interactions,
    random_pairs,
    shuffled,
    taken,
)

from scalr_ray.core.errors import DataError, UsageError
from training.metrics import NO_ITEM
from training.models import Popularity, rank_users
from training.models.base import UNSEEN
from training.models.state import State


@pytest.fixture(params=RANKERS)
def ranker(request):
    return RANKERS[request.param]()


def test_items_that_all_users_take_rank_above_items_that_nobody_takes(ranker):
    pairs = [(user, item) for user in range(20) for item in range(5)] * 3
    scores = all_scores(ranker, interactions(shuffled(pairs), users=20, items=12))
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


@pytest.mark.parametrize("name", OVERFITTING)
def test_a_personal_ranker_overfits_a_planted_batch(name):
    owner = np.arange(12)[:, None] % BLOCKS == np.arange(9)[None, :] % BLOCKS
    scores = all_scores(RANKERS[name](), interactions(np.argwhere(owner), users=12, items=9))
    assert (scores[owner].reshape(12, 3).min(1) > scores[~owner].reshape(12, 6).max(1)).all()


def test_the_heavier_of_two_items_ranks_first(ranker):
    pairs = shuffled([(user, item) for user in range(12) for item in range(2)] * 6)
    for heavy in (0, 1):
        weights = [3.0 if item == heavy else 0.5 for _, item in pairs]
        scores = all_scores(ranker, interactions(pairs, users=13, items=2, weights=weights))
        assert (scores[:, heavy] > scores[:, 1 - heavy]).all()


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


@pytest.mark.parametrize("name", FADING)
def test_a_small_weight_is_nearly_no_row(name):
    ranker, pairs = RANKERS[name](), random_pairs(20, 15, 80)
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


@pytest.mark.parametrize("name", [name for name in PERSONAL if "pretrained" not in name])
def test_a_personal_ranker_learns_from_synthetic_rows(name):
    # Two of them: trees learn of a user's items what other users say.
    drawn = [(user, item) for user in (10, 11) for item in (4, 5)]
    pairs = [*[(user, item) for user in range(10) for item in range(4)], *drawn] * 3
    synthetic = [user >= 10 for user, _ in pairs]
    ranker = RANKERS[name]()
    scores = all_scores(ranker, interactions(pairs, users=12, items=8, synthetic=synthetic))
    for user in (10, 11):
        assert set(np.argsort(-scores[user])[:2].tolist()) == {4, 5}


@pytest.mark.parametrize("name", [name for name in RANKERS if "folded in" not in name])
def test_synthetic_rows_alone_are_enough_to_fit(name):
    data = interactions([(0, 0), (1, 1)], users=3, items=3, synthetic=[True, True])
    assert np.isfinite(all_scores(RANKERS[name](), data)).all()


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


def test_an_unseen_user_is_scored_like_one_without_rows(ranker):
    pairs = [(user, item) for user in range(10) for item in range(user % 4 + 1)]
    ranker.fit(interactions(pairs, users=11, items=5), seed=0)
    unseen, without_rows = ranker.scores(np.array([UNSEEN, 10]))
    np.testing.assert_array_equal(unseen, without_rows)


def test_a_kept_ranker_gives_the_same_scores(ranker, request, tmp_path):
    data = interactions(random_pairs(20, 15, 80), users=20, items=15)
    scores = all_scores(ranker, data)
    ranker.state().write(tmp_path / "ranker.safetensors")
    again = RANKERS[request.node.callspec.params["ranker"]]()
    again.restore(State.read(tmp_path / "ranker.safetensors"))
    np.testing.assert_array_equal(again.scores(np.arange(20)), scores)


def test_the_state_of_another_ranker_or_of_other_settings_is_refused(ranker):
    ranker.fit(interactions(random_pairs(20, 15, 80), users=20, items=15), seed=0)
    state = ranker.state()
    with pytest.raises(UsageError, match="of a ranker 'stranger'"):
        replace(state, kind="stranger").check(ranker.kind, ranker._config)
    with pytest.raises(UsageError, match="was kept with the settings"):
        ranker.restore(replace(state, settings="{}"))


@pytest.mark.parametrize("name", ITERATIVE)
def test_training_that_was_interrupted_goes_on_as_if_it_had_not_been(name, tmp_path):
    half = np.arange(80) % 2 == 0
    data = interactions(random_pairs(20, 15, 80), users=20, items=15, synthetic=half)
    states, kept = [], tmp_path / "ranker.safetensors"
    whole = RANKERS[name]()
    whole.fit(data, seed=3, checkpoint=states.append)
    assert len(states) > 2
    states[len(states) // 2].write(kept)
    resumed = RANKERS[name]()
    resumed.restore(State.read(kept))
    middle = resumed.scores(np.arange(20))
    left = []
    resumed.resume(data, checkpoint=left.append)
    assert len(left) == len(states) - len(states) // 2 - 1
    np.testing.assert_allclose(
        resumed.scores(np.arange(20)), whole.scores(np.arange(20)), rtol=1e-5, atol=1e-6
    )
    assert not np.array_equal(middle, whole.scores(np.arange(20)))


@pytest.mark.parametrize("name", ITERATIVE)
def test_going_on_with_other_rows_is_refused(name):
    data = interactions(random_pairs(20, 15, 80), users=20, items=15)
    ranker = RANKERS[name]()
    ranker.fit(data, seed=0)
    with pytest.raises(UsageError, match="these are others"):
        ranker.resume(taken(data, np.arange(79)))


def test_a_file_that_is_no_state_is_refused(tmp_path):
    (tmp_path / "ranker").write_bytes(b"not at all")
    with pytest.raises(DataError, match="is unreadable"):
        State.read(tmp_path / "ranker")
