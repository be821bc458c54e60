"""Items that come after the training: matched by their features, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from neural_builds import DAY, TARGETS, translator, users_of

from scalr_ray.core.errors import DataError
from scalr_ray.translator.neural.translator import NeuralTranslator
from scalr_ray.translator.neural.widening import with_items
from scalr_ray.translator.protocol import log_likelihood

FEATURES = pa.table(
    {"kind": ["a", "b", "a", "b", "c", "c", "a"], "price": [1.0 * i for i in range(7)]}
)
# Codes are by id: one before all others, one between them, one behind.
NEW = pa.array([-3, 90, 91])
SERVED = pa.table({"kind": ["b", None, "never learnt"], "price": [4.0, None, 2.0]})
SINCE = np.array([5, 6, 7]) * DAY
USERS = users_of(
    [([(0, 1), (1, 2), (2, 5)], [(4, 3)]), ([(3, 4)], []), ([(5, 2), (1, 3)], [(1, 3), (2, 9)])]
)
# The same users under the codes of the wider vocabulary.
MOVED = replace(USERS, own=replace(USERS.own, items=USERS.own.items + 1))


def widened(model: NeuralTranslator) -> NeuralTranslator:
    return with_items(model, NEW, served=SERVED, first_seen=SINCE)


@pytest.fixture
def model() -> NeuralTranslator:
    return translator(item_features=FEATURES)


def vectors(model: NeuralTranslator) -> torch.Tensor:
    with torch.inference_mode():
        return model.net.item_vectors(
            torch.arange(len(model.target_items)), model.item_features
        ).clone()


def test_the_items_that_it_had_stay_as_they_were(model):
    wider = widened(model)
    assert wider.target_items.ids.to_pylist() == [-3, *range(TARGETS), 90, 91]
    old = slice(1, 1 + TARGETS)
    # To the last digit but one: a product of more rows may be added up in another order.
    torch.testing.assert_close(vectors(wider)[old], vectors(model), rtol=1e-6, atol=1e-6)
    assert wider.first_seen.tolist() == [SINCE[0], *model.first_seen.tolist(), *SINCE[1:]]
    assert np.array_equal(wider.log_prior[old], model.log_prior)
    assert torch.equal(wider.queries(MOVED), model.queries(USERS))
    # Without a prior the new items count for nothing yet.
    evidence, before = wider.evidence(MOVED), model.evidence(USERS)
    np.testing.assert_allclose(evidence[:, old], before, rtol=1e-5, atol=1e-5)
    assert len(model.target_items) == model.net.shape.target_items == TARGETS


def test_a_new_item_is_the_unknown_id_beside_its_features(model):
    wider = widened(model)
    spec = model.net.shape.item_features
    with torch.inference_mode():
        unknown = model.net.item_vectors(torch.full((3,), -1), spec.encode(SERVED))
    torch.testing.assert_close(vectors(wider)[[0, 8, 9]], unknown)
    assert np.isneginf(wider.log_prior[[0, 8, 9]]).all()


def test_an_unknown_id_that_training_never_met_says_nothing(model):
    shape = replace(model.net.shape, id_dropout=0.0)
    net = type(model.net)(shape)
    net.load_state_dict(model.net.state_dict())
    wider = widened(replace(model, net=net))
    with torch.inference_mode():
        told = net.item_features(shape.item_features.encode(SERVED))
    torch.testing.assert_close(vectors(wider)[[0, 8, 9]], told)


def test_with_a_prior_a_new_item_is_likely_like_any_other(model):
    wider = widened(model)
    share = np.full(len(wider.target_items), 1 / len(wider.target_items))
    likelihood = np.exp(log_likelihood(wider.with_prior(share), MOVED))
    np.testing.assert_allclose(likelihood.sum(axis=1), 1.0, rtol=1e-5)
    assert (likelihood[:, [0, 8, 9]] > 0).all()
    assert (likelihood[0, 1 + 4], likelihood[2, 1 + 1]) == (0.0, 0.0)  # what they own


def test_features_of_another_type_are_named(model):
    served = SERVED.set_column(1, "price", pa.array(["dear"] * 3))
    with pytest.raises(DataError, match="price"):
        with_items(model, NEW, served=served, first_seen=SINCE)
