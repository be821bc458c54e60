"""How recent the prior looks: the weights of its windows, from what they predict.

Legend: I target items, K windows, M outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.errors import DataError
from scalr_ray.translator.prior_mix import MIN_ALL_TIME, PriorMix, check_windows

_EM_TOLERANCE_NATS = 1e-7
_EM_STEPS = 20_000


def fit_prior_mix(
    shares: NDArray[np.float64],
    *,
    windows_days: tuple[int | None, ...],
    mass: NDArray[np.float64] | None = None,
) -> PriorMix:
    """The weights that maximise the likelihood of outcomes, by expectation-maximisation.

    Maximises sum_m mass_m * log(sum_k weight_k * shares_km) over the mixtures in which all time
    weighs at least `MIN_ALL_TIME`. The problem is concave, every step raises the likelihood
    (Dempster, Laird & Rubin 1977), and the steps end when no mixture can be better by more than
    1e-7 nats an outcome. Probabilities are over all items: what a user owns is not taken out, which
    matters little while users own few of the items.

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
        raise DataError(
            "no outcome of the validation window is on an item that was seen before it; move the "
            "cuts or import more events"
        )
    # Mixing the floor into each window leaves weights that are free on the simplex.
    floored = (1.0 - MIN_ALL_TIME) * shares[:, known] + MIN_ALL_TIME * shares[-1, known]
    *_, (free, _) = _em(floored, weight[known] / weight[known].sum())
    weights = (1.0 - MIN_ALL_TIME) * free
    weights[-1] = 1.0 - weights[:-1].sum()
    return PriorMix(windows_days=windows_days, weights=tuple(weights.tolist()))


def _em(
    shares: NDArray[np.float64], mass: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.float64], float]]:
    """The weights (K,) and their mean log-likelihood, step by step, from equal weights.

    The gain that is left is at most max_k g_k - 1, where g_k is the slope of the likelihood along
    weight k: the function is concave, and the weights sum to one.
    """
    weights = np.full(len(shares), 1.0 / len(shares))
    for _ in range(_EM_STEPS):
        mixed = weights @ shares
        yield weights, float(mass @ np.log(mixed))
        slope = shares @ (mass / mixed)
        if slope.max() - 1.0 < _EM_TOLERANCE_NATS:
            return
        weights = weights * slope
        weights /= weights.sum()
