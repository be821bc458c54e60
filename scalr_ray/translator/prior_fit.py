"""How recent the prior looks: the weights of its windows, from what they predict.

Legend: I target items, K windows, M outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.errors import TooLittleData
from scalr_ray.translator.prior_mix import MIN_ALL_TIME, PriorMix, check_windows

_TOLERANCE_NATS = 1e-7
_STEPS = 2_000


def fit_prior_mix(
    shares: NDArray[np.float64],
    *,
    windows_days: tuple[int | None, ...],
    mass: NDArray[np.float64] | None = None,
) -> PriorMix:
    """The weights that maximise the likelihood of outcomes, by expectation-maximisation.

    Maximises sum_m mass_m * log(sum_k weight_k * shares_km) over the mixtures in which all time
    weighs at least `MIN_ALL_TIME`. The problem is concave. A step is two rounds of
    expectation-maximisation (Dempster, Laird & Rubin 1977), or a leap along their direction where
    that is better still, so the likelihood never falls. The steps end when no mixture can be better
    by 1e-7 nats an outcome (after tens of them, on event logs), or after 2,000. Probabilities are
    over all items: what a user owns is not taken out, which matters little while users own few of
    the items.

    How the shares are taken decides what the weights are good for. Taken once, as of the start of a
    window of months, outcomes that lie months ahead give most of the weight to all time, and the
    head of the ranking goes stale. Taken for each outcome as of its own time
    (`PopularityIndex.window_shares`), they tell how long popularity lasts.

    Args:
        shares: (K, M) of each outcome's item in each window, as of when it is to be predicted; an
            outcome whose item is in no window is ignored.
        windows_days: (K,) ascending lengths, None (all time) the last.
        mass: (M,) how much each outcome counts; None counts all alike. With `window_shares` of the
            whole catalogue, M = I and mass is the number of outcomes on each item.

    Returns:
        The best mix.

    Raises:
        DataError: no outcome is on an item that was seen before.

    Example:
        >>> shares = np.array([[1.0, 0.0], [0.5, 0.5]])
        >>> mix = fit_prior_mix(shares, windows_days=(7, None), mass=np.array([3.0, 1.0]))
        >>> [round(weight, 3) for weight in mix.weights]
        [0.5, 0.5]
    """
    check_windows(windows_days)
    weight = np.ones(shares.shape[1]) if mass is None else mass.astype(np.float64)
    known = (shares.max(axis=0, initial=0.0) > 0) & (weight > 0)
    if not known.any():
        raise TooLittleData(
            "no outcome of the validation window is on an item that was seen before it; move the "
            "cuts or import more events"
        )
    # Mixing the floor into each window leaves weights that are free on the simplex.
    floored = (1.0 - MIN_ALL_TIME) * shares[:, known] + MIN_ALL_TIME * shares[-1, known]
    *_, (free, _) = _em(floored, weight[known] / weight[known].sum())
    weights = (1.0 - MIN_ALL_TIME) * free
    weights[-1] += MIN_ALL_TIME
    return PriorMix(windows_days=windows_days, weights=tuple(weights.tolist()))


def _em(
    shares: NDArray[np.float64], mass: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.float64], float]]:
    """The weights (K,) and their mean log-likelihood, step by step, from equal weights."""
    weights = np.full(len(shares), 1.0 / len(shares))
    for _ in range(_STEPS):
        value, slope = _likelihood(weights, shares, mass)
        yield weights, value
        # The function is concave and the weights sum to one, so no more than this is left to gain.
        if slope.max() - 1.0 < _TOLERANCE_NATS:
            return
        once = weights * slope
        twice = once * _likelihood(once, shares, mass)[1]
        leap = _leap(weights, once, twice)
        better = _likelihood(leap, shares, mass)[0] > _likelihood(twice, shares, mass)[0]
        weights = leap if better else twice


def _likelihood(
    weights: NDArray[np.float64], shares: NDArray[np.float64], mass: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """The mean log-likelihood and its slope along each weight (K,)."""
    mixed = weights @ shares
    return float(mass @ np.log(mixed)), shares @ (mass / mixed)


def _leap(
    start: NDArray[np.float64], once: NDArray[np.float64], twice: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where the direction of two steps leads (Varadhan & Roland 2008, scheme S3)."""
    change = once - start
    bend = twice - once - change
    length = float(np.sqrt(change @ change / np.maximum(bend @ bend, 1e-300)))
    # A weight of 0 could never rise again.
    ahead = np.maximum(start + 2.0 * length * change + length**2 * bend, 0.01 * twice)
    return np.asarray(ahead / ahead.sum())
