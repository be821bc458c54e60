"""A retrieval job: runs when asked, gives Arrow, pandas, a Ray Dataset or a saved file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage

from scalr_ray.core.errors import UsageError
from scalr_ray.offline_store.parts import write_beside

if TYPE_CHECKING:
    import ray.data

RAY_BLOCK_ROWS = 50_000


class AsOfRetrievalJob(RetrievalJob):  # type: ignore[misc] # Feast publishes no types
    """What `get_historical_features` and the pulls return; every call to it reads anew."""

    def __init__(
        self,
        execute: Callable[[], pa.Table],
        *,
        sql: str,
        repo: Path,
        metadata: RetrievalMetadata | None = None,
        full_feature_names: bool = False,
        on_demand: list[OnDemandFeatureView] | None = None,
    ) -> None:
        super().__init__()
        self._execute = execute
        self._sql = sql
        self._repo = repo
        self._metadata = metadata
        self._full_feature_names = full_feature_names
        self._on_demand = on_demand or []

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views that Feast computes from the result."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Feature references, keys and time range; None for a plain pull."""
        return self._metadata

    def to_sql(self) -> str:
        """The DuckDB statements, one per feature view."""
        return self._sql

    def to_ray_dataset(self) -> ray.data.Dataset:
        """The result as a Ray Dataset of blocks of 50,000 rows, so that work on it spreads."""
        import ray.data

        table = self.to_arrow()
        starts = range(0, max(table.num_rows, 1), RAY_BLOCK_ROWS)
        return ray.data.from_arrow([table.slice(start, RAY_BLOCK_ROWS) for start in starts])

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,  # noqa: FBT001, FBT002 - Feast's signature
        timeout: int | None = None,
    ) -> None:
        """Write the result, on-demand features included, as one Parquet file, all or nothing.

        Raises:
            UsageError: the storage is no local `.parquet` file.
            SavedDatasetLocationAlreadyExists: the file is there and may not be overwritten.
        """
        if not isinstance(storage, SavedDatasetFileStorage):
            raise UsageError("save datasets to a SavedDatasetFileStorage")
        where = FileSource.get_uri_for_file_path(self._repo, storage.file_options.uri)
        path = Path(where)
        if "://" in where or path.suffix != ".parquet":
            raise UsageError(f"save the dataset to a local path that ends in .parquet, not {where}")
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, self.to_arrow(timeout=timeout)).replace(path)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._execute()

    def _to_df_internal(self, timeout: int | None = None) -> Any:  # noqa: ANN401 - pandas
        return self._to_arrow_internal(timeout=timeout).to_pandas()
