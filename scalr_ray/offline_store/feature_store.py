"""Opening a feature repository, whatever the working directory is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from feast import FeatureStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigError, RepoConfig, load_repo_config
from feast.utils import get_default_yaml_file_path
from sqlalchemy import Engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from scalr_ray.core.databases import database_error
from scalr_ray.core.errors import ConfigError, ScalrError
from scalr_ray.core.plain_yaml import yaml_problem
from scalr_ray.core.secrets import hide_secrets

# What pydantic quotes of a file that may hold the address of a database.
_INPUT = re.compile(r"input_value=.*?(?=, input_type=|\])", re.DOTALL)
_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")
_CONNECT_WAIT_S = 10
_ENGINES = ("read_engine", "write_engine")


class _FeatureStore(FeatureStore):  # type: ignore[misc] # Feast is not followed
    """A feature store that says in a line of ours what its registry's database will not do."""

    @property
    def registry(self) -> BaseRegistry:
        """The registry, opened on first use.

        Raises:
            ConfigError: its database cannot be opened, or refuses the login.
            RetryLater: its database does not answer.
        """
        if self._registry is not None:
            return self._registry
        try:
            opened = super().registry
        except DBAPIError as error:
            raise _registry_error("open", _shown(self.config.registry.path), error) from error
        for engine in _engines_of(opened):
            event.listen(engine, "handle_error", _explain)
        return opened


def open_feature_store(repo: Path) -> FeatureStore:
    """Open the feature store whose definitions lie in `repo`.

    Reads `feature_store.yaml`, or the file that `FEAST_FS_YAML_FILE_PATH` names. Feast takes a
    relative SQLite path from the working directory; here it is taken from `repo`. A registry whose
    database does not answer raises `RetryLater` once it is used, after 10 s at the latest.

    Raises:
        ConfigError: the file is missing, is no YAML, or is refused by Feast, or the address of the
            registry is none.
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
    _bound_the_wait(config)
    return _FeatureStore(repo_path=str(repo), config=config)


def close_feature_store(store: FeatureStore) -> None:
    """Close the connections of a SQL registry, which Feast leaves to the garbage collector."""
    for engine in _engines_of(store._registry):  # noqa: SLF001 - None where it was not opened
        engine.dispose()


def _engines_of(registry: BaseRegistry | None) -> set[Engine]:
    """One for reading and one for writing, which may be the same; none of a registry in a file."""
    return {getattr(registry, name) for name in _ENGINES if hasattr(registry, name)}


def _anchor_registry(config: RepoConfig, repo: Path) -> None:
    registry = config.registry_config
    path = registry.get("path", "") if isinstance(registry, dict) else ""
    if isinstance(path, str) and path.startswith(_SQLITE):
        # joining keeps a path that is absolute already
        anchored = f"{_SQLITE}{repo / path.removeprefix(_SQLITE)}"
        config.registry_config = {**registry, "path": anchored}


def _bound_the_wait(config: RepoConfig) -> None:
    """Give up on a server that does not answer, unless the file says how long to wait."""
    registry = config.registry_config
    path = registry.get("path") if isinstance(registry, dict) else None
    if not isinstance(path, str) or not path.startswith("postgresql"):
        return
    try:
        url = make_url(path)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "`path` of the registry in feature_store.yaml is no address of a database; write "
            "postgresql+psycopg://USER@HOST/NAME"
        ) from None
    if url.drivername not in _POSTGRES or "connect_timeout" in url.query:
        return
    given = registry.get("sqlalchemy_config_kwargs") or {"echo": False}
    wait = {"connect_timeout": _CONNECT_WAIT_S, **given.get("connect_args", {})}
    bounded = {**given, "connect_args": wait}
    config.registry_config = {**registry, "sqlalchemy_config_kwargs": bounded}


def _explain(context: Any) -> ScalrError | None:  # noqa: ANN401 - an ExceptionContext
    """The error to raise in place of one of the registry's database; None leaves it as it is."""
    error = context.sqlalchemy_exception
    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError):
        return None
    return _registry_error("use", _shown(context.engine.url), error)


def _registry_error(verb: str, url: str, error: DBAPIError) -> ScalrError:
    told = database_error(f"{verb} Feast's registry", url, error, sent=False)
    return told or ConfigError(
        f"could not {verb} Feast's registry at {url}: {error.orig}; mend `registry` in "
        "feature_store.yaml"
    )


def _shown(url: Any) -> str:  # noqa: ANN401 - a text or a URL of SQLAlchemy
    return make_url(url).set(query={}).render_as_string(hide_password=True)
