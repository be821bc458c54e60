"""The statistics of a translator as of a cut: counts, prior, first sightings, delays."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.translator.frequency import (
    FrequencyTranslator,
    Strength,
    count_users,
    overlap_marginal,
)
from scalr_ray.translator.prior import recent_popularity

_DELAY_QUANTILES = 101
_NEVER = np.iinfo(np.int64).max


def translator_as_of(
    events: TrainingEvents, cutoff: datetime, *, strength: Strength, background: float
) -> FrequencyTranslator:
    """Count what was visible as of `cutoff`.

    Args:
        events: coded events; later ones are ignored.
        cutoff: the train cutoff.
        strength: exponents, shrinkage and the look-back of the prior.
        background: weight of an older event in the prior.
    """
    seen = events.as_of(cutoff)
    history, own = seen.history(), seen.own()
    items = len(events.target_items)
    first_seen = np.full(items, _NEVER, dtype=np.int64)
    np.minimum.at(first_seen, seen.target.items, seen.target.times)
    return FrequencyTranslator(
        train_cutoff=cutoff,
        source_items=events.source_items,
        target_items=events.target_items,
        counts=count_users(history, own),
        marginal=overlap_marginal(history, own),
        prior=recent_popularity(
            seen.target.items,
            seen.target.times,
            items=items,
            as_of_micros=to_micros(cutoff),
            window_days=strength.window_days,
            background=background,
        ),
        first_seen=first_seen,
        delays=delay_quantiles(seen.source, seen.target),
        strength=strength,
    )


def delay_quantiles(source: CodedEvents, target: CodedEvents) -> NDArray[np.int64]:
    """(Q,) ascending quantiles of the time from a user's last source event to a target event.

    Only pairs with the source event strictly before the target event count. Without any, there are
    no quantiles and the result is empty.
    """
    order = np.lexsort((source.times, source.users))
    users, times = source.users[order], source.times[order]
    starts = np.searchsorted(users, target.users, side="left")
    ends = np.searchsorted(users, target.users, side="right")
    position = _last_before(times, starts, ends, target.times)
    found = position >= 0
    delays = target.times[found] - times[position[found]]
    if delays.size == 0:
        return np.empty(0, dtype=np.int64)
    grid = np.linspace(0.0, 1.0, _DELAY_QUANTILES)
    return np.asarray(np.quantile(delays, grid, method="inverted_cdf"), dtype=np.int64)


def _last_before(
    times: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    moments: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(N,) the last index in [start, end) with times[index] < moment, else -1; binary search."""
    low, high = starts.copy(), ends.copy()
    while np.any(low < high):
        middle = (low + high) // 2
        active = low < high
        before = active & (times[np.minimum(middle, len(times) - 1)] < moments)
        low = np.where(before, middle + 1, low)
        high = np.where(active & ~before, middle, high)
    return np.asarray(np.where(low > starts, low - 1, -1))
