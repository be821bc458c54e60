"""Ranking metrics against oracles written in plain Python."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.core.errors import DataError
from training import metrics
from training.metrics import (
    NO_ITEM,
    coverage_at_k,
    gini_at_k,
    mrr_at_k,
    ndcg_at_k,
    novelty_at_k,
    recall_at_k,
    top_k,
)


@st.composite
def rankings(draw):
    items = draw(st.integers(1, 12))
    k = draw(st.integers(1, 14))
    relevant, top = [], []
    for _ in range(draw(st.integers(1, 6))):
        relevant.append(draw(st.sets(st.integers(0, items - 1), min_size=1)))
        order = draw(st.permutations(range(items)))
        length = draw(st.integers(0, min(k, items)))
        top.append([*order[:length], *[NO_ITEM] * (k - length)])
    matrix = np.zeros((len(relevant), items), dtype=bool)
    for user, wanted in enumerate(relevant):
        matrix[user, list(wanted)] = True
    return np.array(top, dtype=np.int64), relevant, sp.csr_matrix(matrix)


def oracle_ndcg(top, wanted):
    gain = sum(1 / math.log2(rank + 1) for rank, item in enumerate(top, 1) if item in wanted)
    return gain / sum(1 / math.log2(r + 1) for r in range(1, min(len(wanted), len(top)) + 1))


@given(rankings())
def test_ndcg_equals_its_definition(case):
    top, relevant, matrix = case
    expected = [
        oracle_ndcg(row, wanted) for row, wanted in zip(top.tolist(), relevant, strict=True)
    ]
    np.testing.assert_allclose(ndcg_at_k(top, matrix), expected, rtol=1e-12)


@given(rankings())
def test_recall_is_the_share_of_all_relevant_items(case):
    top, relevant, matrix = case
    expected = [
        len(set(row) & wanted) / len(wanted)
        for row, wanted in zip(top.tolist(), relevant, strict=True)
    ]
    np.testing.assert_allclose(recall_at_k(top, matrix), expected, rtol=1e-12)


@given(rankings())
def test_mrr_is_one_over_the_rank_of_the_first_hit(case):
    top, relevant, matrix = case
    expected = [
        max((1 / rank for rank, item in enumerate(row, 1) if item in wanted), default=0.0)
        for row, wanted in zip(top.tolist(), relevant, strict=True)
    ]
    np.testing.assert_allclose(mrr_at_k(top, matrix), expected, rtol=1e-12)


@given(rankings(), st.integers(0, 5))
def test_gini_compares_every_pair_of_items(case, unseen):
    top, _, matrix = case
    size = matrix.shape[1] + unseen
    counts = [int((top == item).sum()) for item in range(size)]
    if not sum(counts):
        with pytest.raises(DataError, match="recommended"):
            gini_at_k(top, size)
        return
    apart = sum(abs(one - other) for one in counts for other in counts)
    assert gini_at_k(top, size) == pytest.approx(apart / (2 * size * sum(counts)))


@given(rankings(), st.integers(0, 2**32 - 1))
def test_novelty_is_the_mean_self_information(case, seed):
    top, _, matrix = case
    shares = np.random.default_rng(seed).dirichlet(np.ones(matrix.shape[1]))
    bits = [-math.log2(shares[item]) for row in top.tolist() for item in row if item != NO_ITEM]
    if bits:
        assert novelty_at_k(top, shares) == pytest.approx(sum(bits) / len(bits))


def test_novelty_wants_a_share_of_every_recommended_item():
    with pytest.raises(DataError, match="share above 0"):
        novelty_at_k(np.array([[0, 1]]), np.array([1.0, 0.0]))


@given(rankings())
def test_coverage_counts_each_recommended_item_once(case):
    top, _, matrix = case
    distinct = {item for row in top.tolist() for item in row if item != NO_ITEM}
    assert coverage_at_k(top, matrix.shape[1]) == len(distinct) / matrix.shape[1]


@st.composite
def scored(draw):
    users, items = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    # Few distinct values make ties the rule rather than the exception.
    value = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 2.0, math.inf])
    scores = [[draw(value) for _ in range(items)] for _ in range(users)]
    mask = st.lists(st.booleans(), min_size=items, max_size=items)
    excluded = [draw(mask) for _ in range(users)]
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return np.array(scores, dtype=dtype), np.array(excluded), np.array(draw(mask))


@given(scored(), st.integers(1, 12))
def test_top_k_equals_a_full_sort_with_ties_by_code(case, k):
    scores, excluded, rankable = case
    before = scores.copy()
    expected = []
    for user in range(len(scores)):
        allowed = [
            item
            for item in range(scores.shape[1])
            if rankable[item] and not excluded[user, item] and scores[user, item] > -math.inf
        ]
        best = sorted(allowed, key=lambda item, user=user: (-scores[user, item], item))[:k]
        expected.append(best + [NO_ITEM] * (k - len(best)))
    ranked = top_k(scores, k, excluded=sp.csr_matrix(excluded), rankable=rankable)
    assert ranked.tolist() == expected
    np.testing.assert_array_equal(scores, before)


def test_top_k_does_not_depend_on_how_users_are_chunked(monkeypatch):
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, (23, 40)).astype(np.float32)
    excluded = sp.csr_matrix(rng.random((23, 40)) < 0.2)
    rankable = rng.random(40) < 0.8
    whole = top_k(scores, 7, excluded=excluded, rankable=rankable)
    monkeypatch.setattr(metrics, "_BLOCK_CELLS", 100)
    np.testing.assert_array_equal(top_k(scores, 7, excluded=excluded, rankable=rankable), whole)


def test_stored_false_entries_neither_exclude_nor_count_as_relevant():
    stored = sp.csr_matrix((np.array([False, True]), ([0, 0], [0, 1])), shape=(1, 3))
    everything = np.ones(3, dtype=bool)
    assert top_k(np.ones((1, 3)), 3, excluded=stored, rankable=everything).tolist() == [[0, 2, -1]]
    assert recall_at_k(np.array([[0, 1]]), stored).tolist() == [1.0]


def test_the_docstring_examples_hold():
    assert doctest.testmod(metrics).failed == 0
    assert doctest.testmod(metrics).attempted >= 5


def test_a_user_without_relevant_items_is_named():
    relevant = sp.csr_matrix(np.array([[True, False], [False, False]]))
    for metric in (ndcg_at_k, recall_at_k):
        with pytest.raises(DataError, match="1 of 2 users have no relevant item"):
            metric(np.array([[0], [1]]), relevant)


def test_mismatched_or_meaningless_input_is_refused():
    relevant = sp.csr_matrix(np.array([[True, False]]))
    rankable = np.ones(2, dtype=bool)
    with pytest.raises(DataError, match="2 rankings were given for 1 users"):
        ndcg_at_k(np.array([[0], [1]]), relevant)
    with pytest.raises(DataError, match="NaN"):
        top_k(np.array([[np.nan, 1.0]]), 1, excluded=None, rankable=rankable)
    with pytest.raises(DataError, match="at least one place"):
        top_k(np.ones((1, 2)), 0, excluded=None, rankable=rankable)
    with pytest.raises(DataError, match="excluded or rankable"):
        top_k(np.ones((1, 2)), 1, excluded=None, rankable=np.ones(3, dtype=bool))
    with pytest.raises(DataError, match="2 items were recommended from 1"):
        coverage_at_k(np.array([[0, 1]]), 1)
