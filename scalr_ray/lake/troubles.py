"""What storage and the catalog raise, said as one line of ours that tells what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, ENOENT, ENOSPC, EPERM, EROFS

import pyarrow as pa
from sqlalchemy.exc import DBAPIError

from scalr_ray.core.databases import database_error
from scalr_ray.core.errors import DataError, RetryLater, ScalrError, UsageError
from scalr_ray.core.s3 import s3_error

_FULL = (ENOSPC, EDQUOT)
_REFUSED = (EACCES, EPERM, EROFS)
_ERRNO = re.compile(r"\[errno (\d+)\]", re.IGNORECASE)


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


def _errno(error: OSError | pa.ArrowException) -> int | None:
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    found = _ERRNO.search(str(error))
    return int(found[1]) if found else None


def catalog_error(what: str, url: str, error: DBAPIError, *, sent: bool) -> ScalrError:
    """The error of ours for one of the catalog's database; see `database_error`."""
    return database_error(what, url, error, sent=sent) or DataError(
        f"could not {what}: cannot open {url}: {error.orig}; check data_dir in scalr.yaml"
    )
