"""Fixtures for tests that need a database: PostgreSQL, or SQLite and PostgreSQL in turn.

One server runs for the whole session, from the first test that asks for it. Each test or module
has databases of its own on it, so that none sees what another left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

if TYPE_CHECKING:  # the server's module brings psycopg, which most unit tests do without
    from postgres_server import Database, Server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running PostgreSQL server."""
    from postgres_server import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def postgres_database(postgres: Server) -> Iterator[Database]:
    """An empty PostgreSQL database for the tests of one module."""
    with postgres.fresh_database() as database:
        yield database


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def module_database(request: pytest.FixtureRequest) -> Iterator[Database | None]:
    """For the tests of one module: none, for which SQLite is taken, then one of PostgreSQL."""
    if request.param == "sqlite":
        yield None
        return
    from postgres_server import PASSWORD

    server: Server = request.getfixturevalue("postgres")
    with pytest.MonkeyPatch.context() as patch, server.fresh_database() as database:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield database


@pytest.fixture
def new_postgres_url(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], str]]:
    """Makes an empty PostgreSQL database for this test, as often as it is called.

    It returns the URL for SQLAlchemy, as the configuration takes it: the password is not in it but
    in PGPASSWORD, for this process and those that the test starts.
    """
    from postgres_server import PASSWORD

    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with ExitStack() as databases:
        yield lambda: databases.enter_context(postgres.fresh_database()).plain_url


@pytest.fixture
def postgres_url(new_postgres_url: Callable[[], str]) -> str:
    """The URL of an empty PostgreSQL database for this test; see `new_postgres_url`."""
    return new_postgres_url()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database for this test: of SQLite, then of PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{quote(str(tmp_path / 'database.db'))}"
    url: str = request.getfixturevalue("postgres_url")
    return url
