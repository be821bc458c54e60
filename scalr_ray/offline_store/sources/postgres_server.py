"""Talking to a PostgreSQL server: one transaction per connection, in UTC, errors as one line each.

A password never reaches a message: an address is shown as host, port and database only, and an
address that cannot be read is not shown at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as driver
import pyarrow as pa
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from scalr_ray.core.errors import ConfigError, DataError, RetryLater, ScalrError

_CONNECT_TIMEOUT_S = "10"
_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_FETCH_PLAINLY = "adbc.postgresql.use_copy"
# Classes of SQLSTATE that the same statement may not meet again: connection lost, rolled back,
# out of resources, stopped by an operator.
_PASSING = ("08", "40", "53", "57")
_NOT_CONNECTED = "Failed to connect: "
_TRIED = ("connection to server", "could not translate host name")
_REFUSED = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password")
# The last two are how the driver reports trouble amid a result.
_DRIVER_ERRORS = (adbc_driver_manager.Error, OSError, pa.ArrowException)
_SERVER_SAYS = re.compile(r"(?:ERROR|FATAL|PANIC):\s+(.*)")


@contextmanager
def snapshot(url: str) -> Iterator[driver.Cursor]:
    """A cursor that cannot write and sees one state of the database.

    Raises:
        ConfigError: the address is no PostgreSQL URL, or the server refuses this user.
        DataError: the server refuses a statement.
        RetryLater: the server cannot be reached or ended the connection.
    """
    with _cursor(url) as cursor:
        cursor.execute(_SNAPSHOT)
        yield cursor


@contextmanager
def transaction(url: str) -> Iterator[driver.Cursor]:
    """A cursor whose changes are committed together at the end, or not at all.

    Raises:
        ConfigError: the address is no PostgreSQL URL, or the server refuses this user.
        DataError: the server refuses a statement.
        RetryLater: the server cannot be reached or ended the connection.
    """
    with _cursor(url) as cursor:
        yield cursor
        cursor.connection.commit()


def fetch_rows(cursor: driver.Cursor, statement: str, *values: object) -> list[Any]:
    """All rows of a statement that COPY does not take, or that has values bound to it."""
    cursor.adbc_statement.set_options(**{_FETCH_PLAINLY: "false"})
    try:
        cursor.execute(statement, values or None)
        return list(cursor.fetchall())
    finally:
        cursor.adbc_statement.set_options(**{_FETCH_PLAINLY: "true"})


@contextmanager
def _cursor(url: str) -> Iterator[driver.Cursor]:
    address = _address(url)
    named = address.translate_connect_args(username="user", database="dbname")
    options = {"connect_timeout": _CONNECT_TIMEOUT_S, **named, **address.query}
    try:
        with (
            driver.connect(f"postgresql://?{urlencode(options, quote_via=quote)}") as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SET LOCAL TimeZone = 'UTC'")
            cursor.execute("SET LOCAL standard_conforming_strings = on")  # quotes quote
            yield cursor
    except _DRIVER_ERRORS as error:
        raise _explained(error, address) from error


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        address = None
    if address is None or not address.drivername.startswith("postgres"):
        raise ConfigError(
            "offline_store.postgres_url is no PostgreSQL address; write "
            "postgresql://user:password@host/database, and set every variable it names"
        )
    return address


def _explained(error: Exception, address: URL) -> ScalrError:
    host = address.host or address.query.get("host", "localhost")
    where = f"PostgreSQL at {host}:{address.port or 5432}/{address.database or ''}"
    text = str(error)
    said = _SERVER_SAYS.search(text)
    line = said[1] if said else text.partition("[libpq] ")[2].partition("\n")[0]
    state = getattr(error, "sqlstate", None)
    if _NOT_CONNECTED in text:
        line = text.partition(_NOT_CONNECTED)[2].partition("\n")[0]
        if any(reason in line for reason in _REFUSED) or not line.startswith(_TRIED):
            return ConfigError(f"{where} refuses the connection: {line}")
        return RetryLater(f"{where} cannot be reached; start it or try again ({line})")
    if (state or "").startswith(_PASSING) or not said or said[0].startswith(("FATAL", "PANIC")):
        return RetryLater(f"{where} broke off; try again ({line})")
    return DataError(f"{where}: {line}")
