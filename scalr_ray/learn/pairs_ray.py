"""Counting pairs on a cluster: Ray Data brings a user's rows together, then a pair's sums.

```
source rows ─► cut by user ─┐
                            ├─► shuffled ─► counted ─► cut by pair ─► shuffled ─► summed
target rows ─► cut by user ─┘
```

The statement is that of one machine, and whole numbers add up alike in any order: the table is
equal, bit for bit, to the local one. A user is counted in one task; a user with so many items of
both domains that their pairs do not fit the memory limit makes that task spill, and `Bound` is the
remedy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import Dataset

from scalr_ray.core.errors import DataError
from scalr_ray.learn.pairs import ROW_COLUMNS, PairRows, partial_counts
from scalr_ray.offline_store.cluster import connect
from scalr_ray.offline_store.distribute import cluster_errors, gather, in_arrow
from scalr_ray.offline_store.limits import Limits, open_duck
from scalr_ray.offline_store.parcels import key_buckets, key_types, pack, unpack
from scalr_ray.translator.counts import PairCounts, PairRules
from scalr_ray.translator.noise import Bound

_SOURCE, _TARGET, _COUNTED = 0, 1, 2
_MOST_PARTITIONS = 1024  # the shuffle keeps an object for each pair of a block and a partition
_BUCKETS_EACH = 16  # so many small buckets make partitions of about the same size


@dataclass(frozen=True, kw_only=True)
class _Counting:
    """What every task of one count knows.

    Attributes:
        source: schema of the source rows.
        target: schema of the target rows.
        rules: what one user adds to a pair.
        bound: how many items of a user are counted.
        limits: of DuckDB, for each task.
        partitions: how many tasks count, and how many sum.
    """

    source: pa.Schema
    target: pa.Schema
    rules: PairRules
    bound: Bound | None
    limits: Limits
    partitions: int

    def counted(self, source: Dataset, target: Dataset) -> Dataset:
        """Parcels of what was counted, all of a pair in one block."""
        cut = in_arrow(source, partial(self.cut, side=_SOURCE)).union(
            in_arrow(target, partial(self.cut, side=_TARGET))
        )
        return self._shuffled(in_arrow(self._shuffled(cut), self.count))

    def cut(self, rows: pa.Table, side: int) -> pa.Table:
        """Parcels of rows by user."""
        if not rows.num_columns:  # Ray loses the columns of a block without rows
            rows = (self.target if side else self.source).empty_table()
        with open_duck(self.limits) as session:
            kinds = key_types(rows.schema, ["user"])
            buckets = key_buckets(session, [rows["user"]], kinds, self._buckets)
        return _pack(rows, buckets, side)

    def count(self, parcels: pa.Table) -> pa.Table:
        """Parcels, by pair, of what the users of whole buckets give."""
        rows = PairRows(
            source=unpack(parcels, _SOURCE, self.source),
            target=unpack(parcels, _TARGET, self.target),
        )
        counted = partial_counts(rows, self.rules, self.limits, bound=self.bound)
        with open_duck(self.limits) as session:
            session.register("counted", counted)
            # The rows of a target have no source, and must still meet in one bucket.
            sql = f"SELECT (hash(source, target) % {self._buckets})::BIGINT AS bucket FROM counted"
            buckets = session.sql(sql).fetchnumpy()["bucket"]
        return _pack(counted, np.asarray(buckets), _COUNTED)

    def sum(self, parcels: pa.Table) -> pa.Table:
        """The rows of `PairCounts` of the pairs of whole buckets."""
        return PairCounts.of(unpack(parcels, _COUNTED, self.schema)).rows()

    def sum_packed(self, parcels: pa.Table) -> pa.Table:
        """The same in one parcel: Ray keeps the columns of a block only where it has a row."""
        rows = self.sum(parcels)
        return _pack(rows, np.zeros(rows.num_rows, np.int64), _COUNTED)

    @property
    def schema(self) -> pa.Schema:
        """The schema of what is counted."""
        kinds = (self.source.field("item").type, self.target.field("item").type)
        return pa.schema(
            [
                ("source", kinds[0]),
                ("target", kinds[1]),
                ("users", pa.int64()),
                ("weight", pa.int64()),
            ]
        )

    def _shuffled(self, parcels: Dataset) -> Dataset:
        return parcels.repartition(self.partitions, keys=["bucket"])

    @property
    def _buckets(self) -> int:
        return self.partitions * _BUCKETS_EACH


def count_pairs_on_cluster(
    source: Dataset,
    target: Dataset,
    rules: PairRules,
    limits: Limits,
    *,
    partition_rows: int,
    bound: Bound | None = None,
) -> PairCounts:
    """The table of all users, in this process: equal to `count_pairs` of the same rows.

    Args:
        source: rows of `PairRows.source`, in any order and any blocks.
        target: rows of `PairRows.target`.
        rules: what one user adds to a pair.
        limits: of DuckDB, for each task.
        partition_rows: how many rows of both sides one task counts.
        bound: how many items of a user are counted; None takes all.

    Raises:
        DataError: a side has no rows, or lacks a column; or the users differ in type.
        UsageError: the memory limit is too low.
        RetryLater: the cluster gave up.
    """
    counting = _prepare(source, target, rules, limits, partition_rows, bound)
    parcels = gather(in_arrow(counting.counted(source, target), counting.sum_packed))
    return PairCounts.of(unpack(parcels, _COUNTED, counting.schema))


def count_rows_on_cluster(
    rows: PairRows,
    rules: PairRules,
    limits: Limits,
    *,
    partition_rows: int,
    bound: Bound | None = None,
) -> PairCounts:
    """The same of rows that lie in this process, on the cluster that is there or a local one."""
    connect()
    source, target = (
        ray.data.from_arrow(
            [side.slice(at, partition_rows) for at in range(0, side.num_rows, partition_rows)]
        )
        for side in (rows.source, rows.target)
    )
    return count_pairs_on_cluster(
        source, target, rules, limits, partition_rows=partition_rows, bound=bound
    )


def pair_rows_on_cluster(
    source: Dataset,
    target: Dataset,
    rules: PairRules,
    limits: Limits,
    *,
    partition_rows: int,
    bound: Bound | None = None,
) -> Dataset:
    """The same table where it is, for one that is too large for a process.

    Returns:
        `source`, `target`, `users`, `weight`, one row for each pair, and one without a source for
        each target; in no particular order. It is counted when it is asked for.

    Raises:
        DataError: a side has no rows, or lacks a column; or the users differ in type.
        RetryLater: the cluster gave up.
    """
    counting = _prepare(source, target, rules, limits, partition_rows, bound)
    return in_arrow(counting.counted(source, target), counting.sum)


def _prepare(
    source: Dataset,
    target: Dataset,
    rules: PairRules,
    limits: Limits,
    partition_rows: int,
    bound: Bound | None,
) -> _Counting:
    with cluster_errors():
        schemas = [_schema(rows, name) for rows, name in ((source, "source"), (target, "target"))]
        total = source.count() + target.count()
    kinds = [schema.field("user").type for schema in schemas]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"users are {kinds[0]} in the source domain and {kinds[1]} in the target domain; "
            "make them alike"
        )
    return _Counting(
        source=schemas[0],
        target=schemas[1],
        rules=rules,
        bound=bound,
        limits=limits.of_a_task(),
        partitions=min(_MOST_PARTITIONS, max(1, -(-total // partition_rows))),
    )


def _pack(rows: pa.Table, buckets: NDArray[np.int64], side: int) -> pa.Table:
    return pack(rows, buckets, np.zeros(rows.num_rows, np.int64), side)


def _schema(rows: Dataset, name: str) -> pa.Schema:
    found = rows.schema()
    if found is None:
        raise DataError(f"there are no {name} events before the cut; import some, or move it later")
    schema = found.base_schema
    for column in ROW_COLUMNS:
        if column not in schema.names:
            raise DataError(f"the {name} rows have no column {column!r}; they need {ROW_COLUMNS}")
    return schema
