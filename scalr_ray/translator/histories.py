"""What a translator is told of its users: their events as of one time, flat and with offsets.

An event is visible to t when `event_timestamp < t` and `available_at <= t`, so from

    appear = max(event_timestamp + 1us, available_at)

on. Sequences are ordered by appearance: what an earlier time could see is always a prefix, which is
how a sequence model is kept from looking ahead.

Legend: B users, N events of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

# Ids (N,) and times (N,) in microseconds to what is served of them, N rows, each as of its time.
FeaturesAsOf = Callable[[pa.Array, NDArray[np.int64]], pa.Table]


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

    def take(self, row: NDArray[np.int64]) -> EventLists:
        """The events of the users `row` (C,), in that order."""
        _, position = self.of_rows(row)
        lengths = np.diff(self.offsets)[row]
        return EventLists(
            offsets=np.concatenate(([0], np.cumsum(lengths))),
            items=self.items[position],
            times=self.times[position],
            types=self.types[position],
            values=self.values[position],
        )

    def of_rows(self, row: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All events of the users `row` (C,), one after the other.

        Returns:
            (E,) which of the C each event belongs to, and (E,) its position among the N events.
        """
        lengths = np.diff(self.offsets)[row]
        candidate = np.repeat(np.arange(len(row)), lengths)
        within = np.arange(len(candidate)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return candidate, self.offsets[row][candidate] + within

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

    def take(self, row: NDArray[np.int64]) -> Users:
        """The users `row` (C,), in that order."""
        return Users(
            as_of=self.as_of,
            source=self.source.take(row),
            own=self.own.take(row),
            features=None if self.features is None else self.features.take(pa.array(row)),
        )

    def part(self, start: int, stop: int) -> Users:
        """The users from `start` to before `stop`, of those that there are."""
        return self.take(np.arange(start, min(stop, len(self))))
