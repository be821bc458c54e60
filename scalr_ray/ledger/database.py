"""Opening the ledger's database: connections that wait, foreign keys that hold, a known layout.

On SQLite the file is shared with the registry and the Iceberg catalog. It is put into WAL mode, so
that readers and the one writer do not hinder each other, and a second writer waits for its turn.
What is deleted is overwritten there, so that an erased id leaves no trace in free pages.

A new database gets its tables at once; an older one is brought up to date by the migrations.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    Select,
    Table,
    Text,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import InstrumentedAttribute, Session

from scalr_ray.core.databases import database_error, reading_only
from scalr_ray.core.errors import ConfigError
from scalr_ray.ledger.tables import Base

REVISION = "0003"  # the newest of the migrations
VERSION_TABLE = "scalr_ledger_version"
LOCK_WAIT_S = 30
_LOOK_AGAIN_S = 0.05
_EARLIER_VERSION_TABLE = "scalr_schema"  # counted layouts, before there were migrations
_EARLIER_REVISIONS = {1: "0001", 2: "0002"}
_POSTGRES_LOCK = 0x5CA1_12

# As the migrations keep it; it is no table of the ledger.
_VERSION = Table(VERSION_TABLE, MetaData(), Column("version_num", Text, primary_key=True))

Row = TypeVar("Row", bound=Base)


def open_database(url: str) -> Engine:
    """An engine on a database with the ledger's tables; folder and tables are created if absent.

    The tables of an older version of SCALR are brought up to date and keep their rows.

    Raises:
        ConfigError: the database cannot be opened, or a newer version of SCALR has written it.
        RetryLater: it stayed locked, or its server does not answer.
        UsageError: it may not be written.
    """
    engine = _create_engine(url)
    with ExitStack() as unless_done:
        unless_done.callback(engine.dispose)
        try:
            _prepare(engine)
        except DBAPIError as error:
            told = database_error("open the ledger", shown(engine), error, sent=False)
            raise told or ConfigError(
                f"cannot open the ledger at {shown(engine)}: {error.orig}"
            ) from error
        unless_done.pop_all()
    return engine


def open_existing(url: str) -> Engine | None:
    """An engine that changes nothing, on a database that has the ledger's tables; None without.

    Raises:
        ConfigError: the database cannot be opened, or another version of SCALR has written it.
        RetryLater: its server does not answer.
    """
    readable = reading_only(url)
    if readable is None:
        return None
    engine = _create_engine(readable)
    with ExitStack() as unless_done:
        unless_done.callback(engine.dispose)
        try:
            with engine.connect() as connection:
                revision = _revision(connection)
        except DBAPIError as error:
            told = database_error("open the ledger", shown(engine), error, sent=False)
            raise told or ConfigError(
                f"cannot open the ledger at {shown(engine)}: {error.orig}"
            ) from error
        if revision is None:
            return None
        if revision != REVISION:
            raise ConfigError(
                f"{shown(engine)} has ledger revision {revision}, and this version of SCALR has "
                f"{REVISION}; `scalr runs` brings an older one up to date"
            )
        unless_done.pop_all()
    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A session whose changes are committed together at the end, or not at all.

    Raises:
        RetryLater: the database stayed locked or full, or its server does not answer; nothing has
            changed.
        StateUnknown: the server was lost while it committed.
        UsageError: it may not be written.
    """
    sent = False
    try:
        with Session(engine) as session:
            yield session
            session.flush()
            sent = session.in_transaction()
            session.commit()
    except IntegrityError:  # an answer, which whoever asked understands
        raise
    except DBAPIError as error:
        told = database_error("write the ledger", shown(engine), error, sent=sent)
        if told is None:
            raise
        raise told from error


def save(session: Session, row: Row) -> Row:
    """Insert a row and read it back as the database holds it."""
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def part(query: Select[Row], limit: int | None, skip: int) -> Select[Row]:
    """At most `limit` rows of an ordered query, after the first `skip`; None: all of them."""
    return query.offset(skip or None).limit(limit)


def rising_now(session: Session, column: InstrumentedAttribute[datetime]) -> datetime:
    """The present, or where clocks disagree a moment after the newest time in a column.

    What is newest is told by such a column, whichever machine wrote it.
    """
    now, newest = datetime.now(UTC), session.scalar(select(func.max(column)))
    return now if newest is None or newest < now else newest + timedelta(microseconds=1)


def shown(engine: Engine) -> str:
    """The address of the database, for messages."""
    return engine.url.render_as_string(hide_password=True)


def _create_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, connect_args={"connect_timeout": LOCK_WAIT_S})
    if parsed.database and not parsed.database.startswith("file:"):
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": LOCK_WAIT_S})
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.close()


def _prepare(engine: Engine) -> None:
    # Without a lock only this table can be trusted: a migration drops the one that it replaces.
    with engine.connect() as connection:
        current = inspect(connection).has_table(VERSION_TABLE) and _version(connection) == REVISION
    if not current:
        _bring_up_to_date(engine)


def _bring_up_to_date(engine: Engine) -> None:
    """Create or change the tables, unless another process is first."""
    if engine.dialect.name == "sqlite":
        _switch_to_wal(engine)
    with engine.begin() as connection:
        # Before looking: of several who open an old database, all but one find it up to date.
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(select(func.pg_advisory_xact_lock(_POSTGRES_LOCK)))
        revision = _revision(connection)
        if revision is None:
            Base.metadata.create_all(connection)
            _VERSION.create(connection)
            connection.execute(_VERSION.insert().values(version_num=REVISION))
        elif revision != REVISION:
            _migrate(connection, revision)


def _migrate(connection: Connection, revision: str) -> None:
    from scalr_ray.ledger.migrations import knows, upgrade  # Alembic takes a while to import

    if not knows(revision):
        raise ConfigError(
            f"{shown(connection.engine)} has ledger revision {revision} and this version of SCALR "
            f"knows up to {REVISION}; upgrade scalr"
        )
    if not inspect(connection).has_table(VERSION_TABLE):
        _VERSION.create(connection)
        connection.execute(_VERSION.insert().values(version_num=revision))
        connection.exec_driver_sql(f"DROP TABLE {_EARLIER_VERSION_TABLE}")
    upgrade(connection)


def _revision(connection: Connection) -> str | None:
    """The revision of the tables, which nobody else is changing; None where there are none."""
    tables = inspect(connection)
    if tables.has_table(VERSION_TABLE):
        return _version(connection)
    if not tables.has_table(_EARLIER_VERSION_TABLE):
        return None
    layout = connection.exec_driver_sql(f"SELECT version FROM {_EARLIER_VERSION_TABLE}").scalar()
    return _EARLIER_REVISIONS.get(layout or 0, f"layout {layout}")


def _version(connection: Connection) -> str:
    return str(connection.scalars(select(_VERSION.c.version_num)).one())


def _switch_to_wal(engine: Engine) -> None:
    """Change the journal mode; SQLite does not wait for a writer here, so this does."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except OperationalError as error:
            if "locked" not in str(error.orig) or time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_AGAIN_S)
        else:
            return
