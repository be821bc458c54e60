"""What a translator is told of its users: their events as of one time, flat and with offsets.

An event is visible to t when `event_timestamp < t` and `available_at <= t`, so from

    appear = max(event_timestamp + 1us, available_at)

on. Sequences are ordered by appearance: what an earlier time could see is always a prefix, which is
how a sequence model is kept from looking ahead.

Legend: B users, N events of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse


@dataclass(frozen=True, kw_only=True)
class EventLists:
    """Events of B users, user by user, each user's in order of appearance.

    Attributes:
        offsets: (B + 1,) where each user's events begin; the last is N.
        items: (N,) item codes.
        times: (N,) event times, microseconds since 1970.
        types: (N,) codes of the event types; -1 where there is none.
        values: (N,) float32, NaN where there is none.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    types: NDArray[np.int64]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> NDArray[np.int64]:
        """(N,) the user of each event."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def users(self, start: int, stop: int) -> EventLists:
        """The events of the users from `start` to before `stop`."""
        first, last = self.offsets[start], self.offsets[min(stop, len(self))]
        return EventLists(
            offsets=self.offsets[start : stop + 1] - first,
            items=self.items[first:last],
            times=self.times[first:last],
            types=self.types[first:last],
            values=self.values[first:last],
        )

    def incidence(self, items: int) -> sparse.csr_matrix:
        """(B, items) 0/1 float32: who has which item; repeats count once."""
        matrix = sparse.csr_matrix(
            (np.ones(len(self.items), dtype=np.float32), self.items, self.offsets),
            shape=(len(self), items),
        )
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix


@dataclass(frozen=True, kw_only=True)
class Users:
    """What is known of B users as of a time.

    Attributes:
        as_of: T, microseconds since 1970; everything in here was visible as of then.
        source: their source-domain events, under codes of (domain, item) keys.
        own: their target-domain events, under codes of target items.
        features: (B rows) what Feast serves of them as of T; None where no service is configured.
    """

    as_of: int
    source: EventLists
    own: EventLists
    features: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.source)

    def part(self, start: int, stop: int) -> Users:
        """The users from `start` to before `stop`."""
        return Users(
            as_of=self.as_of,
            source=self.source.users(start, stop),
            own=self.own.users(start, stop),
            features=None if self.features is None else self.features.slice(start, stop - start),
        )
