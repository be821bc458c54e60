"""Validation compares with the whole catalogue, and holds the scores of a few queries at a time."""

from __future__ import annotations

import pytest
import torch
from planted_rows import flat_catalogue, planted_rows, small_shape
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scalr_ray.translator.neural import loss
from scalr_ray.translator.neural.candidates import Catalogue
from scalr_ray.translator.neural.loss import TEMPERATURES, log_likelihood_sums, tuned_log_likelihood
from scalr_ray.translator.neural.net import TranslatorNet

ITEMS = 2000
ROWS = planted_rows(users=40, tokens=6, queries=3, items=ITEMS, seed=0)
QUERIES = 120


class Largest(TorchDispatchMode):
    """Notes the most numbers that any tensor has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.fixture(scope="module")
def net() -> TranslatorNet:
    torch.manual_seed(0)
    return TranslatorNet(small_shape(ITEMS)).train()


@pytest.mark.parametrize("negatives", [0, 64])
@pytest.mark.parametrize("held", [1, 7 * ITEMS, 10**9])
def test_the_likelihood_is_the_same_whatever_is_held(net, monkeypatch, negatives, held):
    catalogue = flat_catalogue(ITEMS, negatives=negatives)
    tables = [ROWS.slice(0, 25), ROWS.slice(25)]
    whole, counted = log_likelihood_sums(net, tables, catalogue, TEMPERATURES)
    assert counted == QUERIES
    monkeypatch.setattr(loss, "_MOST_SCORES", held)
    parts = log_likelihood_sums(net, tables, catalogue, TEMPERATURES)
    assert parts == (pytest.approx(whole, rel=1e-6), QUERIES)
    assert net.training


def largest(net: TranslatorNet, catalogue: Catalogue) -> int:
    with Largest() as mode:
        tuned_log_likelihood(net, [ROWS], catalogue)
    return mode.numbers


def test_no_matrix_of_all_queries_and_items_is_made(net, monkeypatch):
    catalogue = flat_catalogue(ITEMS)
    assert largest(net, catalogue) == QUERIES * ITEMS
    monkeypatch.setattr(loss, "_MOST_SCORES", 10 * ITEMS)
    assert largest(net, catalogue) < QUERIES * ITEMS / 2
