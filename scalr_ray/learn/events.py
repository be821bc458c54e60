"""Coded events of both domains: the training data of a translator.

Repeated (user, item) pairs within a domain count once, by their first event, so that a user who
buys the same thing weekly does not vote weekly. Which event is the first depends on the observer:
an earlier event that became known late is not there for those who ask before. The logs therefore
keep repeats that somebody needs, also those of another type, and every as-of view drops them anew.
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
from scalr_ray.core.errors import TooLittleData
from scalr_ray.translator.encode import Vocabulary, incidence, source_keys
from scalr_ray.translator.histories import EventLists, FeaturesAsOf, Users


@dataclass(frozen=True, kw_only=True)
class CodedEvents:
    """Events of one domain in order of time, then of event id.

    Attributes:
        users: (N,) user codes.
        items: (N,) item codes.
        times: (N,) event times, microseconds since 1970.
        known_from: (N,) when the system could have known the event, microseconds since 1970.
        types: (N,) codes of the event types, -1 where there is none.
        values: (N,) float32, NaN where there is none.
        event_ids: (N,) text ids.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    known_from: NDArray[np.int64]
    types: NDArray[np.int64]
    values: NDArray[np.float32]
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
            types=self.types[keep],
            values=self.values[keep],
            event_ids=self.event_ids.filter(pa.array(keep)),
        )

    def as_of(self, moment: datetime) -> CodedEvents:
        """The events visible as of `moment`: strictly before it, and known by then."""
        cut = to_micros(moment)
        return self.where((self.times < cut) & (self.known_from <= cut))

    @property
    def appear(self) -> NDArray[np.int64]:
        """(N,) from when on each event is visible, microseconds since 1970."""
        return np.maximum(self.times + 1, self.known_from)

    def by_user(
        self, chosen: NDArray[np.int64], users: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the events of some users lie, user by user, each user's in order of appearance.

        Args:
            chosen: (B,) distinct user codes.
            users: how many codes there are.

        Returns:
            (N',) positions of their events, and (B + 1,) where each user's begin.
        """
        place = np.full(users, -1, dtype=np.int64)
        place[chosen] = np.arange(len(chosen))
        of_chosen = np.flatnonzero(place[self.users] >= 0)
        row = place[self.users[of_chosen]]
        order = of_chosen[np.lexsort((self.appear[of_chosen], row))]
        counts = np.bincount(row, minlength=len(chosen))
        return order, np.concatenate(([0], np.cumsum(counts)))

    def lists(self, chosen: NDArray[np.int64], users: int) -> EventLists:
        """The events of the `chosen` users (B,), of `users` codes in all."""
        order, offsets = self.by_user(chosen, users)
        return EventLists(
            offsets=offsets,
            items=self.items[order],
            times=self.times[order],
            types=self.types[order],
            values=self.values[order],
        )

    def firsts(self) -> CodedEvents:
        """The first event of each (user, item) pair."""
        return self.where(_is_first(_numbered(self.users, self.items)))

    def first_to_appear(self) -> CodedEvents:
        """The event of each (user, item) pair that appears first.

        Whoever looks at any time finds one event of each pair that has appeared by then, and what
        is known later changes nothing of it.
        """
        order = np.argsort(self.appear, kind="stable")
        kept = np.zeros(len(self), dtype=bool)
        kept[order[_is_first(_numbered(self.users[order], self.items[order]))]] = True
        return self.where(kept)

    def firsts_by_type(self) -> CodedEvents:
        """The first event of each type of each (user, item) pair."""
        pairs = _numbered(self.users, self.items)
        return self.where(_is_first(_numbered(pairs, self.types + 1)))

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
        event_types: vocabulary of the event types of both domains.
        source_log: source-domain events, with the repeats that some as-of view needs.
        target_log: the same of the target domain.
    """

    users: Vocabulary
    source_items: Vocabulary
    target_items: Vocabulary
    event_types: Vocabulary
    source_log: CodedEvents
    target_log: CodedEvents

    @classmethod
    def of(cls, source: pa.Table, target: pa.Table) -> TrainingEvents:
        """Code two event tables (columns of `scalr_ray.core.events`).

        Raises:
            DataError: a domain is empty, or no user is in both.
        """
        for name, table in (("source", source), ("target", target)):
            if table.num_rows == 0:
                raise TooLittleData(
                    f"there are no {name} events before the cut; import some, or move the cut later"
                )
        coded = cls.coded(source, target)
        if not np.intersect1d(coded.source_log.users, coded.target_log.users).size:
            raise TooLittleData(
                "no user has events in both domains before the cut; a translator cannot be trained"
            )
        return coded

    @classmethod
    def coded(cls, source: pa.Table, target: pa.Table) -> TrainingEvents:
        """The same of any two tables, also of empty ones: what some of the users did."""
        source_items = Vocabulary.of(source_keys(source))
        target_items = Vocabulary.of(target["item_id"])
        users = Vocabulary.of(
            pa.chunked_array(
                [*source["user_id"].chunks, *target["user_id"].chunks], source["user_id"].type
            )
        )
        types = pa.chunked_array(
            [*source["event_type"].chunks, *target["event_type"].chunks], pa.string()
        )
        event_types = Vocabulary.of(types.drop_null())
        source_codes = source_items.codes(source_keys(source))
        target_codes = target_items.codes(target["item_id"])
        return cls(
            users=users,
            source_items=source_items,
            target_items=target_items,
            event_types=event_types,
            source_log=_code(source, users, source_codes, event_types),
            target_log=_code(target, users, target_codes, event_types),
        )

    @cached_property
    def source(self) -> CodedEvents:
        """The first source event of each (user, item) pair."""
        return self.source_log.firsts()

    @cached_property
    def target(self) -> CodedEvents:
        """The first target event of each (user, item) pair."""
        return self.target_log.firsts()

    @property
    def count(self) -> int:
        """How many events both logs hold."""
        return len(self.source_log) + len(self.target_log)

    def as_of(self, moment: datetime) -> TrainingEvents:
        """What was visible as of `moment`, under the same codes."""
        return replace(
            self,
            source_log=self.source_log.as_of(moment),
            target_log=self.target_log.as_of(moment),
        )

    def known(
        self,
        chosen: NDArray[np.int64],
        moment: datetime,
        features: FeaturesAsOf | None = None,
    ) -> Users:
        """What was visible of the users `chosen` (B,) as of `moment`, with their features."""
        seen, users, as_of = self.as_of(moment), len(self.users), to_micros(moment)
        served = None
        if features is not None:
            served = features(self.users.ids.take(pa.array(chosen)), np.full(len(chosen), as_of))
        return Users(
            as_of=as_of,
            source=seen.source_log.firsts_by_type().lists(chosen, users),
            own=seen.target_log.firsts_by_type().lists(chosen, users),
            features=served,
        )

    def without_target_of(self, hidden: NDArray[np.bool_]) -> TrainingEvents:
        """The same without the target events of the users that `hidden` (U,) marks."""
        return replace(self, target_log=self.target_log.where(~hidden[self.target_log.users]))

    def under(self, source_items: Vocabulary, target_items: Vocabulary) -> TrainingEvents:
        """The same under the codes of other vocabularies, without what happened on items they lack.

        Args:
            source_items: of (domain, item) keys.
            target_items: of target item ids.
        """
        source, target = (
            replace(log, items=wanted.codes(items.ids)[log.items])
            for log, items, wanted in (
                (self.source_log, self.source_items, source_items),
                (self.target_log, self.target_items, target_items),
            )
        )
        return replace(
            self,
            source_items=source_items,
            target_items=target_items,
            source_log=source.where(source.items >= 0),
            target_log=target.where(target.items >= 0),
        )

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
            event_types=self.event_types,
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


def _code(
    table: pa.Table, users: Vocabulary, items: NDArray[np.int64], types: Vocabulary
) -> CodedEvents:
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
        types=types.codes(table["event_type"])[order],
        values=np.asarray(table["value"].to_numpy(), dtype=np.float32)[order],
        event_ids=ids.take(pa.array(order)),
    )
    return coded.where(_is_first_for_some(coded))


def _is_first(pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) whether an event is the first of its pair."""
    _, first = np.unique(pairs, return_index=True)
    keep = np.zeros(len(pairs), dtype=bool)
    keep[first] = True
    return keep


def _is_first_for_some(events: CodedEvents) -> NDArray[np.bool_]:
    """(N,) False where a like event came first and was known as early: nobody needs this one."""
    alike = _numbered(_numbered(events.users, events.items), events.types + 1)
    _, first, pair = np.unique(alike, return_index=True, return_inverse=True)
    is_first = np.arange(len(events)) == first[pair]
    return np.asarray(is_first | (events.known_from < events.known_from[first[pair]]))


def _numbered(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) one number per pair of codes, equal for equal pairs."""
    return left * (int(right.max(initial=0)) + 1) + right


def _recode(
    vocabulary: Vocabulary, *columns: NDArray[np.int64]
) -> tuple[Vocabulary, list[NDArray[np.int64]]]:
    """The part of a vocabulary that the columns use, and the columns under its codes."""
    used = np.unique(np.concatenate(columns))
    kept = Vocabulary(ids=vocabulary.ids.take(pa.array(used)))
    return kept, [np.searchsorted(used, column) for column in columns]


def _micros(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).combine_chunks())
