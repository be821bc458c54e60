"""`RowStream`: rows from disk as Arrow batches, in shards, shuffled by seed, from any batch on.

The blocks of the file are put in an order that follows from seed and epoch. A shard is a slice of
that order, so that shards differ by a row at most, and all of them together give every row once. A
shard is read in pools of some blocks, and the rows of a pool are shuffled among themselves: what is
in memory is one pool, however long the file is.

Which rows a batch has follows from arithmetic over block sizes alone, so that a stream can begin in
the middle without reading what comes before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scalr_ray.core.errors import UsageError
from scalr_ray.core.keyed import stream_seed
from training.row_file import RowFile


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Rows `first` to `last`, excluded, of a block: in its own order, or in a shuffled one."""

    block: int
    first: int
    last: int

    @property
    def rows(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, kw_only=True)
class RowStream:
    """Batches of a file of rows.

    Attributes:
        file: the rows.
        columns: the columns of a batch, in order.
        batch_rows: rows of a batch; the last one of a shard may have fewer.
        shuffle_rows: about how many rows are shuffled among themselves; 0 keeps the order of the
            file.
        seed: of the order.
        drop_last: leave rows out that do not fill a batch in every shard, so that all shards give
            equally many batches, each of them full.
        codes: column -> its values in order; the batch then has the place of the value instead, -1
            where it is none of them.
    """

    file: RowFile
    columns: Sequence[str]
    batch_rows: int
    shuffle_rows: int = 0
    seed: int = 0
    drop_last: bool = False
    codes: Mapping[str, pa.Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what gives no batches."""
        if self.batch_rows < 1:
            raise UsageError(f"a batch of {self.batch_rows} rows is none; write 1 or more")
        if self.shuffle_rows < 0:
            raise UsageError(f"shuffle_rows is {self.shuffle_rows}; write 0 to keep the order")
        for name in (*self.columns, *self.codes):
            if name not in self.file.schema.names:
                raise UsageError(f"the set has no column {name!r}")

    def count(self, shard: int = 0, shards: int = 1) -> int:
        """How many batches a shard gives; a later shard never gives more than an earlier one."""
        if self.drop_last:
            return self.file.rows // shards // self.batch_rows
        first, last = self._bounds(shard, shards)
        return -(-(last - first) // self.batch_rows)

    def batches(
        self, *, epoch: int = 0, shard: int = 0, shards: int = 1, start: int = 0
    ) -> Iterator[pa.RecordBatch]:
        """The batches of one shard in one epoch, from number `start` on.

        Raises:
            DataError: the file is gone or has changed.
        """
        due = self.count(shard, shards) - start
        skipped = start * self.batch_rows
        waiting: pa.Table | None = None
        if due <= 0:
            return
        with self.file.opened() as opened:
            for pool in self._pools(epoch, shard, shards):
                rows = sum(piece.rows for piece in pool)
                if skipped >= rows:
                    skipped -= rows
                    continue
                read = self._read(opened, pool, epoch).slice(skipped)
                skipped = 0
                for batch in self._cut(read, waiting):
                    if batch.num_rows < self.batch_rows:
                        waiting = batch
                        break
                    yield _whole(batch)
                    due -= 1
                    if not due:
                        return
                else:
                    waiting = None
        if waiting is not None:
            yield _whole(waiting)

    def _cut(self, read: pa.Table, waiting: pa.Table | None) -> Iterator[pa.Table]:
        """Full batches, and what is left over at the end."""
        place = 0
        if waiting is not None:
            place = self.batch_rows - waiting.num_rows
            yield pa.concat_tables([waiting, read.slice(0, place)])
        while place < read.num_rows:
            yield read.slice(place, self.batch_rows)
            place += self.batch_rows

    def _bounds(self, shard: int, shards: int) -> tuple[int, int]:
        """Which rows of the order of an epoch a shard has: the first ones get one more."""
        share, more = divmod(self.file.rows, shards)
        first = shard * share + min(shard, more)
        return first, first + share + (shard < more)

    def _pools(self, epoch: int, shard: int, shards: int) -> Iterator[list[_Piece]]:
        first, last = self._bounds(shard, shards)
        sizes = np.asarray(self.file.blocks, dtype=np.int64)
        order = np.arange(len(sizes))
        if self.shuffle_rows:
            order = self._random("blocks", epoch).permutation(len(sizes))
        pool: list[_Piece] = []
        ends = accumulate(int(size) for size in sizes[order])
        for block, end in zip(order.tolist(), ends, strict=True):
            begin = end - int(sizes[block])
            if end <= first or begin >= last:
                continue
            pool.append(
                _Piece(block=block, first=max(first - begin, 0), last=min(last, end) - begin)
            )
            if sum(piece.rows for piece in pool) >= self.shuffle_rows:
                yield pool
                pool = []
        if pool:
            yield pool

    def _read(self, opened: pq.ParquetFile, pool: list[_Piece], epoch: int) -> pa.Table:
        read = pa.concat_tables([self._piece(opened, piece, epoch) for piece in pool])
        if self.shuffle_rows:
            place = f"{pool[0].block}:{pool[0].first}"
            read = read.combine_chunks().take(
                pa.array(self._random("rows", epoch, place).permutation(read.num_rows))
            )
        for name, values in self.codes.items():
            if name in self.columns:
                found = pc.index_in(read[name].cast(values.type), value_set=values)
                coded = pc.fill_null(found, -1).cast(pa.int64())
                read = read.set_column(read.schema.get_field_index(name), name, coded)
        return read

    def _piece(self, opened: pq.ParquetFile, piece: _Piece, epoch: int) -> pa.Table:
        block = opened.read_row_group(piece.block, columns=list(self.columns))
        if piece.rows == block.num_rows:
            return block.select(list(self.columns))
        chosen: NDArray[np.int64] = np.arange(block.num_rows)
        if self.shuffle_rows:  # shards that share a block do not get the same part in every epoch
            chosen = self._random("block", epoch, piece.block).permutation(block.num_rows)
        return block.select(list(self.columns)).take(pa.array(chosen[piece.first : piece.last]))

    def _random(self, *what: object) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=stream_seed("stream", self.seed, *what)))


def _whole(rows: pa.Table) -> pa.RecordBatch:
    return rows.combine_chunks().to_batches()[0]
