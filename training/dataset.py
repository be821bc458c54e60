"""`MixedDataset`: the rows of a training set, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

    from training.saving import SavedTrainingSet


@dataclass(frozen=True, kw_only=True)
class MixedDataset:
    """A training set and where it came from.

    Attributes:
        table: `training.selection.ROW_COLUMNS`, then the features of the service; ordered by event
            time and id. Real rows have weight 1, no likelihood and no batch.
        manifest: what was asked for and what it gave, as plain JSON values.
        notes: sentences on what has happened since it was saved; none to one that was just pulled.
    """

    table: pa.Table
    manifest: dict[str, Any]
    notes: tuple[str, ...] = ()

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self.table

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas frame."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def save(self, store: FeatureStore, name: str) -> SavedTrainingSet:
        """Keep it under a name, from where `training.saved.load` gets it back.

        See `training.saving.save`.
        """
        from training.saving import save

        return save(store, name, self.table, self.manifest)
