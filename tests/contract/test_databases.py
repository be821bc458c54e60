"""What the databases of the tests promise: each is empty, and their server may go and come."""

from __future__ import annotations

import os

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool


def _engine(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=NullPool)


@pytest.mark.parametrize("_time", ["first", "second"])
def test_a_database_is_empty_each_time(database_url, _time) -> None:
    engine = _engine(database_url)
    assert sa.inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE seen (x integer)")
    assert sa.inspect(engine).get_table_names() == ["seen"]


def test_the_password_is_not_in_the_url_and_is_needed(postgres_url, monkeypatch) -> None:
    password = os.environ["PGPASSWORD"]
    assert sa.make_url(postgres_url).password is None
    monkeypatch.setenv("PGPASSWORD", password + "?")
    with pytest.raises(sa.exc.OperationalError, match="authentication failed"):
        _engine(postgres_url).connect()


def test_what_was_committed_is_there_after_a_crash_of_the_server(postgres) -> None:
    with postgres.fresh_database() as database:
        with database.connect() as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS x")
        engine = _engine(database.url(driver="psycopg"))
        with postgres.down(), pytest.raises(sa.exc.OperationalError):
            engine.connect()
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT x FROM kept").scalar() == 7


def test_a_database_goes_with_those_who_are_still_in_it(postgres) -> None:
    with postgres.fresh_database() as database:
        connection = database.connect()
    with connection, pytest.raises(sa.exc.OperationalError, match="does not exist"):
        _engine(database.url(driver="psycopg")).connect()
    assert connection.broken or connection.closed


def test_the_server_is_in_another_zone_and_keeps_any_text(postgres_database) -> None:
    with postgres_database.connect() as connection:
        found = connection.execute("SELECT current_setting('TimeZone')")
        assert found.fetchone() == ("America/New_York",)
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)


def test_a_text_is_found_however_it_stands_there(postgres) -> None:
    with postgres.fresh_database() as database, database.connect() as connection:
        assert database.holding("u000037") == []
        for name, kind, value in (
            ("as_text", "text", "'of u000037, once'"),
            ("as_bytes", "bytea", "'u000037'::bytea"),
            ("compressed", "text", "repeat('a', 4000) || 'u000037' || repeat('b', 4000)"),
            ("nested", "jsonb", """'{"users": ["u000037"]}'"""),
            ("deleted", "text", "'u000037'"),
            ("another", "text", "'u000038'"),
        ):
            connection.execute(f"CREATE TABLE {name} AS SELECT {value}::{kind} AS x")
        connection.execute("DELETE FROM deleted")
        connection.execute("CREATE INDEX found_too ON as_text (x)")
        assert database.holding("u000037") == [
            "as_bytes",
            "as_text",
            "compressed",
            "deleted",
            "found_too",
            "nested",
        ]


def test_a_database_takes_over_another_and_may_do_so_again(postgres) -> None:
    with postgres.fresh_database() as kept, postgres.fresh_database() as used:
        with kept.connect() as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS x")
        for _ in range(2):
            used.replace_by(kept)
            with used.connect() as connection:
                assert connection.execute("SELECT x FROM kept").fetchall() == [(7,)]
                connection.execute("DELETE FROM kept")
