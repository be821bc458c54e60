"""A training set as a torch `IterableDataset`, for any number of ranks and workers.

A batch is a dictionary of tensors, one for each column: numbers as they are, times as microseconds
since 1970, ids as their places in a list that is given. Whole numbers and truth values of which
some are missing come as float64, with NaN.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa
import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from scalr_ray.core.errors import UsageError
from scalr_ray.core.fingerprint import fingerprint
from training.row_stream import RowStream

Batch = dict[str, Tensor]


@dataclass(kw_only=True)
class Position:
    """Where a stream is.

    Attributes:
        epoch: that is under way, or comes next.
        taken: batches of it that have been given.
        start: batches of it that the next pass leaves out, because they were given before.
    """

    epoch: int = 0
    taken: int = 0
    start: int = 0

    def begin(self) -> int:
        """Begin a pass; returns how many batches it leaves out."""
        self.taken, self.start = self.start, 0
        return self.taken

    def move(self, epoch: int, taken: int = 0) -> None:
        """Go to a batch of an epoch."""
        self.epoch, self.taken, self.start = epoch, taken, taken


class TorchStream(IterableDataset[Batch]):
    """Batches of tensors of the shard of this rank and worker.

    One pass is one epoch; the next one begins the next epoch, in another order. Where torch has a
    process group, its ranks share the rows, and so do the workers of a `DataLoader`, which takes
    the stream with `batch_size=None`. `state_dict` counts what this object itself has given: with
    workers, take `loader`, which counts what came out of them.
    """

    def __init__(self, stream: RowStream) -> None:
        """Shuffle nothing and read nothing yet.

        Args:
            stream: where batches come from.

        Raises:
            UsageError: a column becomes no tensor.
        """
        super().__init__()
        for name in stream.columns:
            kind = stream.file.schema.field(name).type
            if name not in stream.codes and not becomes_tensor(kind):
                raise UsageError(
                    f"column {name!r} is {kind}, which no tensor holds; leave it out, or give its "
                    f"values in order: codes={{{name!r}: ...}}"
                )
        self._stream = stream
        self._place: tuple[int, int] | None = None
        self.position = Position()

    @property
    def epoch(self) -> int:
        """The epoch that is under way, or comes next."""
        return self.position.epoch

    def at_rank(self, rank: int, ranks: int) -> Self:
        """Take the share of a rank, whatever process group there is; returns the stream.

        Raises:
            UsageError: there is no such rank.
        """
        if not 0 <= rank < ranks:
            raise UsageError(f"there is no rank {rank} of {ranks}; ranks count from 0")
        self._place = (rank, ranks)
        return self

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch with the next pass; the one that is under way goes on."""
        if epoch != self.epoch:
            self.position.move(epoch)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        start = self.position.begin()
        # Batches go round: the worker that comes first now is the one whose turn it was.
        turn = (worker + start) % workers
        rank, ranks = self._where()
        for batch in self._stream.batches(
            epoch=self.epoch,
            shard=rank * workers + turn,
            shards=ranks * workers,
            start=start // workers + (turn < start % workers),
        ):
            self.position.taken += 1
            yield self._tensors(batch)
        self.position.move(self.epoch + 1)

    def count(self, workers: int = 1) -> int:
        """How many batches an epoch of this rank has, through that many workers."""
        rank, ranks = self._where()
        return sum(
            self._stream.count(rank * workers + worker, ranks * workers)
            for worker in range(workers)
        )

    def state_dict(self, *, workers: int = 1) -> dict[str, Any]:
        """Where the stream is, for `load_state_dict`; plain JSON values."""
        position = self.position
        return {
            "epoch": position.epoch,
            "batches": position.taken,
            "settings": self._settings(workers),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, workers: int = 1) -> None:
        """Go on after the last batch that had been given when the state was taken.

        Raises:
            UsageError: the state is of other rows, another order or another number of shards.
        """
        before = state["settings"]
        for name, value in self._settings(workers).items():
            if before.get(name) != value:
                raise UsageError(
                    f"the stream cannot go on from there: {name} was {before.get(name)!r} and is "
                    f"{value!r} now"
                )
        self.position.move(int(state["epoch"]), int(state["batches"]))

    def loader(self, workers: int = 0, **options: Any) -> TorchLoader:  # noqa: ANN401 - torch's
        """The stream through workers of a `DataLoader`, which is given the options.

        Another number of workers gives the same rows in other batches.
        """
        return TorchLoader(self, workers=workers, options=options)

    def __getstate__(self) -> dict[str, Any]:
        """A worker is of the rank of the process that starts it, and has no process group."""
        return {**self.__dict__, "_place": self._where()}

    def _where(self) -> tuple[int, int]:
        if self._place is not None:
            return self._place
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def _settings(self, workers: int) -> dict[str, Any]:
        stream = self._stream
        rank, ranks = self._where()
        codes = {name: fingerprint(values.to_pylist(), 16) for name, values in stream.codes.items()}
        return {
            "rows": stream.file.footer,
            "columns": list(stream.columns),
            "codes": codes,
            "batch_size": stream.batch_rows,
            "shuffle_rows": stream.shuffle_rows,
            "seed": stream.seed,
            "drop_last": stream.drop_last,
            "rank": rank,
            "ranks": ranks,
            "workers": workers,
        }

    def _tensors(self, batch: pa.RecordBatch) -> Batch:
        coded, nulls = self._stream.codes, self._stream.file.with_nulls
        return {
            name: _tensor(values, may_miss=name in nulls and name not in coded)
            for name, values in zip(batch.schema.names, batch.columns, strict=True)
        }


class TorchLoader:
    """A `TorchStream` through the workers of a `DataLoader`, which can go on in mid-epoch."""

    def __init__(self, stream: TorchStream, *, workers: int, options: Mapping[str, Any]) -> None:
        """Start no worker yet.

        Args:
            stream: what it gives.
            workers: processes that read; 0 reads in this one.
            options: for the `DataLoader`.

        Raises:
            UsageError: there are fewer than no workers.
        """
        if workers < 0:
            raise UsageError(f"there are no {workers} workers; write 0 to read in this process")
        self.stream = stream
        self._workers = workers
        self._options = options

    def __len__(self) -> int:
        return self.stream.count(max(self._workers, 1))

    def __iter__(self) -> Iterator[Batch]:
        """One epoch, or what is left of it."""
        position = self.stream.position
        # Workers get the stream as it is now; it counts here what comes out of them.
        read = copy.copy(self.stream)
        read.position = replace(position)
        loader = DataLoader(read, batch_size=None, num_workers=self._workers, **self._options)
        position.begin()
        for batch in loader:
            position.taken += 1
            yield batch
        position.move(position.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: batches that workers have ready are not counted."""
        return self.stream.state_dict(workers=max(self._workers, 1))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last batch that had been given when the state was taken.

        Raises:
            UsageError: the state is of other rows, another order or another number of workers.
        """
        self.stream.load_state_dict(state, workers=max(self._workers, 1))


def becomes_tensor(kind: pa.DataType) -> bool:
    """Whether a column of that type needs no codes to become a tensor."""
    types = pa.types
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(number or types.is_timestamp(kind))


def _tensor(values: pa.Array, *, may_miss: bool) -> Tensor:
    kind = values.type
    if pa.types.is_timestamp(kind):
        values = values.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64())
    elif pa.types.is_unsigned_integer(kind):
        values = values.cast(pa.int64())
    if may_miss and not pa.types.is_floating(kind):
        values = values.cast(pa.float64())  # in every batch, whether or not one is missing there
    array = values.to_numpy(zero_copy_only=False)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
