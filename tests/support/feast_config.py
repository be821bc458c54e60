"""The Feast configuration of a repository that a test makes, with our offline store."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def feast_config(repo: Path, *, registry: str | None = None, **offline_store: Any) -> Any:
    """A `RepoConfig` for `repo`.

    Args:
        repo: the folder that relative paths are taken from.
        registry: its address; left out, a SQLite file in `repo`.
        offline_store: options of the offline store; `type` picks another one.
    """
    from feast import RepoConfig

    return RepoConfig(
        project="tests",
        provider="local",
        registry={
            "registry_type": "sql",
            "path": registry or f"sqlite:///{repo / 'registry.db'}",
        },
        offline_store={"type": "scalr_ray.offline_store.AsOfOfflineStore"} | offline_store,
        online_store=None,
        entity_key_serialization_version=3,
        repo_path=repo,
    )
