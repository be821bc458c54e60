"""Implicit ALS against its own loss, minimised densely in double precision."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from scalr_ray.core.errors import UsageError
from training.models import IALS, IALSConfig, Interactions, PopularityConfig

CONFIG = IALSConfig(
    prior=PopularityConfig(as_of=datetime(2026, 3, 1, tzinfo=UTC)),
    factors=3,
    sweeps=200,
    regularisation=0.05,
    prior_weight=0.0,
)


def random_interactions(users, items, count, seed):
    random = np.random.default_rng(seed)
    cells = random.choice(users * items, size=count, replace=False)
    return Interactions(
        users=pa.array(range(users)),
        items=pa.array(range(items)),
        rows=cells // items,
        cols=cells % items,
        weights=random.uniform(0.2, 2, count),
        timestamps=np.zeros(count, dtype=np.int64),
        is_synthetic=np.zeros(count, dtype=bool),
    )


def dense_half(weights, y, config):
    """The exact minimum of the loss over one side, one dense solve per row."""
    mass = weights.sum(axis=1) + config.unobserved_weight * len(y)
    ridge = config.regularisation * mass**config.frequency_exponent
    gram = config.unobserved_weight * y.T @ y
    return np.stack(
        [
            np.linalg.solve(gram + (y.T * row) @ y + r * np.eye(y.shape[1]), y.T @ row)
            for row, r in zip(weights, ridge, strict=True)
        ]
    )


def loss(weights, x, y, config):
    scores = x @ y.T
    user_mass = weights.sum(axis=1) + config.unobserved_weight * len(y)
    item_mass = weights.sum(axis=0) + config.unobserved_weight * len(x)
    p = config.frequency_exponent
    penalty = user_mass**p @ (x**2).sum(axis=1) + item_mass**p @ (y**2).sum(axis=1)
    fit = (weights * (1 - scores) ** 2).sum() + config.unobserved_weight * (scores**2).sum()
    return fit + config.regularisation * penalty


def factors_of(data, config, seed):
    ranker = IALS(config)
    ranker.fit(data, seed=seed)
    return ranker._fitted[0].astype(float), ranker._fitted[1].astype(float)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_neither_side_can_be_improved_where_the_sweeps_end(seed, exponent):
    config = replace(CONFIG, frequency_exponent=exponent)
    data = random_interactions(14, 11, 50, seed)
    weights = data.matrix().toarray()
    x, y = factors_of(data, config, seed)
    best = loss(weights, x, y, config)
    assert best < 0.95 * weights.sum()
    assert loss(weights, dense_half(weights, y, config), y, config) == pytest.approx(best, 1e-5)
    assert loss(weights, x, dense_half(weights.T, x, config), config) == pytest.approx(best, 1e-5)


def test_more_sweeps_lower_the_loss():
    data = random_interactions(14, 11, 50, seed=0)
    weights = data.matrix().toarray()
    losses = [
        loss(weights, *factors_of(data, replace(CONFIG, sweeps=sweeps), 0), CONFIG)
        for sweeps in (1, 2, 4, 8, 16)
    ]
    assert losses == sorted(losses, reverse=True)


def test_what_has_no_rows_has_no_factors():
    data = random_interactions(14, 11, 50, seed=0)
    keep = (data.rows != 4) & (data.cols != 7)
    columns = ("rows", "cols", "weights", "timestamps", "is_synthetic")
    data = replace(data, **{name: getattr(data, name)[keep] for name in columns})
    x, y = factors_of(data, CONFIG, 0)
    assert not x[4].any()
    assert not y[7].any()
    assert x[3].any()
    assert y[6].any()


@pytest.mark.parametrize("field", ["factors", "sweeps", "unobserved_weight", "regularisation"])
def test_settings_that_cannot_be_solved_are_refused(field):
    with pytest.raises(UsageError, match=field):
        replace(CONFIG, **{field: 0})
