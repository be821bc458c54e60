from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from neural_builds import DAY, SOURCES, TARGETS, translator, users_of
from scipy import sparse

from scalr_ray.core.errors import DataError
from scalr_ray.translator.neural import best, scan
from scalr_ray.translator.neural.scan import Barred, ItemTable, Wanted
from scalr_ray.translator.protocol import as_prior
from scalr_ray.translator.shortlist import shortlist

events = st.lists(st.tuples(st.integers(0, SOURCES - 1), st.integers(1, 29)), max_size=4).map(
    lambda history: sorted(history, key=lambda event: event[1])
)
own = st.lists(st.tuples(st.integers(0, TARGETS - 1), st.integers(1, 29)), max_size=3).map(
    lambda history: sorted(history, key=lambda event: event[1])
)
masks = st.lists(st.booleans(), min_size=TARGETS, max_size=TARGETS).map(np.array)
people = st.lists(st.tuples(events, own, masks), min_size=1, max_size=6)


def by_hand(model, users, k, exponent, barred, allowed):
    """Items, evidence and log norm of each user, from the full matrix of evidence."""
    evidence = model.evidence(users).astype(np.float64)
    possible = allowed & np.isfinite(model.log_prior) & ~barred
    prior = model.log_prior.astype(np.float64)
    score = np.where(possible, prior + exponent * evidence, -np.inf)
    order = np.argsort(-score, axis=1, kind="stable")[:, :k]
    with np.errstate(divide="ignore"):
        likely = np.where(possible, np.exp((prior + model.alpha * evidence) / model.temperature), 0)
        return order, score, evidence, possible, np.log(likely.sum(axis=1))


@given(
    people,
    masks,
    masks,
    st.integers(1, TARGETS + 2),
    st.sampled_from([0.0, 0.1, 1.0, 2.5]),
    st.sampled_from([0.3, 1.0, 2.0]),
    st.sampled_from([0.5, 1.0, 1.7]),
)
def test_the_shortlist_is_that_of_the_full_matrix(
    histories, allowed, unknown, k, exponent, alpha, temperature
):
    model = translator().tuned(alpha=alpha, temperature=temperature)
    model = replace(model, log_prior=np.where(unknown, -np.inf, model.log_prior))
    if unknown.all():
        return  # without any prior there is no evidence to compare with
    users = users_of([history[:2] for history in histories])
    barred = np.stack([history[2] for history in histories])
    got = shortlist(
        model, users, k=k, exponent=exponent, barred=sparse.csr_matrix(barred), allowed=allowed
    )
    order, score, evidence, possible, norm = by_hand(model, users, k, exponent, barred, allowed)
    np.testing.assert_allclose(got.log_norm, norm, atol=2e-5)
    assert got.items.shape == got.evidence.shape == (len(users), min(k, TARGETS))
    for row in range(len(users)):
        items = got.items[row]
        if k >= TARGETS:
            assert items.tolist() == np.where(possible[row], np.arange(TARGETS), -1).tolist()
        else:
            count = min(k, possible[row].sum())
            assert (items[count:] == -1).all()
            # Scores that a float32 cannot tell apart may change places.
            expected = score[row, order[row, :count]]
            np.testing.assert_allclose(score[row, items[:count]], expected, atol=2e-5)
            assert len(set(items[:count].tolist())) == count
        listed = items >= 0
        np.testing.assert_allclose(
            got.evidence[row, listed], evidence[row, items[listed]], atol=5e-5
        )
        assert not got.evidence[row, ~listed].any()


class Random:
    """Queries and items without a net, more of both than fit a block."""

    def __init__(self, users, items, width, *, levels=0, seed=0):
        draw = torch.Generator().manual_seed(seed)
        self.queries = torch.randn(users, width, generator=draw) * 0.7
        vectors = torch.randn(items, width, generator=draw)
        if levels:  # so few different items and whole numbers that many scores are equal
            self.queries = self.queries.round()
            vectors = vectors.round()[torch.randint(levels, (items,), generator=draw)]
        prior = -torch.rand(items, generator=draw) * 4
        prior = prior.round() if levels else prior
        self.queries = torch.nn.functional.pad(self.queries, (0, 1), value=1.0)
        self.table = ItemTable(vectors=torch.cat((vectors, prior[:, None]), dim=1))
        self.allowed = torch.rand(items, generator=draw) < 0.9
        self.barred = torch.rand(users, items, generator=draw) < 0.05

    def scan(self, k, exponent=1.0, alpha=0.8, temperature=1.3):
        wanted = Wanted(
            k=k, exponent=exponent, alpha=alpha, temperature=temperature, allowed=self.allowed
        )
        items, rows = torch.nonzero(self.barred.T, as_tuple=True)
        return scan.scan(self.queries, self.table, wanted, Barred(rows=rows, items=items))

    def scores(self, exponent):
        match = self.queries[:, :-1].double() @ self.table.vectors[:, :-1].T.double()
        scores = self.table.log_prior.double() + exponent * match
        return match, scores.masked_fill(~self.allowed | self.barred, -torch.inf)


@pytest.fixture
def _small_blocks(monkeypatch):
    monkeypatch.setattr(scan, "_CPU_BLOCK", (8, 48))


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("k", [1, 5, 60, 700, 1000])
@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("levels", [0, 3, 40])
def test_many_chunks_give_the_items_of_a_full_sort(k, exponent, levels):
    world = Random(20, 1000, 8, levels=levels)
    found = world.scan(k, exponent)
    match, scores = world.scores(exponent)
    expected = scores.sort(dim=1, descending=True, stable=True)
    possible = expected.values[:, :k] > -torch.inf
    assert torch.equal(found.items >= 0, possible)
    if levels:  # whole numbers are exact: equal scores go by position
        if exponent != 0.6:
            assert torch.equal(found.items[possible], expected.indices[:, :k][possible])
    else:
        assert (found.items == expected.indices[:, :k])[possible].float().mean() > 0.999
    prior = world.table.log_prior.double()
    shift = (match + prior).logsumexp(1) - prior.logsumexp(0)
    listed = (match - shift[:, None]).gather(1, found.items.clamp(min=0))
    assert torch.allclose(found.evidence[possible].double(), listed[possible], atol=1e-4)
    likely = (prior + 0.8 * (match - shift[:, None])) / 1.3
    norm = likely.masked_fill(~world.allowed | world.barred, -torch.inf).logsumexp(1)
    assert torch.allclose(found.log_norm.double(), norm, atol=1e-5)


@pytest.mark.usefixtures("_small_blocks")
def test_a_sample_that_promised_too_much_does_no_harm(monkeypatch):
    world = Random(6, 1000, 8)
    expected = world.scan(100)
    promised = scan._threshold

    def too_high(*asked):
        least = promised(*asked)
        least[::2] += 1.0
        return least

    monkeypatch.setattr(scan, "_threshold", too_high)
    found = world.scan(100)
    assert torch.equal(found.items, expected.items)
    assert torch.allclose(found.evidence, expected.evidence)


@pytest.mark.usefixtures("_small_blocks")
def test_lists_that_run_full_keep_the_best(monkeypatch):
    world = Random(6, 4000, 8)
    expected = world.scan(50)
    monkeypatch.setattr(scan, "room", lambda _, k: k)
    monkeypatch.setattr(best, "room", lambda _, k: k)
    assert torch.equal(world.scan(50).items, expected.items)


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=2))
@example([0.0, -0.0, 1.0])
def test_keys_sort_like_the_score_then_the_lower_item(values):
    scores, items = torch.tensor(values), torch.arange(len(values))
    keys = best.sort_keys(scores, items)
    by_key = sorted(range(len(values)), key=lambda at: -int(keys[at]))
    assert by_key == sorted(range(len(values)), key=lambda at: (-values[at], at))
    assert torch.equal(best._values(keys), scores + 0.0)


def test_scores_far_apart_neither_overflow_nor_vanish():
    world = Random(2, 300, 4)
    world.table.vectors[:, -1] -= 2000.0
    world.table.vectors[-1, -1] = 0.0
    world.allowed[-1] = False
    found = world.scan(10, alpha=1.0, temperature=1.0)
    match, scores = world.scores(1.0)
    prior = world.table.log_prior.double()
    shift = (match + prior).logsumexp(1) - prior.logsumexp(0)
    assert torch.allclose(found.log_norm.double(), scores.logsumexp(1) - shift, atol=1e-2)


def test_items_older_than_any_class_are_told_by_their_age():
    model = translator()
    old = replace(model, first_seen=model.first_seen - 20_000 * DAY)
    users = users_of([([(0, 1)], []), ([(1, 2), (2, 3)], [(4, 5)])])
    nobody = sparse.csr_matrix((2, TARGETS))
    everything = np.ones(TARGETS, dtype=bool)
    asked = {"k": TARGETS, "exponent": 1.0, "barred": nobody, "allowed": everything}
    for one in (model, old):
        got = shortlist(one, users, **asked).evidence
        np.testing.assert_allclose(got, one.evidence(users), atol=2e-5)
    assert not np.allclose(old.evidence(users), model.evidence(users), atol=1e-3)


@pytest.fixture
def asked():
    return {
        "users": users_of([([(0, 1)], []), ([(1, 2), (2, 3)], [(4, 5)])]),
        "k": 3,
        "exponent": 1.0,
        "barred": sparse.csr_matrix((2, TARGETS)),
        "allowed": np.ones(TARGETS, dtype=bool),
    }


def test_a_net_of_no_numbers_is_refused(asked):
    model = translator()
    with torch.no_grad():
        model.net.target_table.weight[3, 0] = torch.nan
    with pytest.raises(DataError, match=r"neural translator .* run `scalr train` again"):
        shortlist(model, **asked)
    assert np.isfinite(shortlist(as_prior(model), **asked).log_norm).all()


@pytest.mark.parametrize("k", [3, TARGETS])
def test_where_nothing_is_allowed_nothing_is_listed(asked, k):
    got = shortlist(translator(), **{**asked, "k": k, "allowed": np.zeros(TARGETS, dtype=bool)})
    assert (got.items == -1).all()
    assert np.isneginf(got.log_norm).all()


def test_a_translator_survives_a_copy_to_another_process_or_device(asked):
    model = translator()
    expected = shortlist(model, **asked)
    copies = [pickle.loads(pickle.dumps(model)), model.on("cpu")]  # noqa: S301
    assert model._known
    assert not copies[0]._known
    for copied in copies:
        assert copied.net is not model.net
        assert copied.device == torch.device("cpu")
        got = shortlist(copied, **asked)
        assert np.array_equal(got.items, expected.items)
        assert np.array_equal(got.log_norm, expected.log_norm)
