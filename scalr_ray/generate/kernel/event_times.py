"""What triggered a synthetic event, and when it happens.

The event time lies after the source event that triggered it, by a delay as observed between the
domains, at or after the first sighting of the item, and before the cut.

Legend: B users, N candidates, E source events.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.keyed import keyed_gumbel
from scalr_ray.translator.histories import Users
from scalr_ray.translator.protocol import Translator

# Source events that are weighed at a time: each of a user's candidates looks at all of the user's.
_CHUNK_EVENTS = 1 << 20


def choose_triggers(
    translator: Translator,
    users: Users,
    may_trigger: NDArray[np.bool_],
    *,
    row: NDArray[np.int64],
    item: NDArray[np.int64],
    keys: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """(N,) position, among all source events of the users, of the event that triggers each draw.

    Drawn in proportion to what the event contributed to the item's evidence; where none that may
    trigger contributed anything, uniformly among these.

    Args:
        translator: says what each event contributed, unless nothing transfers.
        users: B users.
        may_trigger: (E,) of `users.source`; at least one event of each user in `row`.
        row: (N,) the user of each candidate.
        item: (N,) its target item.
        keys: (N,) what the draws are keyed by.
    """
    parts = [np.empty(0, dtype=np.int64)]
    for part in _parts(np.diff(users.source.offsets)[row]):
        candidate, position = users.source.of_rows(row[part])
        weight = np.ones(len(candidate))
        if translator.alpha > 0:
            weight = translator.triggers(users, row[part], item[part])
        weight = np.where(may_trigger[position], weight, 0.0)
        total = np.bincount(candidate, weights=weight, minlength=len(row[part]))
        weight = np.where(total[candidate] > 0, weight, may_trigger[position])
        parts.append(position[_one_each(weight, candidate, keys[part])])
    return np.concatenate(parts)


def event_times(
    triggered: NDArray[np.int64],
    first_seen: NDArray[np.int64],
    delays: NDArray[np.int64],
    cut: int,
    uniform: NDArray[np.float64],
) -> NDArray[np.int64]:
    """(N,) event times in microseconds: triggered < time < cut and time >= first_seen.

    The delay follows its empirical distribution restricted to what these bounds allow; where they
    leave none of it, it is uniform between them.

    Args:
        triggered: (N,) time of the source event, before the last microsecond before the cut.
        first_seen: (N,) of the item, before the cut.
        delays: (Q,) ascending quantiles of the observed delay, microseconds; may be empty.
        cut: microseconds since 1970.
        uniform: (N,) draws in (0, 1).
    """
    low = np.maximum(1, first_seen - triggered)
    high = cut - triggered
    delay = low + uniform * (high - low)
    if delays.size:
        grid = np.linspace(0.0, 1.0, len(delays))
        # A microsecond more per quantile: strictly increasing, so that it can be inverted.
        support = (delays + np.arange(len(delays))).astype(np.float64)
        at_low, at_high = np.interp(low, support, grid), np.interp(high, support, grid)
        inside = at_high > at_low
        drawn = np.interp(at_low + uniform * (at_high - at_low), grid, support)
        delay = np.where(inside, drawn, delay)
    return np.asarray(triggered + np.clip(np.floor(delay).astype(np.int64), low, high - 1))


def _parts(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Runs of candidates that look at no more than so many events, or at those of one candidate."""
    stops = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        seen = stops[start] - lengths[start]
        stop = max(start + 1, int(np.searchsorted(stops, seen + _CHUNK_EVENTS, side="right")))
        yield slice(start, stop)
        start = stop


def _one_each(
    weight: NDArray[np.float64], candidate: NDArray[np.int64], keys: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """(N,) index, among the E events, of the one drawn for each candidate in proportion to weight.

    `candidate` (E,) is ascending and names each of the N candidates.
    """
    firsts = np.searchsorted(candidate, np.arange(len(keys)))
    within = np.arange(len(candidate)) - firsts[candidate]
    with np.errstate(divide="ignore"):
        value = np.log(weight) + keyed_gumbel(0, keys[candidate], within)
    best = np.flatnonzero(value == np.maximum.reduceat(value, firsts)[candidate])
    return np.asarray(best[np.searchsorted(candidate[best], np.arange(len(keys)))])
