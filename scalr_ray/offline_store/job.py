"""A retrieval job: runs when asked, gives Arrow, pandas, a Ray Dataset or a saved file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage

from scalr_ray.core.errors import UsageError
from scalr_ray.offline_store.parts import write_file, write_split
from scalr_ray.offline_store.storage import Kind, Place

if TYPE_CHECKING:
    import ray.data

RAY_BLOCK_ROWS = 50_000
BATCH_ROWS = 65_536
EXPORT_ROWS = 1_000_000


class AsOfRetrievalJob(RetrievalJob):  # type: ignore[misc] # Feast publishes no types
    """What `get_historical_features` and the pulls return; every call to it reads anew."""

    def __init__(
        self,
        execute: Callable[[], pa.Table],
        *,
        sql: str,
        repo: Path,
        export_to: Place | None = None,
        on_cluster: Callable[..., ray.data.Dataset | None] | None = None,
        metadata: RetrievalMetadata | None = None,
        full_feature_names: bool = False,
        on_demand: list[OnDemandFeatureView] | None = None,
    ) -> None:
        super().__init__()
        self._execute = execute
        self._on_cluster = on_cluster
        self._sql = sql
        self._repo = repo
        self._export_to = export_to
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

    def to_ray_dataset(self, *, in_order: bool = False) -> ray.data.Dataset:
        """The result as a Ray Dataset of several blocks, so that work on it spreads.

        What a cluster joined stays there. On-demand features are computed in this process.

        Args:
            in_order: whether the rows must come in the order of the entity rows, as they do anyhow
                when this process joined them.
        """
        import ray.data

        if self._on_cluster is not None and not self._on_demand:
            joined = self._on_cluster(in_order=in_order)
            if joined is not None:
                return joined
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
            UsageError: the storage is no `.parquet` file on local disk or in S3.
            SavedDatasetLocationAlreadyExists: the file is there and may not be overwritten.
            RetryLater: S3 does not answer; nothing is written.
        """
        if not isinstance(storage, SavedDatasetFileStorage):
            raise UsageError("save datasets to a SavedDatasetFileStorage")
        options = storage.file_options
        place = Place.at(options.uri, repo=self._repo, endpoint=options.s3_endpoint_override)
        if not place.name.endswith(".parquet"):
            raise UsageError(f"save the dataset to a path that ends in .parquet, not {place.uri}")
        if not allow_overwrite and place.kind() is not Kind.NOTHING:
            raise SavedDatasetLocationAlreadyExists(location=place.uri)
        write_file(place, self.to_arrow(timeout=timeout))

    def to_arrow_batches(self, timeout: int | None = None) -> pa.RecordBatchReader:
        """The result of `to_arrow` as an iterator of batches of at most 65,536 rows each."""
        return self.to_arrow(timeout=timeout).to_reader(max_chunksize=BATCH_ROWS)

    def supports_remote_storage_export(self) -> bool:
        """Whether `to_remote_storage` knows where to write."""
        return self._export_to is not None

    def to_remote_storage(self) -> list[str]:
        """Write the result, on-demand features included, as Parquet files of a million rows each.

        They lie in a new folder below the store's `blob_export_location`; there is at least one.

        Returns:
            Their `s3://` URIs or absolute local paths, in the order of the rows.

        Raises:
            UsageError: no location is configured.
            RetryLater: S3 does not answer.
        """
        if self._export_to is None:
            raise UsageError(
                "there is no place to export to; set offline_store.blob_export_location in "
                "feature_store.yaml to a folder or to s3://<bucket>/<path>"
            )
        return write_split(self._export_to / uuid4().hex, self.to_arrow(), rows=EXPORT_ROWS)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._execute()

    def _to_df_internal(self, timeout: int | None = None) -> Any:  # noqa: ANN401 - pandas
        return self._to_arrow_internal(timeout=timeout).to_pandas()
