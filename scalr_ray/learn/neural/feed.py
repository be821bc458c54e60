"""The order in which training rows are fed: a function of (seed, epoch), never of who reads.

Rows are cut into blocks, and blocks are dealt to a fixed number of *lanes*. In each epoch a lane
shuffles its blocks, and the rows in each; a global batch is an equal share of every lane, side by
side. However many workers there are, each takes some of the lanes and reads their blocks only, so
that the same global batches are trained on by one worker, by two, and after a resume:

    lane 0   | block 6 | block 0 | block 3 |     batch 0 = the first rows of every lane,
    lane 1   | block 1 | block 7 | block 4 |     batch 1 = the next, ...
    lane 2   | block 2 | block 5 | block 8 |     worker w of W reads lanes w, w + W, w + 2W, ...

A worker holds one block of each of its lanes at a time, whatever the number of rows. Rows that Ray
Data has prepared stay in Ray's object store, which spills to disk where memory is short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.keyed import keyed_bits, stream_seed

if TYPE_CHECKING:
    import ray

    from scalr_ray.learn.neural.examples_ray import RowsOnCluster

MOST_LANES = 64
_BLOCK_BYTES = 32 * 2**20
_ORDER = "_order"
# Blocks that a worker has read and keeps, because it reads them again in each epoch: a small table
# would else be fetched for longer than it is trained on.
_KEPT_BYTES = 256 * 2**20
_kept: dict[Any, pa.Table] = {}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Blocks of training rows, and how they are dealt.

    Attributes:
        blocks: the blocks, or what `open_block` makes blocks of; block b is of lane b % lanes.
        counts: rows of each block.
        open_block: gives the rows of a block.
        batch_rows: rows of a global batch; the last batches of an epoch may have fewer.
        seed: of the order.
    """

    blocks: Sequence[Any]
    counts: Sequence[int]
    open_block: Callable[[Any], pa.Table]
    batch_rows: int
    seed: int

    @property
    def lanes(self) -> int:
        """Into how many equal shares a batch is cut: no more workers than these can be fed."""
        return _lanes(self.batch_rows)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return sum(self.counts)

    @property
    def steps(self) -> int:
        """Global batches of an epoch."""
        longest = max(sum(self.counts[lane :: self.lanes]) for lane in range(self.lanes))
        return -(-longest // self._share)

    def batches(self, epoch: int, *, rank: int = 0, workers: int = 1) -> Iterator[pa.Table]:
        """The rows of worker `rank` of `workers` in each global batch of `epoch`, in order.

        Every worker gets `steps` tables, the last of which may have no rows. The next table is
        made ready while one is in use.
        """
        return _ahead(self._batches(epoch, range(rank, self.lanes, workers)))

    @property
    def _share(self) -> int:
        return self.batch_rows // self.lanes

    def _batches(self, epoch: int, lanes: Sequence[int]) -> Iterator[pa.Table]:
        streams = [_cut(self._lane(epoch, lane), self._share) for lane in lanes]
        nothing = self.open_block(self.blocks[0]).slice(0, 0)
        for _ in range(self.steps):
            parts = [part for part in (next(stream, None) for stream in streams) if part]
            yield pa.concat_tables(parts) if parts else nothing

    def _lane(self, epoch: int, lane: int) -> Iterator[pa.Table]:
        """The blocks of a lane, shuffled."""
        mine = np.arange(lane, len(self.blocks), self.lanes)
        for block in mine[_shuffled(len(mine), "blocks", self.seed, epoch, lane)]:
            rows = self.open_block(self.blocks[block])
            yield rows.take(_shuffled(rows.num_rows, "rows", self.seed, epoch, block))


def table_feed(rows: pa.Table, *, batch_rows: int, seed: int) -> Feed:
    """A feed of training rows that are in memory."""
    rows = rows.take(np.argsort(_order_keys(rows), kind="stable"))
    count = _block_count(rows.nbytes, batch_rows)
    bounds = [number * rows.num_rows // count for number in range(count + 1)]
    blocks = [rows.slice(start, end - start) for start, end in pairwise(bounds)]
    return Feed(
        blocks=blocks,
        counts=[block.num_rows for block in blocks],
        open_block=_itself,
        batch_rows=batch_rows,
        seed=seed,
    )


def shared_feed(rows: pa.Table | RowsOnCluster, *, batch_rows: int, seed: int) -> Feed:
    """A feed of training rows in Ray's object store, for workers anywhere on the cluster.

    Rows that are on the cluster stay there: Ray Data sorts them by keys of their own, so that the
    order in which they lie does not matter, and cuts them where `table_feed` would.
    The object store keeps the blocks for as long as this process keeps the feed.

    Raises:
        RetryLater: the cluster gave up.
    """
    import ray

    if isinstance(rows, pa.Table):
        local = table_feed(rows, batch_rows=batch_rows, seed=seed)
        references = [ray.put(block.combine_chunks()) for block in local.blocks]
        counts = list(local.counts)
    else:
        from scalr_ray.offline_store.distribute import cluster_errors, in_arrow

        with cluster_errors():
            keyed = in_arrow(rows.dataset, _with_order).materialize()
            count = _block_count(keyed.size_bytes(), batch_rows)
            sorted_rows = keyed.sort(_ORDER).repartition(count).materialize()
        bundles = list(sorted_rows.iter_internal_ref_bundles())
        references = [reference for bundle in bundles for reference in bundle.block_refs]
        counts = [metadata.num_rows for bundle in bundles for metadata in bundle.metadata]
    return Feed(
        blocks=references,
        counts=counts,
        open_block=_from_store,
        batch_rows=batch_rows,
        seed=seed,
    )


def _itself(block: pa.Table) -> pa.Table:
    return block


def _from_store(reference: ray.ObjectRef[pa.Table]) -> pa.Table:
    import ray

    if reference in _kept:
        return _kept[reference]
    rows: pa.Table = ray.get(reference)
    if _ORDER in rows.column_names:
        rows = rows.drop_columns([_ORDER])
    if sum(table.nbytes for table in _kept.values()) + rows.nbytes <= _KEPT_BYTES:
        _kept[reference] = rows
    return rows


def _lanes(batch_rows: int) -> int:
    return math.gcd(batch_rows, MOST_LANES)


def _block_count(size_bytes: int, batch_rows: int) -> int:
    """As many blocks as keep each small, the same number for every lane."""
    lanes = _lanes(batch_rows)
    return lanes * max(1, -(-size_bytes // (_BLOCK_BYTES * lanes)))


def _order_keys(rows: pa.Table) -> NDArray[np.int64]:
    """A random number for each row that depends on what the row is, not on where it stands."""
    first_query = pc.list_element(rows["query_time"], 0)
    bits = keyed_bits(stream_seed("feed"), rows["user"].to_numpy(), first_query.to_numpy())
    return bits.view(np.int64)


def _with_order(rows: pa.Table) -> pa.Table:
    return rows.append_column(_ORDER, pa.array(_order_keys(rows)))


def _shuffled(count: int, *key: object) -> NDArray[np.int64]:
    return np.argsort(keyed_bits(stream_seed("feed", *key), np.arange(count)))


def _cut(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """The rows of `tables` in tables of `size` rows; the last may have fewer."""
    held: list[pa.Table] = []
    missing = size
    for table in tables:
        start = 0
        while table.num_rows - start >= missing:
            yield pa.concat_tables([*held, table.slice(start, missing)])
            start, held, missing = start + missing, [], size
        if start < table.num_rows:
            held.append(table.slice(start))
            missing -= table.num_rows - start
    if held:
        yield pa.concat_tables(held)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, each made in another thread while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
