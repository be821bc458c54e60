"""How a repository that a test makes is configured: its store, its database."""

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


def use_database(repo: Path, url: str) -> None:
    """Let the copied definitions name a database in the place of the SQLite file."""
    for name in ("scalr.yaml", "feature_store.yaml"):
        text = (repo / name).read_text(encoding="utf-8")
        text = text.replace("database: null", f"database: {url}")
        text = text.replace("sqlite:///data/scalr.db", url)
        (repo / name).write_text(text, encoding="utf-8")
