"""Coded events of both domains: the training data of a translator.

Repeated (user, item) pairs within a domain count once, by their first event, so that a user who
buys the same thing weekly does not vote weekly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import DataError
from scalr_ray.translator.encode import Vocabulary, incidence, source_keys


@dataclass(frozen=True, kw_only=True)
class CodedEvents:
    """First events of distinct (user, item) pairs, in order of time.

    Attributes:
        users: (N,) user codes.
        items: (N,) item codes.
        times: (N,) event times, microseconds since 1970.
        known_from: (N,) when the system could have known the event, microseconds since 1970.
        event_ids: (N,) text ids.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    known_from: NDArray[np.int64]
    event_ids: pa.Array

    def __len__(self) -> int:
        return len(self.users)

    def where(self, keep: NDArray[np.bool_]) -> CodedEvents:
        """The events that `keep` (N,) selects."""
        return CodedEvents(
            users=self.users[keep],
            items=self.items[keep],
            times=self.times[keep],
            known_from=self.known_from[keep],
            event_ids=self.event_ids.filter(pa.array(keep)),
        )

    def as_of(self, moment: datetime) -> CodedEvents:
        """The events visible as of `moment`: strictly before it, and known by then."""
        cut = to_micros(moment)
        return self.where((self.times < cut) & (self.known_from <= cut))

    def between(self, start: datetime, end: datetime) -> CodedEvents:
        """The events with start <= event time < end, whenever they became known."""
        return self.where((self.times >= to_micros(start)) & (self.times < to_micros(end)))


@dataclass(frozen=True, kw_only=True)
class TrainingEvents:
    """Both domains under shared user codes.

    Attributes:
        users: vocabulary of users of either domain, U of them.
        source_items: vocabulary of (domain, item) keys, S of them.
        target_items: vocabulary of target item ids, I of them.
        source: source-domain events.
        target: target-domain events.
    """

    users: Vocabulary
    source_items: Vocabulary
    target_items: Vocabulary
    source: CodedEvents
    target: CodedEvents

    @classmethod
    def of(cls, source: pa.Table, target: pa.Table) -> TrainingEvents:
        """Code two event tables (columns of `core.events`).

        Raises:
            DataError: a domain is empty, or no user is in both.
        """
        for name, table in (("source", source), ("target", target)):
            if table.num_rows == 0:
                raise DataError(
                    f"there are no {name} events before the cut; import some, or move the cut later"
                )
        source_items = Vocabulary.of(source_keys(source))
        target_items = Vocabulary.of(target["item_id"])
        users = Vocabulary.of(
            pa.chunked_array([*source["user_id"].chunks, *target["user_id"].chunks])
        )
        coded = cls(
            users=users,
            source_items=source_items,
            target_items=target_items,
            source=_code(source, users, source_items.codes(source_keys(source))),
            target=_code(target, users, target_items.codes(target["item_id"])),
        )
        if not np.intersect1d(coded.source.users, coded.target.users).size:
            raise DataError(
                "no user has events in both domains before the cut; a translator cannot be trained"
            )
        return coded

    def as_of(self, moment: datetime) -> TrainingEvents:
        """What was visible as of `moment`, under the same codes."""
        return replace(self, source=self.source.as_of(moment), target=self.target.as_of(moment))

    def without_target_of(self, hidden: NDArray[np.bool_]) -> TrainingEvents:
        """The same without the target events of the users that `hidden` (U,) marks."""
        return replace(self, target=self.target.where(~hidden[self.target.users]))

    def history(self) -> sparse.csr_matrix:
        """(U, S) 0/1: who has which source item."""
        return incidence(
            self.source.users, self.source.items, (len(self.users), len(self.source_items))
        )

    def own(self) -> sparse.csr_matrix:
        """(U, I) 0/1: who has which target item."""
        return incidence(
            self.target.users, self.target.items, (len(self.users), len(self.target_items))
        )


def _code(table: pa.Table, users: Vocabulary, items: NDArray[np.int64]) -> CodedEvents:
    user_codes = users.codes(table["user_id"])
    times = _micros(table["event_timestamp"])
    ids = table["event_id"].combine_chunks()
    # Time first; the event id breaks ties, so that the order of the rows never matters.
    rank = np.empty(len(ids), dtype=np.int64)
    rank[np.asarray(pc.array_sort_indices(ids))] = np.arange(len(ids))
    order = np.lexsort((rank, times))
    pair = user_codes[order] * (int(items.max()) + 1) + items[order]
    _, first = np.unique(pair, return_index=True)
    chosen = order[np.sort(first)]
    return CodedEvents(
        users=user_codes[chosen],
        items=items[chosen],
        times=times[chosen],
        known_from=_micros(table["available_at"])[chosen],
        event_ids=ids.take(pa.array(chosen)),
    )


def _micros(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).combine_chunks())
