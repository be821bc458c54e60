"""What a training set is read from, told so that it can be compared and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scalr_ray.core.config import load_config

if TYPE_CHECKING:
    from feast import FeatureStore


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a training set was read from.

    Attributes:
        snapshot_id: of the table of synthetic events; None before its first, where no published
            events were read, and where the table cannot be pinned.
        files: view of real events or features -> hash of its files; None where it has no files, or
            where they changed while they were read.
        config: the fingerprint and the seed of the repository's configuration.
    """

    snapshot_id: int | None
    files: Mapping[str, str | None]
    config: Mapping[str, Any]

    @classmethod
    def of(cls, store: FeatureStore, views: Sequence[str], *, snapshot_id: int | None) -> Self:
        """What is there to be read now.

        Args:
            store: an opened feature store.
            views: names of feature views.
            snapshot_id: at which synthetic events are read.

        Raises:
            ConfigError: the repository has no valid `scalr.yaml`.
        """
        from scalr_ray.offline_store.pinning import files_fingerprint

        config = load_config(repo_of(store))
        return cls(
            snapshot_id=snapshot_id,
            files={view: files_fingerprint(store, view) for view in sorted(views)},
            config={"fingerprint": config.fingerprint, "seed": config.seed},
        )

    def to_json(self, after: Inputs) -> dict[str, Any]:
        """As plain JSON values; `after` is what was there once all had been read."""
        return {
            "snapshot_id": self.snapshot_id,
            "files": {
                view: known if known == after.files[view] else None
                for view, known in self.files.items()
            },
            "config": dict(self.config),
        }


def repo_of(store: FeatureStore) -> Path:
    """The folder of the repository that a store was opened on."""
    return Path(store.config.repo_path or store.repo_path)
