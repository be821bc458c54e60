"""Where things lie under a feature repository.

```
<repo>/scalr.yaml feature_store.yaml *.py    definitions
<repo>/<data_dir>/scalr.db                   registry, ledger and Iceberg catalog in one file
                  events/{source,target}_events/part-*.parquet
                  features/{user_source_features,item_popularity}/part-*.parquet
                  warehouse/                 the Iceberg table of synthetic events, staged batches
                  training_sets/<name>/      saved training sets
                  erasures/                  what an erasure that is under way still needs
                  translators/<version>/     safetensors, JSON, parquet
                  training/<run>-<stage>/    checkpoints and TensorBoard files of neural trainings
                  rejected/                  rows set aside, with the reason
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from scalr_ray.core.config import ScalrConfig, load_config

ICEBERG_CATALOG = "scalr"
ICEBERG_NAMESPACE = "scalr"
ICEBERG_TABLE = "synthetic_events"
_S3 = "s3://"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Absolute paths of one feature repository.

    Attributes:
        repo: where the definitions lie.
        data: everything that is written.
        database: URL of the database, if it is not the file in `data`.
        warehouse_at: folder or `s3://` address of the warehouse, if it is not in `data`.
    """

    repo: Path
    data: Path
    database: str | None = None
    warehouse_at: str | None = None

    @classmethod
    def of(cls, repo: Path, config: ScalrConfig | None = None) -> Layout:
        """The layout of the repository at `repo`; reads its `scalr.yaml` unless given."""
        repo = repo.resolve()
        settings = load_config(repo) if config is None else config
        place = settings.warehouse
        if place is not None and not place.startswith(_S3):
            place = str((repo / place).resolve())
        return cls(
            repo=repo,
            data=(repo / settings.data_dir).resolve(),
            database=settings.database,
            warehouse_at=place,
        )

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the registry, the ledger and the Iceberg catalog."""
        return self.database or f"sqlite:///{quote(str(self.data / 'scalr.db'))}"

    @property
    def warehouse(self) -> str:
        """Root of the Iceberg table's files: an absolute path, or `s3://bucket/prefix`."""
        return self.warehouse_at or str(self.data / "warehouse")

    @property
    def warehouse_uri(self) -> str:
        """The same as a URI."""
        return self.warehouse if self.warehouse.startswith(_S3) else Path(self.warehouse).as_uri()

    @property
    def training_sets(self) -> Path:
        """One folder per saved training set."""
        return self.data / "training_sets"

    @property
    def erasures(self) -> Path:
        """What erasures that are under way still need: the ids, until they are done."""
        return self.data / "erasures"

    @property
    def erasure_key(self) -> Path:
        """The key of the hashes by which users who were erased are known."""
        return self.data / "erasure.key"

    @property
    def translators(self) -> Path:
        """One folder per translator version."""
        return self.data / "translators"

    @property
    def training(self) -> Path:
        """One folder per training of a net: where it stands, and TensorBoard files."""
        return self.data / "training"

    @property
    def generation(self) -> Path:
        """One folder per batch that is being drawn."""
        return self.data / "generation"

    @property
    def rejected(self) -> Path:
        """Rows that were set aside at import or generation, with the reason."""
        return self.data / "rejected"

    def events(self, view: str) -> Path:
        """The folder of Parquet files behind the event view `view`."""
        return self.data / "events" / view

    def features(self, view: str) -> Path:
        """The folder of Parquet files behind the feature view `view`."""
        return self.data / "features" / view

    def glob(self, folder: Path) -> str:
        """The pattern every reader uses for a folder: its Parquet parts, nothing staged."""
        return str(folder / "part-*.parquet")
