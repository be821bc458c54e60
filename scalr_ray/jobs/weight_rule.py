"""How much a synthetic event counts: the rule by which a validation window chooses it.

A weight under which users with history lose at all, surely or not, is out: when only sure losses
were, a ranker was given a weight that cost such users 22 % of their NDCG later, and an event is for
users without history. Of the rest the least is taken that is as good as the best: what lies within
a standard error of it is no evidence for more weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_LEAST_USERS = 2
_Z_95 = 1.959964

Weight = TypeVar("Weight")


def least_harmless(
    gains: Mapping[Weight, NDArray[np.float64]],
    warm: NDArray[np.bool_],
    *,
    surely: bool = False,
) -> Weight | None:
    """The first weight that harms no warm users and is not worse than the best of these.

    Worse is what lies behind the best by more than the standard error of their paired difference.

    Args:
        gains: by weight, the least first: (B,) gain of each user over real events alone, nats.
        warm: (B,) who must not lose on average; fewer than two users are not asked, nor is anybody
            where a model leaves the scores of these users as they are.
        surely: only a loss whose 95 % interval lies below zero counts as one.

    Returns:
        None where warm users lose under every weight.
    """
    allowed = harmless(gains, warm, surely=surely)
    if not allowed:
        return None
    best = max(allowed.values(), key=lambda gain: float(gain.mean()))
    return next(weight for weight, gain in allowed.items() if not _lose(gain - best, 1.0))


def harmless(
    gains: Mapping[Weight, NDArray[np.float64]],
    warm: NDArray[np.bool_],
    *,
    surely: bool = False,
) -> dict[Weight, NDArray[np.float64]]:
    """The gains under which warm users do not lose; the arguments are those of `least_harmless`."""
    asked = warm.sum() >= _LEAST_USERS
    slack = _Z_95 if surely else 0.0
    return {
        weight: gain for weight, gain in gains.items() if not asked or not _lose(gain[warm], slack)
    }


def _lose(gain: NDArray[np.float64], slack: float) -> bool:
    """Whether a mean lies below zero by more than `slack` standard errors, of one user by any."""
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
    return bool(gain.mean() + slack * error < 0)
