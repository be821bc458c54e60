"""Coded events of both domains: the training data of a translator.

Repeated (user, item) pairs within a domain count once, by their first event, so that a user who
buys the same thing weekly does not vote weekly. Which event is the first depends on the observer:
an earlier event that became known late is not there for those who ask before. The logs therefore
keep repeats, and every as-of view drops them anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

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
    """Events of one domain in order of time, then of event id.

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

    def firsts(self) -> CodedEvents:
        """The first event of each (user, item) pair."""
        return self.where(_is_first(self.users, self.items))

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
        source_log: source-domain events, with the repeats that some as-of view needs.
        target_log: the same of the target domain.
    """

    users: Vocabulary
    source_items: Vocabulary
    target_items: Vocabulary
    source_log: CodedEvents
    target_log: CodedEvents

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
            source_log=_code(source, users, source_items.codes(source_keys(source))),
            target_log=_code(target, users, target_items.codes(target["item_id"])),
        )
        if not np.intersect1d(coded.source_log.users, coded.target_log.users).size:
            raise DataError(
                "no user has events in both domains before the cut; a translator cannot be trained"
            )
        return coded

    @cached_property
    def source(self) -> CodedEvents:
        """The first source event of each (user, item) pair."""
        return self.source_log.firsts()

    @cached_property
    def target(self) -> CodedEvents:
        """The first target event of each (user, item) pair."""
        return self.target_log.firsts()

    def as_of(self, moment: datetime) -> TrainingEvents:
        """What was visible as of `moment`, under the same codes."""
        return replace(
            self,
            source_log=self.source_log.as_of(moment),
            target_log=self.target_log.as_of(moment),
        )

    def without_target_of(self, hidden: NDArray[np.bool_]) -> TrainingEvents:
        """The same without the target events of the users that `hidden` (U,) marks."""
        return replace(self, target_log=self.target_log.where(~hidden[self.target_log.users]))

    def compact(self) -> TrainingEvents:
        """The same under codes of those users and items only that occur in the events."""
        source, target = self.source_log, self.target_log
        users, (source_users, target_users) = _recode(self.users, source.users, target.users)
        source_items, (source_codes,) = _recode(self.source_items, source.items)
        target_items, (target_codes,) = _recode(self.target_items, target.items)
        return TrainingEvents(
            users=users,
            source_items=source_items,
            target_items=target_items,
            source_log=replace(source, users=source_users, items=source_codes),
            target_log=replace(target, users=target_users, items=target_codes),
        )

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
    ids = table["event_id"].combine_chunks()
    times = _micros(table["event_timestamp"])
    # Time first; the event id breaks ties, so that the order of the rows never matters.
    rank = np.empty(len(ids), dtype=np.int64)
    rank[np.asarray(pc.array_sort_indices(ids))] = np.arange(len(ids))
    order = np.lexsort((rank, times))
    coded = CodedEvents(
        users=users.codes(table["user_id"])[order],
        items=items[order],
        times=times[order],
        known_from=_micros(table["available_at"])[order],
        event_ids=ids.take(pa.array(order)),
    )
    return coded.where(_is_first_for_some(coded))


def _is_first(users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) whether an event is the first of its (user, item) pair."""
    _, first = np.unique(_pairs(users, items), return_index=True)
    keep = np.zeros(len(users), dtype=bool)
    keep[first] = True
    return keep


def _is_first_for_some(events: CodedEvents) -> NDArray[np.bool_]:
    """(N,) False where the pair's first event was known as early, so that nobody needs this one."""
    _, first, pair = np.unique(
        _pairs(events.users, events.items), return_index=True, return_inverse=True
    )
    is_first = np.arange(len(events)) == first[pair]
    return np.asarray(is_first | (events.known_from < events.known_from[first[pair]]))


def _pairs(users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    return users * (int(items.max(initial=0)) + 1) + items


def _recode(
    vocabulary: Vocabulary, *columns: NDArray[np.int64]
) -> tuple[Vocabulary, list[NDArray[np.int64]]]:
    """The part of a vocabulary that the columns use, and the columns under its codes."""
    used = np.unique(np.concatenate(columns))
    kept = Vocabulary(ids=vocabulary.ids.take(pa.array(used)))
    return kept, [np.searchsorted(used, column) for column in columns]


def _micros(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).combine_chunks())
