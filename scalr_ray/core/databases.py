"""What the database raises, said as one line of ours that tells what to do next.

The line between "failed" and "unknown" is drawn by whether a commit had been sent: what goes wrong
before has changed nothing, and so has a commit that the database itself refused.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Engine, event, make_url
from sqlalchemy.exc import DBAPIError

from scalr_ray.core.errors import (
    ConfigError,
    RetryLater,
    ScalrError,
    StateUnknown,
    UsageError,
)

# SQLSTATEs of PostgreSQL, or words of either database -> our error, and what to do. The first are
# answers to a statement or a commit, which then has not happened.
_ANSWERS: tuple[tuple[re.Pattern[str], type[ScalrError], str], ...] = (
    (
        re.compile(r"55P03|40001|40P01|locked"),
        RetryLater,
        "the database is busy; try again",
    ),
    (
        re.compile(r"53100|disk is full"),
        RetryLater,
        "the disk of {url} is full; make room and try again",
    ),
    (
        re.compile(r"42501|25006|readonly database"),
        UsageError,
        "{url} may not be written; mend the permissions",
    ),
)
_NO_ANSWERS: tuple[tuple[re.Pattern[str], type[ScalrError], str], ...] = (
    (
        re.compile(r"28000|28P01|authentication failed|no password supplied|no pg_hba.conf entry"),
        ConfigError,
        "{url} refuses the login; set PGPASSWORD or PGPASSFILE, or mend `database` in scalr.yaml",
    ),
    (
        re.compile(r'3D000|database "[^"]*" does not exist'),
        ConfigError,
        "there is no database at {url}; create it",
    ),
)


class SentCommits:
    """Whether a commit was sent through an engine, for each thread by itself."""

    def __init__(self, engine: Engine) -> None:
        self._thread = threading.local()
        event.listen(engine, "commit", self._note)

    def forget(self) -> None:
        """Only what this thread sends from now on counts."""
        self._thread.sent = False

    @property
    def any(self) -> bool:
        """Whether this thread has sent one since it last forgot."""
        return getattr(self._thread, "sent", False)

    def _note(self, _connection: object) -> None:
        self._thread.sent = True


def database_error(what: str, url: str, error: DBAPIError, *, sent: bool) -> ScalrError | None:
    """The error of ours for one of a database; None where it is of another kind.

    Args:
        what: was to be done.
        url: of the database, without a password.
        error: what SQLAlchemy raised.
        sent: whether a commit had been sent.
    """
    reason = str(error.orig)
    cause = f"{getattr(error.orig, 'sqlstate', None) or ''} {reason}"
    for pattern, kind, advice in (*_ANSWERS, *(() if sent else _NO_ANSWERS)):
        if pattern.search(cause):
            return kind(f"could not {what}: {advice.format(url=url)}")
    if sent:
        return state_unknown(what)
    if url.startswith("postgresql"):
        return RetryLater(f"could not {what}: {url} does not answer ({reason}); try again")
    return None


def reading_only(url: str) -> str | None:
    """The URL of the same database, under which nothing can be changed.

    Returns:
        None where it is an SQLite file that is not there.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        option = {"options": "-c default_transaction_read_only=on"}
        return parsed.update_query_dict(option).render_as_string(hide_password=False)
    if not parsed.database or not Path(parsed.database).exists():
        return None
    file = f"file:{quote(parsed.database)}"
    query = {"mode": "ro", "uri": "true"}
    return URL.create(parsed.drivername, database=file, query=query).render_as_string()


def state_unknown(what: str) -> StateUnknown:
    """The error for a commit whose answer was lost."""
    return StateUnknown(
        f"the answer to '{what}' was lost, and it may or may not have happened; run `scalr recover`"
    )
