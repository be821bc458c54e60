from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from neural_builds import DAY, SOURCES, translator, users_of
from scipy import sparse

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.neural.index import ItemIndex
from scalr_ray.translator.neural.net import TranslatorNet
from scalr_ray.translator.neural.translator import NeuralTranslator
from scalr_ray.translator.shortlist import shortlist

ITEMS, K = 20_000, 200


@pytest.fixture(scope="module")
def model() -> NeuralTranslator:
    """A catalogue of many items, the vectors of which lie around a few places."""
    small = translator()
    torch.manual_seed(1)
    net = TranslatorNet(replace(small.net.shape, target_items=ITEMS))
    weights = small.net.state_dict()
    places = torch.randn(30, net.shape.width)
    near = places[torch.randint(30, (ITEMS + 1,))]
    weights["target_table.weight"] = near + 0.5 * torch.randn(ITEMS + 1, net.shape.width)
    net.load_state_dict(weights)
    share = 1.0 / np.random.default_rng(0).permutation(np.arange(1, ITEMS + 1))
    log_prior = np.log(share / share.sum()).astype(np.float32)
    log_prior[::50] = -np.inf
    return replace(
        small,
        net=net,
        train_cutoff=datetime(1970, 1, 30, tzinfo=UTC),  # a day before it is asked
        target_items=Vocabulary(ids=pa.array(range(ITEMS))),
        log_prior=log_prior,
        first_seen=np.arange(ITEMS) % 30 * DAY,
        alpha=0.7,
        temperature=1.2,
    )


@pytest.fixture(scope="module")
def index(model):
    return ItemIndex.of(model)


@pytest.fixture(scope="module")
def users():
    draw = np.random.default_rng(2)
    return users_of(
        [
            ([(int(draw.integers(SOURCES)), at + 1) for at in range(draw.integers(1, 6))], [])
            for _ in range(40)
        ]
    )


@pytest.fixture(scope="module")
def asked(users):
    draw = np.random.default_rng(3)
    return {
        "k": K,
        "exponent": 1.3,
        "barred": sparse.csr_matrix(draw.random((len(users), ITEMS)) < 0.01),
        "allowed": draw.random(ITEMS) < 0.5,
    }


def test_most_of_the_best_items_are_found(index, users):
    assert 0.9 < index.recall(users, K) <= 1.0
    assert index.recall(users, 1) > 0.95


def test_scores_and_norms_are_close_to_the_exact_ones(model, index, users, asked):
    exact = shortlist(model, users, **asked)
    got = shortlist(model, users, **asked, index=index)
    assert got.items.shape == got.evidence.shape == (len(users), K)
    # Of each sum, what was not found is estimated.
    np.testing.assert_allclose(got.log_norm, exact.log_norm, atol=0.1)
    assert abs((got.log_norm - exact.log_norm).mean()) < 0.03
    evidence = model.evidence(users)
    shift = []
    for row in range(len(users)):
        items = got.items[row]
        assert (items >= 0).all()
        assert len(set(items.tolist())) == K
        assert asked["allowed"][items].all()
        assert np.isfinite(model.log_prior[items]).all()
        assert not asked["barred"][row, items].toarray().any()
        scores = model.log_prior[items] + 1.3 * got.evidence[row]
        assert (np.diff(scores) <= 1e-5).all()
        shift.append(got.evidence[row] - evidence[row, items])
    # Within a user, all evidence is off by the same: by what the normaliser is.
    np.testing.assert_allclose(np.ptp(shift, axis=1), 0.0, atol=1e-4)
    assert np.abs(shift).max() < 0.1


def test_the_same_users_get_the_same_whoever_stands_beside_them(model, index, users, asked):
    whole = shortlist(model, users, **asked, index=index)
    half = {**asked, "barred": asked["barred"][:20]}
    part = shortlist(model, users.part(0, 20), **half, index=index)
    assert (part.items == whole.items[:20]).mean() > 0.999
    np.testing.assert_allclose(part.log_norm, whole.log_norm[:20], atol=1e-5)


def test_the_whole_catalogue_is_listed_exactly(model, index, users, asked):
    some = users.part(0, 2)
    every = {**asked, "k": ITEMS, "barred": asked["barred"][:2]}
    got = shortlist(model, some, **every, index=index)
    expected = shortlist(model, some, **every)
    assert np.array_equal(got.items, expected.items)
    assert np.array_equal(got.evidence, expected.evidence)


def test_fewer_items_than_asked_for_leave_places_empty(model, index, users, asked):
    few = {**asked, "allowed": np.arange(ITEMS) < 100}
    got = shortlist(model, users, **few, index=index)
    exact = shortlist(model, users, **few)
    assert (got.items[:, 100:] == -1).all()
    assert not got.evidence[:, 100:].any()
    listed = [set(row[row >= 0].tolist()) for row in got.items]
    possible = [set(row[row >= 0].tolist()) for row in exact.items]
    assert all(some <= every for some, every in zip(listed, possible, strict=True))
    np.testing.assert_allclose(got.log_norm, exact.log_norm, atol=0.1)


def test_an_index_travels_to_another_process(model, index, users, asked):
    copied = pickle.loads(pickle.dumps(index))  # noqa: S301
    got = shortlist(copied.translator, users, **asked, index=copied)
    assert np.array_equal(got.items, shortlist(model, users, **asked, index=index).items)


def test_only_neural_translators_are_indexed(monkeypatch):
    class Frequency:
        kind = "frequency"

    with pytest.raises(UsageError, match="neural translators only"):
        ItemIndex.of(Frequency())
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match=r"pip install 'scalr\[faiss\]'"):
        ItemIndex.of(translator())


def test_a_net_of_no_numbers_is_refused(model, index, users, asked):
    broken = pickle.loads(pickle.dumps(model))  # noqa: S301
    with torch.no_grad():
        broken.net.query.weight[0] = torch.nan
    with pytest.raises(DataError, match="run `scalr train` again"):
        shortlist(broken, users, **asked, index=replace(index, translator=broken))
