"""The prior of a run: as configured, or the look-backs that predict the validation window best.

How long popularity lasts differs from log to log by an order of magnitude, and no translator makes
up for a prior that looks back too far. Each event of the window is predicted as of its own time:
asked as of the start of the window instead, the look-backs would be weighed for a prior that is
months old by the time it is used, and come out too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from scalr_ray.learn.events import TrainingEvents
from scalr_ray.translator.prior import PopularityIndex
from scalr_ray.translator.prior_fit import fit_prior_mix
from scalr_ray.translator.prior_mix import PriorMix

LOOK_BACKS: tuple[int | None, ...] = (7, 14, 30, 60, 90, 180, 365, None)


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What every translator of a run starts from.

    Attributes:
        mix: the look-backs and their weights.
        window_days: the single look-back that comes nearest, for models that take only one.
    """

    mix: PriorMix
    window_days: int

    @classmethod
    def fixed(cls, window_days: int, background: float) -> Prior:
        """One look-back, with an all-time background."""
        mix = PriorMix.recent(window_days=window_days, background=background)
        return cls(mix=mix, window_days=window_days)


def fit_prior(
    events: TrainingEvents,
    start: datetime,
    end: datetime,
    *,
    background: float,
    look_backs: Sequence[int | None] = LOOK_BACKS,
) -> Prior:
    """Weigh the look-backs by how well they predict the target events in [start, end).

    Args:
        events: coded events.
        start: start of the validation window.
        end: its end; what was not visible as of then does not count.
        background: weight of an older event in a prior of a single look-back.
        look_backs: days, ascending, None (all time) the last.

    Raises:
        DataError: no event of the window is on an item that was seen before it.
    """
    windows = tuple(look_backs)
    seen = events.as_of(end).target_log.first_to_appear()
    outcomes = seen.between(start, end)
    index = PopularityIndex.of(
        seen.items,
        seen.times,
        seen.known_from,
        items=len(events.target_items),
        mix=PriorMix.recent(window_days=1, background=background),
    )
    shares = index.window_shares(outcomes.items, outcomes.times, windows)
    mix = fit_prior_mix(shares, windows_days=windows)
    known = shares[:, shares[-1] > 0]

    def likelihood(days: int) -> float:
        at_days, all_time = known[windows.index(days)], known[-1]
        return float(np.log(at_days + background * all_time).sum())

    singles = [days for days in windows if days is not None]
    return Prior(mix=mix, window_days=max(singles, key=likelihood))
