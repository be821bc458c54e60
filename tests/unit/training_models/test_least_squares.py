"""The conjugate gradients of one side against dense closed-form solutions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from training.models import least_squares
from training.models.least_squares import Side


@st.composite
def problems(draw):
    rows, others, factors = (draw(st.integers(1, size)) for size in (6, 7, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    observed = random.random((rows, others)) < draw(st.floats(0.1, 0.9))
    observed[np.arange(rows), random.integers(others, size=rows)] = True
    return {
        "weights": np.where(observed, random.uniform(0.01, 3, observed.shape), 0),
        "x": random.standard_normal((rows, factors)),
        "y": random.standard_normal((others, factors)) * draw(st.sampled_from([0.01, 1.0])),
        "unobserved_weight": draw(st.floats(0.01, 1)),
        "ridge": random.uniform(0.05, 2, rows),
    }


def closed_form(weights, y, unobserved_weight, ridge):
    """One dense solve per row, in the given basis."""
    gram = unobserved_weight * y.T @ y
    return np.stack(
        [
            np.linalg.solve(gram + (y.T * w) @ y + r * np.eye(y.shape[1]), y.T @ w)
            for w, r in zip(weights, ridge, strict=True)
        ]
    )


def side(problem):
    return Side(
        sp.csr_matrix(problem["weights"].astype(np.float32)),
        unobserved_weight=problem["unobserved_weight"],
        ridge=problem["ridge"].astype(np.float32),
    )


def solved(problem, steps):
    x, y = (problem[name].astype(np.float32) for name in ("x", "y"))
    return side(problem).solve(x, y, steps=steps)


@settings(deadline=None)
@given(problems())
def test_enough_steps_give_the_closed_form(problem):
    x, y = solved(problem, steps=30)
    exact = closed_form(
        problem["weights"], problem["y"], problem["unobserved_weight"], problem["ridge"]
    )
    np.testing.assert_allclose(x @ y.T, exact @ problem["y"].T, rtol=2e-3, atol=2e-4)


@settings(deadline=None)
@given(problems())
def test_as_many_steps_as_observations_are_exact(problem):
    longest = int(np.count_nonzero(problem["weights"], axis=1).max())
    few_x, few_y = solved(problem, steps=min(longest, problem["x"].shape[1]) + 1)
    exact = closed_form(
        problem["weights"], problem["y"], problem["unobserved_weight"], problem["ridge"]
    )
    np.testing.assert_allclose(few_x @ few_y.T, exact @ problem["y"].T, rtol=1e-2, atol=2e-3)


@settings(deadline=None)
@given(problems())
def test_the_new_basis_changes_no_score(problem):
    x, y = solved(problem, steps=0)
    np.testing.assert_allclose(x @ y.T, problem["x"] @ problem["y"].T, rtol=1e-4, atol=1e-4)


@settings(deadline=None)
@given(problems(), st.integers(1, 5))
def test_the_solution_does_not_depend_on_chunks(problem, observations):
    whole, _ = solved(problem, steps=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(least_squares, "_CHUNK_OBSERVATIONS", observations)
        pieces, _ = solved(problem, steps=3)
    np.testing.assert_allclose(pieces, whole, rtol=1e-5, atol=1e-6)


def test_a_row_that_is_solved_already_stays_where_it_is():
    problem = {
        "weights": np.array([[1.0, 0.0]]),
        "x": np.zeros((1, 2)),
        "y": np.zeros((2, 2)),
        "unobserved_weight": 0.1,
        "ridge": np.array([0.5]),
    }
    x, _ = solved(problem, steps=4)
    np.testing.assert_array_equal(x, np.zeros((1, 2)))
