from __future__ import annotations

import numpy as np
import torch
from neural_worlds import MIX

from scalr_ray.translator.neural.batch import Batch
from scalr_ray.translator.neural.candidates import Candidates, Catalogue
from scalr_ray.translator.neural.loss import log_likelihood
from scalr_ray.translator.prior import DAY_MICROS, PopularityIndex

ITEMS, QUERIES = 40, 24


def batch_of(wanted: np.ndarray, owned: np.ndarray, at: int = 10 * DAY_MICROS) -> Batch:
    queries, empty = len(wanted), torch.zeros(1, 1, dtype=torch.int64)
    return Batch(
        items=empty,
        sides=empty,
        types=empty,
        gaps=torch.zeros(1, 1),
        values=torch.zeros(1, 1, 2),
        query_rows=torch.zeros(queries, dtype=torch.int64),
        query_positions=torch.full((queries,), -1),
        query_gaps=torch.zeros(queries),
        query_times=torch.full((queries,), at),
        query_items=torch.from_numpy(wanted),
        owned=torch.from_numpy(owned),
    )


def catalogue(shares: np.ndarray, negatives: int) -> Catalogue:
    rng = np.random.default_rng(0)
    codes = np.concatenate((np.arange(ITEMS), rng.choice(ITEMS, 100, p=shares)))
    times = np.zeros(len(codes), dtype=np.int64)
    return Catalogue(
        prior=PopularityIndex.of(codes, times, times, items=ITEMS, mix=MIX),
        first_seen=np.zeros(ITEMS, dtype=np.int64),
        shares=shares,
        negatives=negatives,
    )


def likelihood(match: torch.Tensor, candidates: Candidates) -> torch.Tensor:
    values, visible = log_likelihood(match[:, candidates.items], candidates)
    assert bool(visible.all())
    return values


def test_the_normaliser_of_drawn_candidates_is_unbiased():
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.ones(ITEMS))
    match = torch.from_numpy(rng.normal(size=(QUERIES, ITEMS)).astype(np.float32))
    owned = np.array([[0, 0, 1], [3, 4, 5]])
    wanted = rng.choice(np.arange(10, ITEMS), QUERIES)
    full = catalogue(shares, 0).candidates(batch_of(wanted, owned), 0)
    exact = -likelihood(match, full)
    drawn = catalogue(shares, 16)
    ratios = []
    for seed in range(1500):
        # The first query stays; the others of its batch are draws by share.
        others = np.concatenate((wanted[:1], rng.choice(ITEMS, QUERIES - 1, p=shares)))
        candidates = drawn.candidates(batch_of(others, owned[:, :2]), seed)
        value = -likelihood(match[:1].expand(QUERIES, -1), candidates)[0]
        ratios.append(float((value - exact[0]).exp()))
    error = np.std(ratios) / len(ratios) ** 0.5
    assert error < 0.01
    assert abs(np.mean(ratios) - 1.0) < 4 * error


def test_drawing_everything_often_comes_close_to_the_full_softmax():
    rng = np.random.default_rng(2)
    shares = np.full(ITEMS, 1 / ITEMS)
    match = torch.from_numpy(rng.normal(size=(QUERIES, ITEMS)).astype(np.float32))
    batch = batch_of(rng.integers(0, ITEMS, QUERIES), np.zeros((2, 0), dtype=np.int64))
    exact = likelihood(match, catalogue(shares, 0).candidates(batch, 0))
    near = likelihood(match, catalogue(shares, 40_000).candidates(batch, 0))
    assert torch.allclose(exact, near, atol=0.05)


def test_what_the_user_owns_is_no_candidate():
    match = torch.zeros(1, ITEMS)
    shares = np.full(ITEMS, 1 / ITEMS)
    wanted = np.array([7])
    free = batch_of(wanted, np.zeros((2, 0), dtype=np.int64))
    owner = batch_of(wanted, np.array([[0] * 5, [0, 1, 2, 3, 4]]))
    for negatives in (0, 5_000):
        source = catalogue(shares, negatives)
        among_all = likelihood(match, source.candidates(free, 0))
        among_rest = likelihood(match, source.candidates(owner, 0))
        assert bool((among_rest > among_all).all())


def test_an_item_that_nobody_knew_yet_does_not_count():
    source = catalogue(np.full(ITEMS, 1 / ITEMS), 0)
    batch = batch_of(np.array([3, 4]), np.zeros((2, 0), dtype=np.int64), at=-DAY_MICROS)
    candidates = source.candidates(batch, 0)
    match = torch.zeros(2, ITEMS, requires_grad=True)
    values, visible = log_likelihood(match, candidates)
    values.sum().backward()
    assert not visible.any()
    assert values.tolist() == [0.0, 0.0]
    assert match.grad is not None
    assert torch.isfinite(match.grad).all()


def test_the_draw_depends_on_the_seed_alone():
    source = catalogue(np.full(ITEMS, 1 / ITEMS), 8)
    batch = batch_of(np.array([3, 4]), np.zeros((2, 0), dtype=np.int64))
    one, again, other = (source.candidates(batch, seed).items.tolist() for seed in (1, 1, 2))
    assert one == again
    assert one != other
