"""Negatives follow the prior, one after the other, whichever way they are found."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse, stats
from small_drawings import small_drawing, with_slots

from scalr_ray.core.keyed import id_keys
from scalr_ray.generate.kernel.draw import NEGATIVE_TYPE
from scalr_ray.generate.kernel.negatives import _by_inversion, draw_from_prior
from scalr_ray.generate.plan import known
from scalr_ray.translator import as_prior, log_likelihood

USERS = 20_000
DRAWING = small_drawing()


def draw(weights, *, out=(), wanted=2, users=USERS, seed=5):
    having = np.zeros((users, len(weights)), dtype=np.float32)
    having[:, list(out)] = 1.0
    row, item, propensity = draw_from_prior(
        np.array(weights, dtype=float),
        sparse.csr_matrix(having),
        wanted=np.full(users, wanted),
        user_keys=id_keys(pa.array(range(users))),
        item_keys=id_keys(pa.array(range(len(weights)))),
        seed=seed,
    )
    return row, item, propensity


def chances(weights, k):
    """{ordered k-tuple: probability} of drawing without replacement in proportion to `weights`."""
    found = {}
    for items in permutations(np.flatnonzero(weights).tolist(), k):
        chance, left = 1.0, sum(weights)
        for item in items:
            chance *= weights[item] / left
            left -= weights[item]
        found[items] = chance
    return found


def assert_follows(observed, expected):
    counts, total = Counter(observed), len(observed)
    assert counts.keys() <= expected.keys()
    wanted = np.array([share * total for share in expected.values()])
    found = np.array([counts[outcome] for outcome in expected])
    assert wanted.min() > 5
    assert stats.chisquare(found, wanted * total / wanted.sum()).pvalue > 1e-3


@pytest.mark.parametrize("most", [1000, 3])
def test_negatives_are_drawn_one_after_the_other_in_proportion_to_the_prior(most, monkeypatch):
    """Also where attempts run out for many users, and the rest is drawn by noise."""

    def limited(sums, user_keys, attempts, seed):
        return _by_inversion(sums, user_keys, min(attempts, most), seed)

    monkeypatch.setattr("scalr_ray.generate.kernel.negatives._by_inversion", limited)
    weights = [8, 0, 4, 2, 1, 3]
    users = 6000
    _, item, propensity = draw(weights, out=[2], wanted=2, users=users)
    left = [8, 0, 0, 2, 1, 3]
    assert_follows([tuple(pair) for pair in item.reshape(users, 2).tolist()], chances(left, 2))
    np.testing.assert_allclose(propensity, np.array(left)[item] / sum(left))


def test_all_that_is_left_is_drawn_however_unlikely():
    weights = [1.0, 1e-12, 1e-14, 0.0]
    row, item, propensity = draw(weights, out=[0], wanted=9, users=50)
    assert row.tolist() == [user for user in range(50) for _ in range(2)]
    assert (np.sort(item.reshape(50, 2)) == [1, 2]).all()
    assert (propensity <= 1).all()


def test_where_nothing_is_left_nothing_is_drawn():
    for out, wanted in ((range(4), 3), ((), 0)):
        row, item, propensity = draw([1, 2, 3, 4], out=out, wanted=wanted, users=9)
        assert len(row) == len(item) == len(propensity) == 0


def test_negatives_of_neighbouring_users_are_independent():
    _, item, _ = draw([1] * 4, wanted=1)
    pairs = {(a, b): 1 / 16 for a in range(4) for b in range(4)}
    assert_follows(list(zip(item[::2].tolist(), item[1::2].tolist(), strict=True)), pairs)


def negatives(drawn):
    return [row for row in drawn.to_pylist() if row["event_type"] == NEGATIVE_TYPE]


def test_negatives_change_nothing_about_the_events():
    with_them = DRAWING.draw(negatives=2)
    events = with_them.filter(pa.array(with_them["label"].to_numpy() == 1))
    assert events.equals(DRAWING.draw())


def test_likelihoods_of_negatives_are_the_translators_even_if_they_are_not_listed():
    drawn = DRAWING.draw(negatives=3, candidates=4)
    users = known(DRAWING.plan, DRAWING.settings.as_of)
    expected = log_likelihood(DRAWING.translator, users)
    alone = log_likelihood(as_prior(DRAWING.translator), users)
    row_of = {user: at for at, user in enumerate(DRAWING.plan["user_id"].to_pylist())}
    rows = negatives(drawn)
    assert len(rows) > 500
    for row in rows:
        at = row_of[row["user_id"]], row["item_code"]
        assert row["likelihood"] == pytest.approx(np.exp(expected[at]), rel=1e-4)
        assert row["log_lift"] == pytest.approx(expected[at] - alone[at], abs=1e-4)


def test_a_negative_shares_the_trigger_and_the_time_of_an_event_unless_its_item_came_later():
    drawn = DRAWING.draw(negatives=2)
    moments = {
        (row["user_id"], row["source_event_id"], row["event_timestamp"])
        for row in drawn.to_pylist()
        if row["label"] == 1
    }
    rows = negatives(drawn)
    later = 0
    for row in rows:
        moment = row["user_id"], row["source_event_id"], row["event_timestamp"]
        if moment not in moments:
            later += 1
            first_seen = DRAWING.translator.first_seen[row["item_code"]]
            assert row["event_timestamp"].timestamp() * 1e6 == pytest.approx(first_seen, abs=1)
    assert 0 < later < len(rows) / 2


def test_negatives_belong_to_accepted_events_alone():
    drawn = DRAWING.draw(negatives=2, likelihood_floor=0.15).to_pylist()
    accepted = Counter(row["user_id"] for row in drawn if row["label"] and not row["reason"])
    refused = {row["user_id"] for row in drawn} - accepted.keys()
    assert refused
    counts = Counter(row["user_id"] for row in drawn if not row["label"])
    assert counts == {user: 2 * number for user, number in accepted.items()}
    assert all(row["reason"] is None for row in drawn if not row["label"])


def test_users_without_slots_get_no_negatives():
    plan = with_slots(DRAWING.plan, [0] * len(DRAWING.plan))
    assert DRAWING.draw(plan, negatives=3).num_rows == 0
