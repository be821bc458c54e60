"""Training rows: every user's events once, in order of appearance, and the queries upon them.

An event is visible to t when it has appeared by t, at max(time + 1 us, available_at). In order of
appearance, what t may see is therefore a prefix, and a query needs only to know how long it is. One
pass over a row's tokens serves all of its queries, so that memory and time are O(events), whatever
the number of examples.

A user with more than L tokens is cut into segments of L that overlap by half; a query belongs to
the first segment where it sees at least L / 2 tokens, or all there are.

Legend: N tokens, Q queries, G segments with queries (the rows), L tokens of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import DataError, TooLittleData
from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.translator.neural.batch import FEATURE_PREFIX, SOURCE_SIDE, TARGET_SIDE


def training_queries(events: TrainingEvents, *, start: datetime, end: datetime) -> pa.Table:
    """The target events to predict: each user's first of each item, with start <= time < end.

    Returns:
        Columns `user`, `time` and `item` (codes, and microseconds since 1970), in the order of user
        and time, in which `training_rows` takes features.
    """
    target = events.target.between(start, end)
    order = np.lexsort((target.times, target.users))
    return pa.table(
        {
            "user": target.users[order],
            "time": target.times[order],
            "item": target.items[order],
        }
    )


def training_rows(
    events: TrainingEvents,
    *,
    start: datetime,
    end: datetime,
    length: int,
    as_of: datetime | None = None,
    features: pa.Table | None = None,
) -> pa.Table:
    """The training rows of the queries with start <= time < end.

    Args:
        events: coded events; what no query may see is left out.
        start: of the queries.
        end: of the queries; no token is visible later.
        length: L, the most tokens of a row.
        as_of: when all are asked, as in generation, at or before `start`; None asks each at its
            own time.
        features: user features as of each query, in the order of `training_queries`.

    Returns:
        Rows as described in `scalr_ray.translator.neural.batch`.

    Raises:
        DataError: there are no queries, or the features are not one row per query.
    """
    queries = training_queries(events, start=start, end=end)
    refuse_unlearnable(queries, features, start=start, end=end)
    return rows_of(
        events, queries, start=start, end=end, length=length, as_of=as_of, features=features
    )


def refuse_unlearnable(
    queries: pa.Table, features: pa.Table | None, *, start: datetime, end: datetime
) -> None:
    """Stop where nothing can be learned from the queries of all users, start <= time < end.

    Raises:
        DataError: there are none, or the features are not one row per query.
    """
    if queries.num_rows == 0:
        raise TooLittleData(
            f"there are no target events from {start:%Y-%m-%d} to {end:%Y-%m-%d} to learn from; "
            "move the cuts or import more events"
        )
    if features is not None and features.num_rows != queries.num_rows:
        raise DataError(
            f"{features.num_rows} rows of user features for {queries.num_rows} queries; ask the "
            "feature service for one row per query"
        )


def rows_of(
    events: TrainingEvents,
    queries: pa.Table,
    *,
    start: datetime,
    end: datetime,
    length: int,
    as_of: datetime | None,
    features: pa.Table | None,
) -> pa.Table:
    """The rows of `training_queries` of any users, also where there are none; see above."""
    if as_of is not None:
        assert as_of <= start, "an event must not be asked about when it is known"
        asked = pa.array(np.full(queries.num_rows, to_micros(as_of)))
        queries = queries.set_column(queries.column_names.index("time"), "time", asked)
    tokens = _Tokens.of(events, to_micros(as_of or end))
    user = np.asarray(queries["user"])
    prefix = tokens.visible(user, np.asarray(queries["time"]))
    return _rows(tokens, queries, prefix, length, features)


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """Events of both sides, user by user, each user's in order of appearance.

    Attributes:
        offsets: (U + 1,) where each user's tokens begin.
        appears: (N,) from when on each token is visible.
        columns: the `token_*` columns of the rows, N each.
    """

    offsets: NDArray[np.int64]
    appears: NDArray[np.int64]
    columns: dict[str, NDArray[np.generic]]

    @classmethod
    def of(cls, events: TrainingEvents, end: int) -> _Tokens:
        """The tokens that some time up to `end` may see."""
        source = _side_columns(events.source_log, SOURCE_SIDE, end)
        target = _side_columns(events.target_log, TARGET_SIDE, end)
        joined = {name: np.concatenate((source[name], target[name])) for name in source}
        users, appears = joined.pop("user"), joined.pop("appear")
        # Stable: at equal appearance source comes first, and each side keeps its order.
        order = np.lexsort((appears, users))
        counts = np.bincount(users, minlength=len(events.users))
        return cls(
            offsets=np.concatenate(([0], np.cumsum(counts))),
            appears=appears[order],
            columns={name: column[order] for name, column in joined.items()},
        )

    def visible(self, users: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
        """(Q,) how many of the user's tokens have appeared by the time."""
        token_users = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        both_users = np.concatenate((token_users, users))
        both_times = np.concatenate((self.appears, times))
        is_query = np.arange(len(both_users)) >= len(token_users)
        order = np.lexsort((is_query, both_times, both_users))
        before = np.cumsum(~is_query[order])
        counts = np.empty(len(order), dtype=np.int64)
        counts[order] = before
        return counts[len(token_users) :] - self.offsets[users]


def _side_columns(log: CodedEvents, side: int, end: int) -> dict[str, NDArray[np.generic]]:
    """The events of one side that are tokens, in order of appearance; columns of equal length."""
    appears = log.appear
    order = np.argsort(appears, kind="stable")
    order = order[appears[order] <= end]
    # A repeat of the same type says nothing new. What counts is which appears first, as anybody
    # would have it who looks at any time.
    pairs = log.users[order] * (int(log.items.max(initial=0)) + 1) + log.items[order]
    alike = pairs * (int(log.types.max(initial=0)) + 2) + log.types[order] + 1
    _, first = np.unique(alike, return_index=True)
    kept = order[np.sort(first)]
    return {
        "user": log.users[kept],
        "appear": appears[kept],
        "token_item": log.items[kept].astype(np.int32),
        "token_side": np.full(len(kept), side, dtype=np.int8),
        "token_type": log.types[kept].astype(np.int16),
        "token_time": log.times[kept],
        "token_value": log.values[kept],
    }


def _rows(
    tokens: _Tokens,
    queries: pa.Table,
    prefix: NDArray[np.int64],
    length: int,
    features: pa.Table | None,
) -> pa.Table:
    users = np.asarray(queries["user"])
    stride = max(length // 2, 1)
    segment = np.maximum(-(-(prefix - length) // stride), 0)
    # Queries stand in order of user and time, so those of a segment stand together.
    starts = np.flatnonzero(
        np.diff(users, prepend=-1).astype(bool) | np.diff(segment, prepend=-1).astype(bool)
    )
    query_offsets = np.append(starts, len(users))
    first = segment[starts] * stride
    # Prefixes ascend: the last query of a row sees the most of it.
    counts = prefix[query_offsets[1:] - 1] - first
    token_offsets = np.concatenate(([0], np.cumsum(counts)))
    begin = tokens.offsets[users[starts]] + first
    taken = np.arange(token_offsets[-1]) + np.repeat(begin - token_offsets[:-1], counts)
    lists = {
        name: _lists(token_offsets, pa.array(column[taken]))
        for name, column in tokens.columns.items()
    }
    asked = {
        "query_item": pa.array(np.asarray(queries["item"]).astype(np.int32)),
        "query_time": pa.array(np.asarray(queries["time"])),
        "query_prefix": pa.array((prefix - segment * stride).astype(np.int32)),
    }
    if features is not None:
        for name in features.column_names:
            asked[FEATURE_PREFIX + name] = features[name].combine_chunks()
    lists |= {name: _lists(query_offsets, column) for name, column in asked.items()}
    return pa.table({"user": pa.array(users[starts]), **lists})


def _lists(offsets: NDArray[np.int64], values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)
