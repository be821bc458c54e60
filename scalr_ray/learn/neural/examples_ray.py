"""Training rows made on a cluster: Ray Data brings a user's events together, and they stay there.

```
coded events, slice by slice ──► cut by user ─┐
                                              ├─► shuffled ─► rows of whole users
what is served of the queries ─► cut by user ─┘
```

What makes the rows is `examples.rows_of`, as on one machine, and the rows of a user depend on that
user's events alone: as a set they are equal to the local ones, bit for bit, however users meet.
This process puts slices of coded events into Ray's object store and is told how many rows came of
them. It holds no row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import Dataset

from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.core.keyed import keyed_bits, stream_seed
from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.learn.neural.examples import refuse_unlearnable, rows_of, training_queries
from scalr_ray.offline_store.cluster import connect
from scalr_ray.offline_store.distribute import cluster_errors, in_arrow
from scalr_ray.offline_store.parcels import pack, unpack
from scalr_ray.offline_store.parts import rows_fingerprint
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.neural.batch import FEATURE_PREFIX

_SOURCE, _TARGET, _SERVED = 0, 1, 2
_MOST_PARTITIONS = 1024  # the shuffle keeps an object for each pair of a block and a partition
_BUCKETS_EACH = 16  # so many small buckets make partitions of about the same size
_PLACE = "_place"  # of an event in its log, of a query among all: the order that rows are made in

_EVENTS = pa.schema(
    [
        ("user", pa.int64()),
        ("item", pa.int64()),
        ("time", pa.int64()),
        ("known_from", pa.int64()),
        ("type", pa.int64()),
        ("value", pa.float32()),
        (_PLACE, pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class RowsOnCluster:
    """Training rows in Ray's object store, and what this process knows of them.

    Attributes:
        dataset: the rows (see `scalr_ray.translator.neural.batch`), in no particular order.
        num_rows: how many they are.
        queries: how many queries they hold.
        fingerprint: equal for rows that are made from the same.
    """

    dataset: Dataset
    num_rows: int
    queries: int
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class RowsMade:
    """Which rows `training_rows` makes; its arguments."""

    start: datetime
    end: datetime
    length: int
    as_of: datetime | None = None


def training_rows_on_cluster(
    events: TrainingEvents,
    made: RowsMade,
    *,
    features: pa.Table | None = None,
    partition_rows: int,
) -> RowsOnCluster:
    """The rows of `training_rows`, on the cluster that is there or a local one.

    Args:
        events: coded events; what no query may see is left out.
        made: which rows.
        features: user features as of each query, in the order of `training_queries`.
        partition_rows: of how many events of both sides one task makes the rows.

    Raises:
        DataError: there are no queries, or the features are not one row per query.
        RetryLater: the cluster gave up.
    """
    queries = training_queries(events, start=made.start, end=made.end)
    refuse_unlearnable(queries, features, start=made.start, end=made.end)
    connect()
    users = np.asarray(queries["user"])
    asked = np.zeros(len(events.users), dtype=bool)
    asked[users] = True
    partitions = min(_MOST_PARTITIONS, -(-events.count // partition_rows))
    served = None if features is None else _served(users, features)
    making = _Making(
        made=made,
        buckets=partitions * _BUCKETS_EACH,
        served=None if served is None else served.schema,
    )
    sides = [(_SOURCE, _slices(events.source_log, asked, partition_rows))]
    sides += [(_TARGET, _slices(events.target_log, asked, partition_rows))]
    if served is not None:
        sides += [(_SERVED, _cut_up(served, partition_rows))]
    parcels = [
        in_arrow(
            ray.data.from_arrow_refs([ray.put(part) for part in slices]),
            partial(making.cut, side=side),
        )
        for side, slices in sides
    ]
    shuffled = parcels[0].union(*parcels[1:]).repartition(partitions, keys=["bucket"])
    with cluster_errors():
        rows = in_arrow(shuffled, making.make).materialize()
    # Blocks without rows have lost their columns.
    blocks = [
        (reference, metadata.num_rows)
        for bundle in rows.iter_internal_ref_bundles()
        for reference, metadata in zip(bundle.block_refs, bundle.metadata, strict=True)
        if metadata.num_rows
    ]
    return RowsOnCluster(
        dataset=ray.data.from_arrow_refs([reference for reference, _ in blocks]),
        num_rows=sum(count for _, count in blocks),
        queries=queries.num_rows,
        fingerprint=_known_by(events, made, features),
    )


@dataclass(frozen=True, kw_only=True)
class _Making:
    """What every task knows.

    Attributes:
        made: which rows.
        buckets: how many buckets the users fall into.
        served: schema of what is served of the queries; None where nothing is.
    """

    made: RowsMade
    buckets: int
    served: pa.Schema | None

    def cut(self, rows: pa.Table, side: int) -> pa.Table:
        """Parcels of rows by user."""
        if not rows.num_columns:  # Ray loses the columns of a block without rows
            rows = (
                _EVENTS if self.served is None or side != _SERVED else self.served
            ).empty_table()
        bits = keyed_bits(stream_seed("training rows"), rows["user"].to_numpy())
        buckets = (bits % np.uint64(self.buckets)).astype(np.int64)
        return pack(rows, buckets, np.zeros(rows.num_rows, np.int64), side)

    def make(self, parcels: pa.Table) -> pa.Table:
        """The training rows of the users of whole buckets."""
        source, target = (unpack(parcels, side, _EVENTS) for side in (_SOURCE, _TARGET))
        users = np.unique(np.concatenate([source["user"].to_numpy(), target["user"].to_numpy()]))
        events = _of_codes(_log(source, users), _log(target, users), users)
        features = None
        if self.served is not None:
            served = _in_place(unpack(parcels, _SERVED, self.served))
            features = served.drop_columns(["user", _PLACE])
            features = features.rename_columns(
                [name.removeprefix(FEATURE_PREFIX) for name in features.column_names]
            )
        made = self.made
        queries = training_queries(events, start=made.start, end=made.end)
        rows = rows_of(
            events,
            queries,
            start=made.start,
            end=made.end,
            length=made.length,
            as_of=made.as_of,
            features=features,
        )
        return rows.set_column(0, "user", pa.array(users[rows["user"].to_numpy()]))


def _slices(log: CodedEvents, asked: NDArray[np.bool_], size: int) -> Iterator[pa.Table]:
    """The events of the users that are `asked` (U,) about, `size` events of the log at a time."""
    for at in range(0, max(len(log), 1), size):
        here = slice(at, at + size)
        (kept,) = np.nonzero(asked[log.users[here]])
        columns = (log.users, log.items, log.times, log.known_from, log.types, log.values)
        yield pa.table([*(column[here][kept] for column in columns), at + kept], schema=_EVENTS)


def _served(users: NDArray[np.int64], features: pa.Table) -> pa.Table:
    """The features, with the user of each query and its place."""
    named = features.rename_columns([FEATURE_PREFIX + name for name in features.column_names])
    places = pa.array(np.arange(len(users)))
    return named.append_column("user", pa.array(users)).append_column(_PLACE, places)


def _cut_up(rows: pa.Table, size: int) -> Iterator[pa.Table]:
    yield from (rows.slice(at, size) for at in range(0, rows.num_rows, size))


def _in_place(rows: pa.Table) -> pa.Table:
    return rows.take(pa.array(np.argsort(rows[_PLACE].to_numpy())))


def _log(rows: pa.Table, users: NDArray[np.int64]) -> CodedEvents:
    """The events in the order of their log, their users coded as positions in `users`."""
    rows = _in_place(rows)
    return CodedEvents(
        users=np.searchsorted(users, rows["user"].to_numpy()),
        items=rows["item"].to_numpy(),
        times=rows["time"].to_numpy(),
        known_from=rows["known_from"].to_numpy(),
        types=rows["type"].to_numpy(),
        values=rows["value"].to_numpy(),
        event_ids=pa.nulls(rows.num_rows, pa.string()),
    )


def _of_codes(source: CodedEvents, target: CodedEvents, users: NDArray[np.int64]) -> TrainingEvents:
    """Events of whose ids nobody asks: rows are made of codes."""
    unknown = Vocabulary(ids=pa.array([], pa.string()))
    return TrainingEvents(
        users=Vocabulary(ids=pa.array(users)),
        source_items=unknown,
        target_items=unknown,
        event_types=unknown,
        source_log=source,
        target_log=target,
    )


def _known_by(events: TrainingEvents, made: RowsMade, features: pa.Table | None) -> str:
    digest = hashlib.sha256(fingerprint(asdict(made)).encode())
    for log in (events.source_log, events.target_log):
        for column in (log.users, log.items, log.times, log.known_from, log.types, log.values):
            digest.update(np.ascontiguousarray(column).data)
    if features is not None:
        digest.update(rows_fingerprint(features).encode())
    return digest.hexdigest()
