"""The prior of a run: as configured, or the look-backs under which the validation window is likely.

How long popularity lasts differs from log to log by an order of magnitude, and no translator makes
up for a prior that looks back too far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from scalr_ray.core.clock import to_micros
from scalr_ray.learn.events import TrainingEvents
from scalr_ray.translator.prior import window_shares
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
    """Weigh the look-backs by what they predict of the target events in [start, end).

    Args:
        events: coded events.
        start: start of the validation window; the prior is as of then.
        end: its end.
        background: weight of an older event in a prior of a single look-back.
        look_backs: days, ascending, None (all time) the last.

    Raises:
        DataError: no event of the window is on an item that was seen before it.
    """
    items, windows = len(events.target_items), tuple(look_backs)
    before = events.as_of(start).target
    outcomes = np.bincount(events.target.between(start, end).items, minlength=items)
    shares = window_shares(
        before.items,
        before.appear,
        items=items,
        as_of_micros=to_micros(start),
        windows_days=windows,
    )
    mix = fit_prior_mix(shares, windows_days=windows, mass=outcomes.astype(np.float64))
    counted = outcomes * (shares[-1] > 0)

    def likelihood(days: int) -> float:
        share = shares[windows.index(days)] + background * shares[-1]
        return float((counted * np.log(np.maximum(share / share.sum(), 1e-300))).sum())

    singles = [days for days in windows if days is not None]
    return Prior(mix=mix, window_days=max(singles, key=likelihood))
