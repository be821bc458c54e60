"""When users act: sessions of a few events within an hour, over days, with a heavy tail of users.

Nothing here knows of items. A session never crosses midnight, so one day's popularity rules it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.clock import DAY, to_micros
from scalr_ray.core.keyed import stream_seed
from scalr_ray.simulate.config import MAX_OWNED_FRAC, WORLD_START, WorldConfig
from scalr_ray.simulate.population import arrival_frac

_DAY_MICROS = to_micros(WORLD_START + DAY) - to_micros(WORLD_START)
_HOUR_MICROS = _DAY_MICROS // 24
_MINUTE_MICROS = _HOUR_MICROS // 60
_MEAN_DELAY_MINUTES = 5.0
_LATE_ARRIVAL_FRAC = 0.02
_LATE_ARRIVAL_MEAN_DAYS = 1.0


@dataclass(frozen=True, kw_only=True)
class Visits:
    """Events without items, sorted by user and time (`E` events).

    Attributes:
        user: (E,), index of the user.
        micros: (E,), microseconds since 1970 of the event.
        available_micros: (E,), when the system hears of it; never before `micros`.
    """

    user: NDArray[np.int64]
    micros: NDArray[np.int64]
    available_micros: NDArray[np.int64]

    @property
    def day(self) -> NDArray[np.int64]:
        """(E,), the day of the world on which each event lies."""
        return day_of(self.micros)


def day_of(micros: NDArray[np.int64]) -> NDArray[np.int64]:
    """The day of the world in which each of `micros` lies; the first one is 0."""
    return (micros - to_micros(WORLD_START)) // _DAY_MICROS


def make_visits(
    config: WorldConfig, domain: str, members: NDArray[np.bool_], *, mean_events: float, items: int
) -> Visits:
    """All events of `domain` but for their items.

    Args:
        config: the world.
        domain: its name.
        members: (U,), who is active in the domain; each of them has at least one session.
        mean_events: mean events of a member who is there from the first day on.
        items: size of the catalogue, which bounds the events of a user.
    """
    rng = np.random.default_rng(stream_seed(config.seed, "visits", domain))
    arrival = arrival_frac(config, domain)
    activity = rng.lognormal(-(config.activity_sigma**2) / 2, config.activity_sigma, config.users)
    expected = activity * (1 - arrival) * mean_events / config.session_events
    sessions = np.where(members, np.maximum(rng.poisson(expected), 1), 0)

    user, start = _session_starts(rng, config, sessions, arrival)
    length = 1 + rng.poisson(config.session_events - 1, size=len(user))
    user, start = np.repeat(user, length), np.repeat(start, length)
    micros = start + rng.integers(_HOUR_MICROS, size=len(user))

    order = np.lexsort((micros, user))
    user, micros = user[order], micros[order]
    kept = _position_in_run(user) < int(items * MAX_OWNED_FRAC)
    user, micros = user[kept], micros[kept]
    return Visits(user=user, micros=micros, available_micros=micros + _delay_micros(rng, len(user)))


def _session_starts(
    rng: np.random.Generator,
    config: WorldConfig,
    sessions: NDArray[np.int64],
    arrival: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """User index and start in microseconds of each session; evenings are busier than nights."""
    user = np.repeat(np.arange(config.users), sessions)
    share = arrival[user] + (1 - arrival[user]) * rng.random(len(user))
    day = np.minimum((share * config.days).astype(np.int64), config.days - 1)
    within_day = (rng.beta(4, 2, size=len(user)) * (_DAY_MICROS - _HOUR_MICROS)).astype(np.int64)
    return user, to_micros(WORLD_START) + day * _DAY_MICROS + within_day


def _delay_micros(rng: np.random.Generator, events: int) -> NDArray[np.int64]:
    """Minutes between an event and the system hearing of it; for a few, hours or days more."""
    delay = rng.exponential(_MEAN_DELAY_MINUTES * _MINUTE_MICROS, size=events)
    is_late = rng.random(events) < _LATE_ARRIVAL_FRAC
    more = rng.exponential(_LATE_ARRIVAL_MEAN_DAYS * _DAY_MICROS, size=events)
    return np.asarray(delay + is_late * more, dtype=np.int64)


def _position_in_run(sorted_keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many equal keys stand before each of the sorted keys."""
    first = np.searchsorted(sorted_keys, sorted_keys, side="left")
    return np.arange(len(sorted_keys)) - first
