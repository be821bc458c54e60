"""What databases and storage raise, said as one line of ours that tells what to do next.

The line between "failed" and "unknown" is drawn by whether a commit had been sent: what goes wrong
before has changed nothing, and so has a commit that the database itself refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, ENOENT, ENOSPC, EPERM, EROFS

import pyarrow as pa
from sqlalchemy.exc import DBAPIError

from scalr_ray.core.errors import (
    ConfigError,
    DataError,
    RetryLater,
    ScalrError,
    StateUnknown,
    UsageError,
)
from scalr_ray.core.s3 import s3_error

_FULL = (ENOSPC, EDQUOT)
_REFUSED = (EACCES, EPERM, EROFS)
_ERRNO = re.compile(r"\[errno (\d+)\]", re.IGNORECASE)

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


@contextmanager
def file_errors(what: str) -> Iterator[None]:
    """Turn what storage raises into an error of ours.

    Args:
        what: was to be done, for messages, for example `"publish batch b1"`.

    Raises:
        RetryLater: the disk is full, or S3 does not answer.
        UsageError: reading or writing is not allowed.
        DataError: a file is gone or cannot be read, or S3 refuses.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise file_error(what, error) from error


def file_error(what: str, error: OSError | pa.ArrowException) -> ScalrError:
    """The error of ours for one of storage."""
    told = s3_error(f"could not {what}", error)
    if told is not None:
        return told
    number = _errno(error)
    if number in _FULL:
        return RetryLater(
            f"could not {what}: the disk is full; make room and try again, nothing has changed"
        )
    if number in _REFUSED:
        return UsageError(f"could not {what}: not allowed: {error}; mend the permissions")
    if number == ENOENT:
        return DataError(f"could not {what}: a file is gone: {error}")
    return DataError(f"could not {what}: {error}")


def database_error(what: str, url: str, error: DBAPIError, *, sent: bool) -> ScalrError:
    """The error of ours for one of the catalog's database.

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
        return unknown(what)
    if url.startswith("postgresql"):
        return RetryLater(f"could not {what}: {url} does not answer ({reason}); try again")
    return DataError(f"could not {what}: cannot open {url}: {reason}; check data_dir in scalr.yaml")


def unknown(what: str) -> StateUnknown:
    """The error for a commit whose answer was lost."""
    return StateUnknown(
        f"the answer to '{what}' was lost, and it may or may not have happened; run `scalr recover`"
    )


def _errno(error: OSError | pa.ArrowException) -> int | None:
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    found = _ERRNO.search(str(error))
    return int(found[1]) if found else None
