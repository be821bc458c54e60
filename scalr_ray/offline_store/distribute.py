"""The as-of join on a cluster: both sides shuffled by key with Ray Data, the same kernel on each.

```
entity rows ─────────► cut into parcels ──┐
                                          ├──► heavy buckets split ──► shuffled ──► kernel
feature pieces, read ─► cut into parcels ─┘
```

Views that are keyed alike share one shuffle; the result of one shuffle is the entity side of the
next. A partition may be any set of whole buckets, so that it matters to no row how many partitions
there are. Ray runs a task again whose worker was lost, and every task gives the same rows again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import Dataset
from ray.data.context import ShuffleStrategy
from ray.exceptions import RayError, RayTaskError

from scalr_ray.core.errors import DataError, RetryLater, ScalrError
from scalr_ray.offline_store.entity_rows import read_entities
from scalr_ray.offline_store.limits import Limits, open_duck
from scalr_ray.offline_store.parcels import PARCELS, key_types
from scalr_ray.offline_store.shuffle import Shuffle, ShuffledView, Slices
from scalr_ray.offline_store.sources.reading import Piece

if TYPE_CHECKING:  # that one loads Feast, which a worker of the cluster does without
    from scalr_ray.offline_store.retrieve import FoundView

_MOST_PARTITIONS = 1024  # the shuffle keeps an object for each pair of a block and a partition
_BUCKETS_EACH = 16  # so many small buckets make partitions of about the same size
_MOST_BUCKETS = 4096  # with more, the parcels of a block would be too small
_LOOKED_AT = 4_000_000  # parcels whose sizes come to this process
_HEAVY = 2  # as many times the rows of a partition


@dataclass(frozen=True, kw_only=True)
class EntityRows:
    """The entity side: a dataset, and what is known of it before it is run."""

    rows: Dataset
    schema: pa.Schema
    count: int


def distribute(
    entities: EntityRows, views: Sequence[FoundView], limits: Limits, *, partition_rows: int
) -> Dataset:
    """The entity rows with the features of every view appended, in no particular order.

    The entity rows and the sources are read and cut now, the last shuffle runs when the result is
    asked for.

    Args:
        entities: what features are wanted for.
        views: where they come from.
        limits: of DuckDB, for each task.
        partition_rows: how many rows of both sides one task joins.

    Raises:
        ScalrError: as the same retrieval on one machine would.
    """
    joined = entities
    for alike in _keyed_alike(views):
        joined = _join(joined, alike, limits, partition_rows)
    return joined.rows


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Raise what a task raised on purpose as if it had been raised here."""
    try:
        yield
    except RayTaskError as error:
        if not isinstance(error.cause, ScalrError):
            raise
        line = str(error.cause).splitlines()[0]  # Ray adds lines of its own
        raise type(error.cause)(line) from error
    except RayError as error:
        raise RetryLater(f"the cluster gave up: {str(error).splitlines()[0]}; try again") from error


def read_dataset(rows: Dataset) -> EntityRows:
    """Entity rows that are a Ray Dataset, their time column made timestamp[us, UTC].

    Raises:
        DataError: there are none, or there is no usable time column.
    """
    typed = in_arrow(rows, read_entities)
    with cluster_errors():
        found = typed.schema()
        if found is None:
            raise DataError("entity_df is a Ray Dataset without rows; there is nothing to join")
        schema = found.base_schema
        return EntityRows(
            rows=in_arrow(typed, partial(pa.Table.cast, target_schema=schema)),
            schema=schema,
            count=rows.count(),
        )


def read_pieces(pieces: Sequence[Piece], sql: str, limits: Limits) -> Dataset:
    """What the statement `sql` makes of `feature_rows`, piece by piece, in no order."""
    return _for_each_piece(pieces, partial(_select, sql=sql, limits=limits))


def in_arrow(rows: Dataset, step: Callable[..., object]) -> Dataset:
    """Apply a function of Arrow tables to each block as it is."""
    return _settled(rows).map_batches(step, batch_size=None, batch_format="pyarrow")


def _for_each_piece(
    pieces: Sequence[Piece], step: Callable[[Piece], Iterator[pa.Table]]
) -> Dataset:
    """What `step` makes of each piece, in tasks of their own."""
    numbers = ray.data.range(len(pieces), override_num_blocks=len(pieces))
    return in_arrow(numbers, partial(_step_through, pieces=pieces, step=step))


def _step_through(
    numbers: pa.Table, *, pieces: Sequence[Piece], step: Callable[[Piece], Iterator[pa.Table]]
) -> Iterator[pa.Table]:
    for number in numbers["id"].to_pylist():
        yield from step(pieces[number])


def _select(piece: Piece, *, sql: str, limits: Limits) -> Iterator[pa.Table]:
    with open_duck(limits) as session:
        for batch in piece.read():
            session.register("feature_rows", pa.Table.from_batches([batch]))
            yield session.sql(sql).to_arrow_table()


def _keyed_alike(views: Sequence[FoundView]) -> list[list[FoundView]]:
    groups: dict[tuple[object, ...], list[FoundView]] = defaultdict(list)
    for view in views:
        types = key_types(view.schema, view.join.keys)
        groups[*view.read.keys.values(), *types].append(view)
    return list(groups.values())


def _join(
    entities: EntityRows, views: Sequence[FoundView], limits: Limits, partition_rows: int
) -> EntityRows:
    total = entities.count + sum(view.count for view in views)
    partitions = min(_MOST_PARTITIONS, max(1, -(-total // partition_rows)))
    shuffle = Shuffle(
        views=tuple(
            ShuffledView(
                name=view.read.name,
                join=view.join,
                entity_keys=tuple(view.read.keys.values()),
                shown=view.read.features,
                schema=view.schema,
            )
            for view in views
        ),
        key_types=key_types(views[0].schema, views[0].join.keys),
        entities=entities.schema,
        buckets=min(partitions * _BUCKETS_EACH, _MOST_BUCKETS),
        limits=limits,
    )
    parcels = in_arrow(entities.rows, shuffle.cut_entities)
    for side, view in enumerate(views, 1):
        if pieces := list(view.rows.pieces()) if view.rows else []:
            cut = partial(_cut, shuffle=shuffle, side=side)
            parcels = parcels.union(_for_each_piece(pieces, cut))
    if partitions > 1:
        parcels = _without_heavy(parcels, shuffle, max(partition_rows, total // partitions))
    joined = in_arrow(_settled(parcels).repartition(partitions, keys=["bucket"]), shuffle.answer)
    schema = shuffle.answer(PARCELS.empty_table()).schema
    return EntityRows(rows=joined, schema=schema, count=entities.count)


def _cut(piece: Piece, *, shuffle: Shuffle, side: int) -> Iterator[pa.Table]:
    # Ray loses the columns of a block without rows, and its shuffle then fails
    yield shuffle.cut_features(side, shuffle.views[side - 1].schema.empty_table())
    for batch in piece.read():
        yield shuffle.cut_features(side, pa.Table.from_batches([batch]))


def _without_heavy(parcels: Dataset, shuffle: Shuffle, usual: int) -> Dataset:
    """The parcels, those of buckets far above the `usual` number of rows split by time."""
    with cluster_errors():
        parcels = parcels.materialize()
    every = -(-parcels.num_blocks() * shuffle.buckets // _LOOKED_AT)
    weights = gather(in_arrow(parcels, partial(_some, columns=("bucket", "rows"), every=every)))
    total = weights.group_by("bucket").aggregate([("rows", "sum")])
    slices = {
        row["bucket"]: -(-row["rows_sum"] * every // usual)
        for row in total.to_pylist()
        if row["rows_sum"] * every > _HEAVY * usual
    }
    if not slices:
        return parcels
    samples = gather(in_arrow(parcels, partial(_some, columns=("bucket", "moments"), every=every)))
    heavy: dict[int, Slices] = {}
    first = shuffle.buckets
    for bucket, count in slices.items():
        moments = pc.list_flatten(samples.filter(pc.equal(samples["bucket"], bucket))["moments"])
        heavy[bucket] = Slices.even(moments.to_numpy(), count, first)
        first += count
    return in_arrow(parcels, partial(shuffle.split, heavy=heavy))


def _some(parcels: pa.Table, *, columns: Sequence[str], every: int) -> pa.Table:
    """One in `every` parcels of a block, beginning at a place that differs from block to block."""
    first = sum(parcels["rows"].to_pylist()) % every
    return parcels.select(list(columns)).take(pa.array(range(first, parcels.num_rows, every)))


def _settled(rows: Dataset) -> Dataset:
    """The settings of a dataset are a copy of those of the process, which stay as they are."""
    rows.context.raise_original_map_exception = True
    rows.context.shuffle_strategy = ShuffleStrategy.SHUFFLE_V2
    rows.context.shuffle_compression = "lz4"  # quick; zstd gains little on numbers
    return rows


def gather(rows: Dataset) -> pa.Table:
    """All rows, in this process.

    Raises:
        ScalrError: what a task raised on purpose.
    """
    with cluster_errors():
        blocks: list[pa.Table] = ray.get(rows.to_arrow_refs())
    found = [block for block in blocks if block.num_columns]  # without columns: without rows
    return pa.concat_tables(found) if found else pa.table({})
