"""`MixedDataset`: the rows of a training set, and where they came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from scalr_ray.core.errors import UsageError
from training.row_file import BLOCK_ROWS, RowFile

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore
    from ray.data import Dataset

    from training.saving import SavedTrainingSet
    from training.splits import Split
    from training.torch_stream import TorchStream


@dataclass(frozen=True, kw_only=True)
class MixedDataset:
    """A training set and where it came from.

    Attributes:
        table: `training.selection.ROW_COLUMNS`, then the features of the service; ordered by event
            time and id. Real rows have weight 1, no likelihood and no batch.
        manifest: what was asked for and what it gave, as plain JSON values.
        notes: sentences on what has happened since it was saved; none to one that was just pulled.
        store: what it was pulled from, and is saved to.
    """

    table: pa.Table
    manifest: dict[str, Any]
    notes: tuple[str, ...] = ()
    store: FeatureStore | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without the store: its connections do not travel to another process."""
        return vars(self) | {"store": None}

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self.table

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas frame."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def to_batches(self, batch_rows: int = BLOCK_ROWS) -> Iterator[pa.RecordBatch]:
        """The rows as Arrow batches, in order, without a copy."""
        yield from self.table.combine_chunks().to_batches(max_chunksize=batch_rows)

    def to_torch(
        self,
        batch_size: int,
        *,
        columns: Sequence[str] | None = None,
        codes: Mapping[str, Sequence[Any]] | None = None,
        **options: Any,  # noqa: ANN401 - those of `torch_stream`
    ) -> TorchStream:
        """The rows as a `TorchStream`, read from a file of its own on disk.

        See `training.streams.torch_stream`.
        """
        from training.streams import torch_stream

        file = RowFile.spooled(self.table)
        return torch_stream(file, batch_size, columns=columns, codes=codes, **options)

    def to_ray(self) -> Dataset:
        """The rows as a Ray Dataset of blocks in the object store, for Ray Train."""
        from ray import data

        return data.from_arrow([pa.Table.from_batches([batch]) for batch in self.to_batches()])

    def split(self, at: datetime | str, *, embargo: timedelta = timedelta(0)) -> Split:
        """Two parts by time: what was known at the cut, and the real rows after it.

        See `training.splits.split`.
        """
        from training.splits import split

        return split(self, at, embargo=embargo)

    def save(self, name: str) -> SavedTrainingSet:
        """Keep it under a name in its repository, from where `training.saved.load` gets it back.

        See `training.saving.save`.
        """
        from training.saving import save

        if self.store is None:
            raise UsageError("these rows were not pulled from a store; pull them, then save")
        return save(self.store, name, self.table, self.manifest)
