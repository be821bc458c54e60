"""The table of directions names what is surely below the prior that it starts from."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from tests.bench.directions import Row, below, lifts
from training.lift import ArmResult

USERS = 60
SEGMENTS = {
    "all": np.ones(USERS, dtype=bool),
    "hidden": np.arange(USERS) < 30,
    "warm": np.arange(USERS) >= 30,
}
# Everybody takes item 0.
TAKEN = sparse.csr_matrix((np.ones(USERS), (np.arange(USERS), np.zeros(USERS, int))), (USERS, 4))


def ranked(places: np.ndarray) -> ArmResult:
    """The item that is taken stands at these places (U,), from 0."""
    others = np.array([1, 2, 3])
    top = np.stack([np.insert(others, place, 0)[:3] for place in places])
    return ArmResult.of([top], TAKEN, 4)


def row(places: np.ndarray, own: ArmResult | None) -> Row:
    likelihood = np.full(USERS, -1.0)
    return Row(
        name="counts",
        arm=ranked(places),
        likelihood=likelihood,
        raw=likelihood,
        bins=[],
        ece_before=0.0,
        own=own,
    )


def test_a_loss_on_one_segment_is_named_whatever_the_others_gain():
    prior = ranked(np.ones(USERS, int))
    loses_warm = np.where(SEGMENTS["warm"], 2, 0)
    assert below(row(loses_warm, prior), SEGMENTS) == ["counts on warm users"]
    found = lifts(ranked(loses_warm), prior, SEGMENTS)
    assert found["hidden"].low > 0 > found["warm"].high
    assert below(row(np.zeros(USERS, int), prior), SEGMENTS) == []
    every = ["counts on all users", "counts on hidden users", "counts on warm users"]
    assert below(row(np.full(USERS, 2), prior), SEGMENTS) == every


def test_what_is_unsure_is_not_named_and_a_prior_has_no_prior():
    prior = ranked(np.ones(USERS, int))
    unsure = np.where(np.arange(USERS) % 2 == 0, 0, 2)
    assert below(row(unsure, prior), SEGMENTS) == []
    assert below(row(np.full(USERS, 2), None), SEGMENTS) == []
