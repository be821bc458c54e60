"""Opening a feature repository, whatever the working directory is."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from feast import FeatureStore
from feast.repo_config import FeastConfigError, RepoConfig, load_repo_config
from feast.utils import get_default_yaml_file_path

from scalr_ray.core.errors import ConfigError
from scalr_ray.core.plain_yaml import yaml_problem
from scalr_ray.core.secrets import hide_secrets

# What pydantic quotes of a file that may hold the address of a database.
_INPUT = re.compile(r"input_value=.*?(?=, input_type=|\])", re.DOTALL)
_SQLITE = "sqlite:///"


def open_feature_store(repo: Path) -> FeatureStore:
    """Open the feature store whose definitions lie in `repo`.

    Reads `feature_store.yaml`, or the file that `FEAST_FS_YAML_FILE_PATH` names. Feast takes a
    relative SQLite path from the working directory; here it is taken from `repo`.

    Raises:
        ConfigError: the file is missing, is no YAML, or is refused by Feast.
    """
    repo = repo.resolve()
    file = get_default_yaml_file_path(repo)
    try:
        config = load_repo_config(repo, file)
    except FileNotFoundError as error:
        raise ConfigError(f"{file} is not there; point --repo at a folder that holds it") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {yaml_problem(error)}") from error
    except (FeastConfigError, TypeError) as error:
        reason = hide_secrets(_INPUT.sub("", str(error)))
        raise ConfigError(f"{file} is no valid Feast configuration: {reason}") from None
    _anchor_registry(config, repo)
    return FeatureStore(repo_path=str(repo), config=config)


def close_feature_store(store: FeatureStore) -> None:
    """Close the connections of a SQL registry, which Feast leaves to the garbage collector."""
    for name in ("read_engine", "write_engine"):
        engine = getattr(store.registry, name, None)
        if engine is not None:
            engine.dispose()


def _anchor_registry(config: RepoConfig, repo: Path) -> None:
    registry = config.registry_config
    path = registry.get("path", "") if isinstance(registry, dict) else ""
    if isinstance(path, str) and path.startswith(_SQLITE):
        # joining keeps a path that is absolute already
        anchored = f"{_SQLITE}{repo / path.removeprefix(_SQLITE)}"
        config.registry_config = {**registry, "path": anchored}
