"""Pointwise metrics: what the probabilities of (user, item) pairs are worth.

Order is one thing, calibration another: a model that says everything twice as likely keeps its AUC
and is wrong by a factor of two. `normalised_entropy` judges both at once.

All functions take the pairs as columns: labels (N,), probabilities (N,) strictly between 0 and 1,
and weights (N,), finite and at least 0. Both labels must have weight, or `DataError` is raised.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.errors import DataError

Labels = NDArray[np.bool_]
Probabilities = NDArray[np.floating]
Weights = NDArray[np.float64]


def log_losses(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """The nats that each pair loses, (N,)."""
    exact = probabilities.astype(np.float64)
    inside = (exact > 0) & (exact < 1)
    if not inside.all():
        raise DataError(
            f"probabilities lie strictly between 0 and 1; one of these is {exact[~inside][0]}"
        )
    return np.asarray(-np.log(np.where(labels, exact, 1.0 - exact)))


def normalised_entropy(labels: Labels, probabilities: Probabilities, weights: Weights) -> float:
    """The weighted log loss over that of always saying the base rate (He et al. 2014), at least 0.

    Below 1, the probabilities know more than the base rate.

    Example:
        >>> labels = np.array([True, False, False, False])
        >>> normalised_entropy(labels, np.full(4, 0.25), np.ones(4))
        1.0
    """
    losses = log_losses(labels, probabilities)
    rate = _base_rate(labels, weights)
    return float((weights @ losses) / -(weights @ np.log(np.where(labels, rate, 1.0 - rate))))


def area_under_curve(labels: Labels, probabilities: Probabilities, weights: Weights) -> float:
    """The chance that a positive pair is said to be likelier than a negative one; ties are a half.

    Example:
        >>> labels = np.array([True, False, True, False])
        >>> area_under_curve(labels, np.array([0.9, 0.1, 0.4, 0.4]), np.ones(4))
        0.875
    """
    from sklearn.metrics import roc_auc_score

    _base_rate(labels, weights)
    return float(roc_auc_score(labels, probabilities, sample_weight=weights))


def calibration_ratio(labels: Labels, probabilities: Probabilities, weights: Weights) -> float:
    """What is predicted over what is observed, all in all: 1 is right, 2 says twice as much.

    Example:
        >>> calibration_ratio(np.array([True, False]), np.array([0.5, 0.25]), np.ones(2))
        0.75
    """
    _base_rate(labels, weights)
    return float((weights @ probabilities) / weights[labels].sum())


def expected_calibration_error(
    labels: Labels, probabilities: Probabilities, weights: Weights, *, bins: int = 20
) -> float:
    """The mean distance between predicted and observed rates, in bins of ascending probability.

    The bins are of about the same weight, so that small probabilities are told apart too; equal
    probabilities share one.

    Args:
        labels: which pairs were taken.
        probabilities: what was said of them.
        weights: how much each pair counts.
        bins: how many at most.

    Example:
        >>> labels = np.array([True, False, True, True])
        >>> said = np.array([0.25, 0.25, 0.75, 0.75])
        >>> expected_calibration_error(labels, said, np.ones(4), bins=2)
        0.25
    """
    _base_rate(labels, weights)
    distinct, place = np.unique(probabilities, return_inverse=True)
    mass = np.bincount(place, weights=weights, minlength=len(distinct))
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    of_pair = np.minimum((middle * bins).astype(np.int64), bins - 1)[place]
    surplus = weights * (labels - probabilities.astype(np.float64))
    return float(np.abs(np.bincount(of_pair, weights=surplus)).sum() / weights.sum())


def _base_rate(labels: Labels, weights: Weights) -> float:
    rate = float(np.average(labels, weights=weights)) if weights.any() else 0.0
    if not 0.0 < rate < 1.0:
        raise DataError("only one label has weight; the base rate predicts it perfectly")
    return rate
