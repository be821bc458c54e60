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

Weight = TypeVar("Weight")


def least_harmless(
    gains: Mapping[Weight, NDArray[np.float64]], warm: NDArray[np.bool_]
) -> Weight | None:
    """The first weight that harms no warm users and is not worse than the best of these.

    Worse is what lies behind the best by more than the standard error of their paired difference.

    Args:
        gains: by weight, the least first: (B,) gain of each user over real events alone, nats.
        warm: (B,) who must not lose on average; fewer than two users are not asked, nor is anybody
            where a model leaves the scores of these users as they are.

    Returns:
        None where warm users lose under every weight.
    """
    asked = warm.sum() >= _LEAST_USERS
    harmless = {
        weight: gain for weight, gain in gains.items() if not asked or gain[warm].mean() >= 0
    }
    if not harmless:
        return None
    best = max(harmless.values(), key=lambda gain: float(gain.mean()))
    return next(weight for weight, gain in harmless.items() if not _behind(best - gain))


def _behind(gap: NDArray[np.float64]) -> bool:
    """Whether a mean gap is more than its standard error; of one user, whether there is any."""
    error = gap.std(ddof=1) / len(gap) ** 0.5 if len(gap) > 1 else 0.0
    return bool(gap.mean() > error)
