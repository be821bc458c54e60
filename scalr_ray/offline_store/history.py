"""History as of: the last L events of a user before a time, as offsets or as lists. No Feast here.

A Feast view answers "which one row was the latest"; a sequence model asks "which were the last L".
An event may be seen by (user, t) when `event_timestamp < t` and, under the cut-off,
`available_at <= t`: it is visible from

    vis = event_timestamp + 1us                         plain
    vis = greatest(event_timestamp + 1us, available_at) with the availability cut-off

on. Events lie sorted by (user, event time, availability, event id), so that a history is a slice
`[start, end)` of that order and need not be written out for each example.

Lateness breaks this: an event that became known late is hidden in the middle of what is seen. Per
user, the highest `vis` so far tells up to where nothing is hidden, and the lowest `vis` from here
on tells where the last visible event lies; both only rise, and one binary search in each finds
them. Where they agree, which is nearly always, the slice is exact. Elsewhere the visible events are
collected one by one and, unless they turn out to be adjacent, **copied** behind the sorted events,
once for all examples that see the same: every history is a slice again, without holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP, TIMESTAMP
from scalr_ray.offline_store.entity_rows import is_text

USER_ID = "user_id"
EVENT_ID = "event_id"

Ints = NDArray[np.int64]
Column: TypeAlias = "pa.Array | pa.ChunkedArray"

_WALK = 64  # events looked at in one step back
_WALKERS = 16_384  # histories walked side by side: 8 MiB per array and step


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Histories as slices of arrays that `lay_out` prepares, oldest event first.

    Attributes:
        start: int64 `[Q]`, first position of each history.
        end: int64 `[Q]`, one past its last; `end - start <= L`, 0 where there is none.
        copies: int64, events (as rows of `HistoryIndex.events`) to repeat behind the sorted ones.
    """

    start: Ints
    end: Ints
    copies: Ints

    def lay_out(self, column: NDArray[np.generic]) -> NDArray[np.generic]:
        """`column` of `HistoryIndex.events`, so that query q has `laid_out[start[q]:end[q]]`."""
        return np.concatenate([column, column[self.copies]]) if len(self.copies) else column


@dataclass(frozen=True, kw_only=True)
class HistoryIndex:
    """Events in the order of histories, and what finds a history in them.

    Make one with `HistoryIndex.of`. `moment` below numbers the distinct values of `vis`; a key is
    `user * len(moments) + moment`, so that keys of different users never interleave.

    Attributes:
        events: the events, sorted; rows that nobody may ever see are left out.
        users: the distinct users, in order.
        starts: int64 `[users + 1]`, first event of each user.
        moments: int64, the distinct `vis` in microseconds, ascending.
        keys: int64 `[events]`, the key from which each event is visible.
        highest: int64 `[events]`, the highest key of the user up to each event.
        lowest: int64 `[events]`, the lowest key of the user from each event on.
        by_key: int64 `[events]`, the keys, ascending.
    """

    events: pa.Table
    users: pa.Array
    starts: Ints
    moments: Ints
    keys: Ints
    highest: Ints
    lowest: Ints
    by_key: Ints

    @classmethod
    def of(cls, events: pa.Table, *, cut_off: bool = True) -> HistoryIndex:
        """Sort `events` and index them.

        Equal times are ordered by availability (under the cut-off), by `event_id`, then as given.
        Every row counts: an event that was delivered twice is two events.

        Args:
            events: `user_id`, `event_timestamp`, `event_id`, with `cut_off` also `available_at`,
                and any other columns. Rows with a null user or time are never visible.
            cut_off: whether `available_at <= t` is required.

        Raises:
            DataError: a column is missing or is no time.
        """
        times = (EVENT_TIMESTAMP, *((AVAILABLE_AT,) if cut_off else ()))
        events = _sorted(events, times)
        encoded = events[USER_ID].combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        visible_from = _micros(events[EVENT_TIMESTAMP]) + 1
        if cut_off:
            visible_from = np.maximum(visible_from, _micros(events[AVAILABLE_AT]))
        moments, moment = np.unique(visible_from, return_inverse=True)
        keys = codes * len(moments) + moment
        return cls(
            events=events,
            users=encoded.dictionary,
            starts=np.searchsorted(codes, np.arange(len(encoded.dictionary) + 1)),
            moments=moments,
            keys=keys,
            highest=np.maximum.accumulate(keys),
            lowest=np.minimum.accumulate(keys[::-1])[::-1],
            by_key=np.sort(keys),
        )

    def spans(self, users: Column, times: Column, *, length: int) -> Spans:
        """The last `length` events that each (user, t) may see.

        Args:
            users: `[Q]`, of the type of `user_id`; unknown and null users have no history.
            times: `[Q]`, t; without a zone it is UTC, a date is its midnight, null sees nothing.
            length: L, at least 1.

        Raises:
            UsageError: `length` is below 1, or there are not as many users as times.
            DataError: users or times are of a type that cannot be compared with the events.
        """
        if length < 1:
            raise UsageError(f"a history of {length} events holds nothing; ask for at least 1")
        if len(users) != len(times):
            raise UsageError(f"{len(users)} users but {len(times)} times; pass one time per user")
        user, bound = self._bounds(users, times)
        first = self.starts[user]
        end = np.maximum(np.searchsorted(self.lowest, bound), first)
        start = np.maximum(end - length, first)
        (broken,) = np.nonzero(np.searchsorted(self.highest, bound) < end)
        if not len(broken):
            return Spans(start=start, end=end, copies=np.empty(0, np.int64))
        # those who have seen equally many events of a user have seen the same
        seen = np.searchsorted(self.by_key, bound[broken])
        _, one, same = np.unique(seen, return_index=True, return_inverse=True)
        one = broken[one]
        mended = self._mend(first[one], end[one], bound[one], length)
        start[broken], end[broken] = mended.start[same], mended.end[same]
        return Spans(start=start, end=end, copies=mended.copies)

    def lists(self, spans: Spans, column: str) -> pa.Array:
        """The histories of `spans` written out: a list of `column` per query, oldest event first.

        Raises:
            DataError: the events have no such column.
        """
        if column not in self.events.column_names:
            raise DataError(
                f"events have no column {column!r}; they have {', '.join(self.events.column_names)}"
            )
        offsets = _offsets(spans.end - spans.start)
        places = spans.lay_out(np.arange(self.events.num_rows))[_ragged(spans.start, offsets)]
        values = self.events[column].take(pa.array(places)).combine_chunks()
        if offsets[-1] > np.iinfo(np.int32).max:
            return pa.LargeListArray.from_arrays(offsets, values)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)

    def _bounds(self, users: Column, times: Column) -> tuple[Ints, Ints]:
        """Each query's user, and the key below which that user's events are visible."""
        moments = _times(times, "times")
        found = pc.index_in(_like(users, self.users.type), value_set=self.users)
        known = pc.and_(pc.is_valid(found), pc.is_valid(moments))
        user = _ints(pc.fill_null(found, 0))
        passed = np.searchsorted(self.moments, _micros(moments.fill_null(0)), side="right")
        passed[~known.to_numpy(zero_copy_only=False)] = 0
        return user, user * len(self.moments) + passed

    def _mend(self, first: Ints, end: Ints, bound: Ints, length: int) -> Spans:
        """The slices of histories with hidden events; `first` is where each user begins."""
        parts = [
            self._walk(first[batch], end[batch], bound[batch], length)
            for batch in np.split(np.arange(len(end)), range(_WALKERS, len(end), _WALKERS))
        ]
        taken = np.concatenate([counts for counts, _ in parts])
        rows = np.concatenate([rows for _, rows in parts])
        offsets = _offsets(taken)
        # every broken history has a visible event: the last one before its end
        adjacent = rows[offsets[1:] - 1] - rows[offsets[:-1]] == taken - 1
        copied = np.where(adjacent, 0, taken)
        start = np.where(adjacent, rows[offsets[:-1]], self.events.num_rows + _offsets(copied)[:-1])
        return Spans(start=start, end=start + taken, copies=rows[np.repeat(~adjacent, taken)])

    def _walk(self, first: Ints, end: Ints, bound: Ints, length: int) -> tuple[Ints, Ints]:
        """Collect the visible events back from `end`; returns counts and, ascending, the rows."""
        counts = np.zeros(len(end), np.int64)
        owners, rows = [], []
        walkers = np.arange(len(end))
        cursor = end.copy()
        while len(walkers):
            places = cursor[walkers, None] - np.arange(1, _WALK + 1)
            inside = places >= first[walkers, None]
            visible = inside & (self.keys[np.maximum(places, 0)] < bound[walkers, None])
            rank = np.cumsum(visible, axis=1) + counts[walkers, None]
            taken = visible & (rank <= length)
            owners.append(walkers[np.nonzero(taken)[0]])
            rows.append(places[taken])
            counts[walkers] += taken.sum(axis=1)
            cursor[walkers] -= _WALK
            walkers = walkers[(counts[walkers] < length) & (cursor[walkers] > first[walkers])]
        owner, row = np.concatenate(owners), np.concatenate(rows)
        return counts, row[np.lexsort((row, owner))]


def history_lists(
    events: pa.Table,
    users: Column,
    times: Column,
    *,
    columns: Sequence[str],
    length: int,
    cut_off: bool = True,
) -> pa.Table:
    """The last `length` events of each (user, t) as list features, oldest event first.

    One row per (user, t), in their order; a list is empty where nothing may be seen. All lists of a
    row are equally long. The arguments are those of `HistoryIndex.of` and `HistoryIndex.spans`;
    `columns` names the columns of `events` to list.

    Raises:
        UsageError: `length` is below 1, or there are not as many users as times.
        DataError: a column is missing or of a wrong type.
    """
    index = HistoryIndex.of(events, cut_off=cut_off)
    spans = index.spans(users, times, length=length)
    return pa.table({column: index.lists(spans, column) for column in columns})


def _sorted(events: pa.Table, times: Sequence[str]) -> pa.Table:
    """The events that somebody may see, in order, with their times in microseconds of UTC."""
    needed = [USER_ID, *times, EVENT_ID]
    if missing := [name for name in needed if name not in events.column_names]:
        raise DataError(f"events lack the column(s) {', '.join(missing)}")
    for name in times:
        place = events.column_names.index(name)
        events = events.set_column(place, name, _times(events[name], f"events: {name!r}"))
    users = events.column_names.index(USER_ID)
    events = events.set_column(users, USER_ID, _plain(events[USER_ID]))
    for name in (USER_ID, *times):
        events = events.filter(pc.is_valid(events[name]))
    order = pc.sort_indices(events, [(name, "ascending") for name in needed])
    return events.take(order).combine_chunks()


def _times(column: Column, what: str) -> Column:
    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind)):
        raise DataError(f"{what} is {kind}, not a timestamp; convert it first")
    return column.cast(TIMESTAMP, safe=False)


def _micros(column: Column) -> Ints:
    return _ints(column.cast(pa.int64()))


def _ints(column: Column) -> Ints:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def _plain(column: Column) -> Column:
    kind = column.type
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def _like(users: Column, kind: pa.DataType) -> Column:
    """Convert `users` to the type of the events' users, when that loses nothing."""
    users = _plain(users)
    wrong = f"users are {users.type}, but {USER_ID!r} of the events is {kind}"
    if not pa.types.is_null(users.type) and is_text(users.type) != is_text(kind):
        raise DataError(f"{wrong}; convert them first")
    try:
        return users.cast(kind)
    except pa.ArrowException as error:
        raise DataError(f"{wrong}, and {error}; convert them first") from error


def _offsets(counts: Ints) -> Ints:
    """int64 `[n + 1]`: where each of `n` runs of `counts` begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)])


def _ragged(start: Ints, offsets: Ints) -> Ints:
    """All positions of the runs that begin at `start` and are as long as `offsets` says."""
    return np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], np.diff(offsets))
