"""A registry whose database does not answer is told in one line, soon, and without a password."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import call_scalr
from losing_proxy import losing_proxy
from marks import OPENS_FEAST
from scheduled_runs import DEFINITIONS

from scalr_ray.core.errors import ConfigError, RetryLater

pytestmark = OPENS_FEAST

SECRET = "geheim"  # noqa: S105 - of nobody
SQLITE = "sqlite:///data/scalr.db"


@pytest.fixture
def repo_at(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a repository whose registry alone has an address."""

    def make(url: str) -> Path:
        repo = tmp_path / "repo"
        shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
        file = repo / "feature_store.yaml"
        text = file.read_text(encoding="utf-8")
        assert SQLITE in text
        file.write_text(text.replace(SQLITE, url), encoding="utf-8")
        return repo

    return make


def address(port: int) -> str:
    return f"postgresql+psycopg://me:{SECRET}@127.0.0.1:{port}/feast"


def test_a_port_that_refuses_is_named_by_every_verb_that_asks_feast(repo_at):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    repo = repo_at(address(port))
    for verb in (["apply"], ["run", "--as-of", "2025-01-01"]):
        answer = call_scalr(repo, *verb)
        assert (answer.code, answer.out) == (4, ""), verb
        said = answer.err.splitlines()[-1]
        assert said.startswith(
            "scalr: could not open Feast's registry: "
            f"postgresql+psycopg://me:***@127.0.0.1:{port}/feast does not answer ("
        )
        assert "refused" in said
        assert said.endswith("; try again")
        assert SECRET not in answer.err


def test_a_server_that_never_answers_is_waited_for_ten_seconds(repo_at):
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as silent:  # which takes the connection, and no more
        repo = repo_at(address(silent.getsockname()[1]))
        from scalr_ray.offline_store import open_feature_store

        store = open_feature_store(repo)
        began = time.monotonic()
        with pytest.raises(RetryLater, match=r"127\.0\.0\.1:\d+/feast does not answer"):
            store.list_feature_views()
        assert 8 < time.monotonic() - began < 60


def test_a_server_that_is_lost_meanwhile_is_told_too(repo_at, postgres_url):
    from scalr_ray.offline_store.feature_store import close_feature_store, open_feature_store

    with losing_proxy(postgres_url) as proxy:
        store = open_feature_store(repo_at(proxy.url))
        assert store.list_feature_views() == []
        proxy.close()
        with pytest.raises(RetryLater, match="could not use Feast's registry: postgresql"):
            store.list_feature_views()
        assert store.list_feature_views() == []
        close_feature_store(store)


@pytest.mark.parametrize("url", [f"postgresql://me:{SECRET}@host:port/x", f"postgresql:{SECRET}"])
def test_an_address_that_is_none_is_refused_and_not_quoted(repo_at, url):
    from scalr_ray.offline_store import open_feature_store

    with pytest.raises(ConfigError, match="is no address of a database") as told:
        open_feature_store(repo_at(url))
    assert SECRET not in told.value.message
