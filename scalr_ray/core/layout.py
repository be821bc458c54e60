"""Where things lie under a feature repository.

```
<repo>/scalr.yaml feature_store.yaml *.py    definitions
<repo>/<data_dir>/scalr.db                   registry, ledger and Iceberg catalog in one file
                  events/{source,target}_events/part-*.parquet
                  features/{user_source_features,item_popularity}/part-*.parquet
                  warehouse/                 the Iceberg table of synthetic events, staged batches
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


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Absolute paths of one feature repository."""

    repo: Path
    data: Path

    @classmethod
    def of(cls, repo: Path, config: ScalrConfig | None = None) -> Layout:
        """The layout of the repository at `repo`; reads its `scalr.yaml` unless given."""
        repo = repo.resolve()
        settings = load_config(repo) if config is None else config
        return cls(repo=repo, data=(repo / settings.data_dir).resolve())

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the registry, the ledger and the Iceberg catalog."""
        return f"sqlite:///{quote(str(self.data / 'scalr.db'))}"

    @property
    def warehouse(self) -> Path:
        """Root of the Iceberg table's files."""
        return self.data / "warehouse"

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
