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
from scalr_ray.translator.prior import prior_mix_shares
from scalr_ray.translator.prior_mix import PriorMix

_DELAY_QUANTILES = 101
# Without them an item with one or two owners has a huge lift by chance. On both directions of the
# Amazon food and kitchen logs the validation likelihood rises up to about 20 and stays flat.
MARGINAL_PSEUDO_USERS = 20.0
_NEVER = np.iinfo(np.int64).max


def translator_as_of(
    events: TrainingEvents, cutoff: datetime, *, strength: Strength, mix: PriorMix
) -> FrequencyTranslator:
    """Count what was visible as of `cutoff`.

    Args:
        events: coded events; those not visible as of `cutoff` are ignored.
        cutoff: the train cutoff.
        strength: exponents and shrinkage.
        mix: the look-backs of the prior.

    Returns:
        A translator under the codes of `events`; an item that was not visible has prior 0.
    """
    seen = events.as_of(cutoff)
    history, own = seen.history(), seen.own()
    items = len(events.target_items)
    return FrequencyTranslator(
        train_cutoff=cutoff,
        source_items=events.source_items,
        target_items=events.target_items,
        counts=count_users(history, own),
        marginal=overlap_marginal(history, own) + MARGINAL_PSEUDO_USERS,
        mix=mix,
        prior=prior_mix_shares(
            seen.target.items,
            seen.target.appear,
            items=items,
            as_of_micros=to_micros(cutoff),
            mix=mix,
        ),
        first_seen=first_sightings(seen),
        delays=delay_quantiles(seen.source, seen.target),
        strength=strength,
    )


def first_sightings(events: TrainingEvents) -> NDArray[np.int64]:
    """(I,) microseconds since 1970 of the first event on each target item; the largest without."""
    first_seen = np.full(len(events.target_items), _NEVER, dtype=np.int64)
    np.minimum.at(first_seen, events.target.items, events.target.times)
    return first_seen


def delay_quantiles(source: CodedEvents, target: CodedEvents) -> NDArray[np.int64]:
    """(Q,) ascending quantiles of the time from a user's last source event to a target event.

    Only pairs with the source event strictly before the target event count. Without any, there are
    no quantiles and the result is empty.
    """
    users = np.concatenate((source.users, target.users))
    times = np.concatenate((source.times, target.times))
    is_source = np.arange(len(users)) < len(source)
    # At equal times a target event sorts first: what stands before it is strictly before.
    order = np.lexsort((is_source, times, users))
    users, times, is_source = users[order], times[order], is_source[order]
    last_source = np.maximum.accumulate(np.where(is_source, np.arange(len(order)), -1))
    at = np.flatnonzero(~is_source & (last_source >= 0))
    at = at[users[last_source[at]] == users[at]]
    delays = times[at] - times[last_source[at]]
    if delays.size == 0:
        return np.empty(0, dtype=np.int64)
    grid = np.linspace(0.0, 1.0, _DELAY_QUANTILES)
    return np.asarray(np.quantile(delays, grid, method="inverted_cdf"), dtype=np.int64)
