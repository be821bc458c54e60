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
