"""What users choose: one item per visit, from affinity times the popularity of the day.

A user has each item once at most, so a choice is drawn from the items they do not have yet. Draws
are keyed by user and slot: they are the same whatever else changes in the world.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.keyed import keyed_uniform, stream_seed
from scalr_ray.simulate.catalogue import Catalogue
from scalr_ray.simulate.visits import Visits

_USERS_PER_CHUNK = 256  # keeps the matrices of a step near the processor


def choose_items(
    seed: int, catalogue: Catalogue, tastes: NDArray[np.float64], visits: Visits
) -> NDArray[np.int64]:
    """The index of the item chosen at each visit, (E,).

    Args:
        seed: of the world.
        catalogue: of the domain.
        tastes: (U, L), of all users of the world.
        visits: sorted by user and time.
    """
    stream = stream_seed(seed, "choice", catalogue.domain)
    counts = np.bincount(visits.user, minlength=len(tastes))
    first = np.cumsum(counts) - counts
    busiest_first = np.argsort(-counts, kind="stable")
    day = visits.day
    chosen = np.zeros(len(visits.user), dtype=np.int64)
    for begin in range(0, len(tastes), _USERS_PER_CHUNK):
        users = busiest_first[begin : begin + _USERS_PER_CHUNK]
        wanted = catalogue.affinity(tastes[users])
        for slot in range(counts[users[0]]):
            active = int(np.searchsorted(-counts[users], -slot, side="left"))
            events = first[users[:active]] + slot
            weight = wanted[:active] * catalogue.popularity[day[events]]
            picked = _pick(weight, keyed_uniform(stream, users[:active], slot))
            wanted[np.arange(active), picked] = 0.0  # owned from now on
            chosen[events] = picked
    return chosen


def _pick(weight: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """One column per row, with probability proportional to its weight (inverse distribution)."""
    cumulative = np.cumsum(weight, axis=1)
    threshold = uniform * cumulative[:, -1]
    return np.asarray((cumulative <= threshold[:, None]).sum(axis=1), dtype=np.int64)
