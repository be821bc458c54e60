"""Opening the ledger's database: connections that wait, foreign keys that hold, a known layout.

On SQLite the file is shared with the registry and the Iceberg catalog. It is put into WAL mode, so
that readers and the one writer do not hinder each other, and a second writer waits for its turn.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session

from scalr_ray.core.errors import ConfigError, RetryLater
from scalr_ray.ledger.tables import SCHEMA_VERSION, Base, SchemaRow

LOCK_WAIT_S = 30
_LOOK_AGAIN_S = 0.05

Row = TypeVar("Row", bound=Base)


def open_database(url: str) -> Engine:
    """An engine on a database with the ledger's tables; folder and tables are created if absent.

    The tables of an older version of SCALR are brought up to date and keep their rows.

    Raises:
        ConfigError: the database cannot be opened, or a newer version of SCALR has written it.
        RetryLater: it stayed locked.
    """
    engine = _create_engine(url)
    with ExitStack() as unless_done:
        unless_done.callback(engine.dispose)
        try:
            _prepare(engine)
        except DatabaseError as error:
            if _is_locked(error):
                raise RetryLater(f"{url} is busy; try again") from error
            raise ConfigError(f"cannot open the ledger at {url}: {error.orig}") from error
        unless_done.pop_all()
    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A session whose changes are committed together at the end, or not at all.

    Raises:
        RetryLater: the database stayed locked.
    """
    try:
        with Session(engine) as session, session.begin():
            yield session
    except OperationalError as error:
        if _is_locked(error):
            raise RetryLater("the ledger is busy; try again") from error
        raise


def save(session: Session, row: Row) -> Row:
    """Insert a row and read it back as the database holds it."""
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def _create_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": LOCK_WAIT_S})
    event.listen(engine, "connect", _enforce_foreign_keys)
    return engine


def _enforce_foreign_keys(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _prepare(engine: Engine) -> None:
    with engine.connect() as connection:
        version = _schema_version(connection)
    if version is None or version < SCHEMA_VERSION:
        version = _bring_up_to_date(engine)
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"{engine.url} has ledger layout {version} and this version of SCALR knows up to "
            f"{SCHEMA_VERSION}; upgrade scalr"
        )


def _bring_up_to_date(engine: Engine) -> int:
    """Create the tables that are not there, unless another process is first; returns the version.

    What is there stays as it is: a newer layout only adds tables.
    """
    if engine.dialect.name == "sqlite":
        _switch_to_wal(engine)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # Take the write lock before looking: of several creators, all but one find the tables.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        version = _schema_version(connection)
        if version is None or version < SCHEMA_VERSION:
            Base.metadata.create_all(connection)
            record = insert(SchemaRow) if version is None else update(SchemaRow)
            version = SCHEMA_VERSION
            connection.execute(record.values(version=version))
    return version


def _switch_to_wal(engine: Engine) -> None:
    """Change the journal mode; SQLite does not wait for a writer here, so this does."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except OperationalError as error:
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_AGAIN_S)
        else:
            return


def _schema_version(connection: Connection) -> int | None:
    if not inspect(connection).has_table(SchemaRow.__tablename__):
        return None
    return connection.scalars(select(SchemaRow.version)).one()


def _is_locked(error: DatabaseError) -> bool:
    return "locked" in str(error.orig)
