"""Finer segments: who is in which, what a planted lift shows, and how often chance shows one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from training.lift import ArmResult
from training.metrics import ndcg_at_k
from training.segments import Segment, segment_lifts, segments_of

USERS, ITEMS, K = 400, 60, 5
EVERYBODY = np.ones(USERS, dtype=bool)


def ranked(tops, relevant):
    return ArmResult.of(tops, relevant, ITEMS)


def drawn(random, *, good, relevant):
    """Rankings whose first item is right for the users in `good` (U,), else drawn by chance."""
    scores = random.random((USERS, ITEMS))
    right = relevant.indices[relevant.indptr[:-1]]
    scores[good, right[good]] = 2.0
    return np.argsort(-scores, axis=1)[:, :K]


def outcomes(random, per_user=2):
    cols = np.sort(random.random((USERS, ITEMS)).argsort(axis=1)[:, :per_user], axis=1)
    ones = np.ones(cols.size, dtype=np.float32)
    return sp.csr_matrix((ones, cols.ravel(), np.arange(USERS + 1) * per_user), (USERS, ITEMS))


def test_users_and_items_fall_into_their_segments():
    target = np.array([0, 1, 4, 5, 50, 0])
    source = np.array([1, 2, 3, 4, 5, 6])
    items = np.array([1, 6, 2, 0, 3, 0])  # thirds of twelve: the second; the fifth and third; rest
    relevant = sp.csr_matrix(np.eye(6, dtype=np.float32))
    found = segments_of(target, source, items, relevant)
    members = {name: np.flatnonzero(each.users).tolist() for name, each in found.items()}
    assert members == {
        "light users": [1, 2],
        "rich users": [3, 4],
        "low source activity": [0, 1],
        "medium source activity": [2, 3],
        "high source activity": [4, 5],
        "head items": [1],
        "torso items": [4],
        "tail items": [0, 2, 3, 5],
    }
    shares = [items[found[f"{name} items"].items].sum() for name in ("head", "torso", "tail")]
    assert shares == [6, 3, 3]
    assert found["head items"].items.sum() == 1


def test_every_user_and_item_is_in_one_of_the_thirds():
    random = np.random.default_rng(3)
    relevant = outcomes(random)
    counts = random.integers(0, 9, ITEMS)
    found = segments_of(
        random.integers(0, 9, USERS), random.integers(0, 4, USERS), counts, relevant
    )
    activity = [each.users for name, each in found.items() if name.endswith("activity")]
    assert (np.sum(activity, axis=0) == 1).all()
    groups = [each.items for each in found.values() if each.items is not None]
    assert (np.sum(groups, axis=0) == 1).all()


def test_only_outcomes_on_its_items_count_in_a_segment_of_items():
    random = np.random.default_rng(0)
    relevant = outcomes(random)
    top = drawn(random, good=EVERYBODY, relevant=relevant)
    arm, items = ranked([top], relevant), np.arange(ITEMS) < ITEMS // 2
    users = np.asarray(relevant[:, items].sum(axis=1)).ravel() > 0
    base = ranked([drawn(random, good=~EVERYBODY, relevant=relevant)], relevant)
    segment = {"first half": Segment(users=users, items=items)}
    found = segment_lifts(arm, base, base, relevant, segment, bootstrap=50, seed=0)
    counted = relevant.toarray() * items
    mine, theirs = (
        ndcg_at_k(each.top[0][users], sp.csr_matrix(counted[users])).mean() for each in (arm, base)
    )
    lift = found.segments["first half"]
    assert lift.users == users.sum()
    assert lift.over_real.estimate == pytest.approx(mine / theirs - 1)


def test_the_users_who_pay_for_a_gain_are_named():
    random = np.random.default_rng(1)
    relevant = outcomes(random)
    first = np.arange(USERS) < USERS // 2
    right_half = random.random(USERS) < 0.5
    real = ranked([drawn(random, good=right_half & ~first, relevant=relevant)], relevant)
    synthetic = ranked([drawn(random, good=first, relevant=relevant)], relevant)
    segments = {
        "light users": Segment(users=first),
        "rich users": Segment(users=~first),
        "a few": Segment(users=np.arange(USERS) < 49),
    }
    found = segment_lifts(synthetic, real, real, relevant, segments, bootstrap=300, seed=0)
    assert set(found.segments) == {"light users", "rich users"}
    assert found.harmed == ["rich users"]
    assert found.segments["light users"].over_placebo.low > 0
    assert found.level == pytest.approx(0.975)


def test_by_chance_some_segment_loses_in_few_of_many_null_worlds():
    random = np.random.default_rng(2)
    alarms = 0
    for seed in range(40):
        relevant = outcomes(random, per_user=4)
        right = random.random((2, USERS)) < 0.4
        arms = [ranked([drawn(random, good=good, relevant=relevant)], relevant) for good in right]
        segments = segments_of(
            random.integers(0, 9, USERS),
            random.integers(1, 30, USERS),
            random.integers(1, 9, ITEMS),
            relevant,
        )
        found = segment_lifts(*arms, arms[1], relevant, segments, bootstrap=300, seed=seed)
        assert len(found.segments) == 8
        alarms += bool(found.harmed)
    # 5 % over both sides, so a loss in one of 40; without the correction it would be 6 or more.
    assert alarms <= 4
