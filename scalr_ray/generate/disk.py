"""Whether there is room for what is about to be written, and what is said when it runs out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path

import duckdb

from scalr_ray.core.errors import RetryLater, UsageError

_FULL = (ENOSPC, EDQUOT)


def refuse_full_disk(folder: Path, needed_bytes: int, what: str) -> None:
    """Check that about `needed_bytes` fit where `folder`, which is there, lies.

    Args:
        folder: on the disk in question.
        needed_bytes: estimated.
        what: is to be written, for the message.

    Raises:
        UsageError: they do not fit.
    """
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise UsageError(
            f"{what} take about {_size(needed_bytes)} in {folder}, where {_size(free_bytes)} are "
            "free; make room, or point data_dir at a larger disk"
        )


@contextmanager
def full_disk_told(what: str) -> Iterator[None]:
    """Say in one line of ours that a disk ran full; what else goes wrong is left as it is.

    Args:
        what: is being written, for the message.

    Raises:
        RetryLater: the disk is full.
    """
    try:
        yield
    except (OSError, duckdb.Error) as error:
        if not _is_full(error):
            raise
        raise RetryLater(
            f"the disk ran full while {what} were written; make room, or point data_dir at a "
            "larger disk, and run it again: what was finished is kept"
        ) from error


def _is_full(error: OSError | duckdb.Error) -> bool:
    """DuckDB tells it by its text only, also where it is its own files that do not fit."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(os.strerror(number) in str(error) for number in _FULL)


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
