"""The ledger on a real PostgreSQL server: what holds everywhere, and what goes wrong there."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ledger_suite import *  # noqa: F403 - the promises that hold on every database
from ledger_suite import start
from sqlalchemy import event, make_url, text

from scalr_ray.core.errors import ConfigError, RetryLater, StateUnknown, UsageError
from scalr_ray.ledger import Ledger

OPEN = """
import sys
from scalr_ray.ledger import Ledger
with Ledger(sys.argv[1]) as ledger:
    ledger.start_run("doctor", {}, "f", 0)
"""


def test_processes_create_the_ledger_at_once(ledger_url):
    command = [sys.executable, "-W", "error", "-c", OPEN, ledger_url]
    openers = [subprocess.Popen(command) for _ in range(4)]
    assert [opener.wait(timeout=120) for opener in openers] == [0] * 4
    with Ledger(ledger_url) as ledger:
        assert len(ledger.runs()) == 4


def backend_of(connection) -> int:
    return connection.connection.dbapi_connection.info.backend_pid


def test_a_server_lost_before_the_commit_says_try_again(ledger, postgres_database):
    start(ledger)

    def lose(connection, *_statement):
        with postgres_database.connect() as other:
            other.execute(f"SELECT pg_terminate_backend({backend_of(connection)})")

    event.listen(ledger._engine, "before_cursor_execute", lose, once=True)
    with pytest.raises(RetryLater, match=r"could not write the ledger: .* does not answer"):
        start(ledger)
    assert len(ledger.runs()) == 1  # and the next call has a connection again


def test_a_server_lost_while_committing_leaves_the_state_unknown(ledger, postgres_database):
    start(ledger)

    def lose(connection):
        with postgres_database.connect() as other:
            other.execute(f"SELECT pg_terminate_backend({backend_of(connection)})")

    event.listen(ledger._engine, "commit", lose, once=True)
    with pytest.raises(StateUnknown, match="run `scalr recover`"):
        start(ledger)
    assert len(ledger.runs()) == 1


def test_a_server_that_is_not_there_says_try_again(ledger_url):
    gone = make_url(ledger_url).set(port=1).render_as_string(hide_password=False)
    with pytest.raises(RetryLater, match=r"could not open the ledger: .* does not answer"):
        Ledger(gone)


def test_a_wrong_password_is_named_without_showing_it(ledger_url, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "h1dden")
    with pytest.raises(ConfigError, match="refuses the login") as refused:
        Ledger(ledger_url)
    assert "h1dden" not in str(refused.value)


def test_a_role_that_may_only_read_is_told_so(ledger_url, ledger):
    start(ledger)
    name = make_url(ledger_url).database
    with ledger._engine.begin() as connection:
        connection.execute(text(f'CREATE ROLE "reader_{name}" LOGIN PASSWORD NULL'))
        connection.execute(text(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "reader_{name}"'))
    event.listen(
        ledger._engine,
        "begin",
        lambda connection: connection.exec_driver_sql(f'SET LOCAL ROLE "reader_{name}"'),
    )
    assert len(ledger.runs()) == 1
    with pytest.raises(UsageError, match="may not be written; mend the permissions"):
        start(ledger)
    assert len(ledger.runs()) == 1
