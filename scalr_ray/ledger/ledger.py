"""`Ledger`: the only door to the tables, from runs to erasures."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sqlalchemy import Engine

from scalr_ray.ledger.database import open_database, open_existing
from scalr_ray.ledger.erasures import Erasures


class Ledger(Erasures):
    """Runs, translators, batches, verdicts, watermarks, pins and erasures in one SQL database.

    Safe to use from several threads and processes. Close it, or use it in a `with` statement.

    Args:
        database_url: SQLAlchemy URL; folder and tables are created when absent.

    Raises:
        ConfigError: the database cannot be opened, or a newer version of SCALR has written it.
        RetryLater: it stayed locked; every method may raise this.
    """

    def __init__(self, database_url: str) -> None:
        self._engine = open_database(database_url)

    @staticmethod
    def existing(database_url: str) -> Ledger | None:
        """The ledger to be read alone, if there is one; nothing is created or brought up to date.

        Raises:
            ConfigError: the database cannot be opened, or another version of SCALR has written it.
            RetryLater: its server does not answer.
        """
        engine = open_existing(database_url)
        return None if engine is None else _Reading(engine)

    def close(self) -> None:
        """Release the database connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Reading(Ledger):
    """A ledger on an engine under which nothing can be changed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
