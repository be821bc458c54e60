"""Parquet files that appear whole or not at all, and one writer at a time.

A file is written under a name that starts with a dot, which no reader's pattern matches, flushed to
disk, and renamed. One writer at a time holds the data folder, so a name left by a crash belongs to
nobody and is overwritten by the next attempt.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scalr_ray.core.errors import RetryLater

SPILL_DIR = Path(tempfile.gettempdir())


@contextmanager
def sole_writer(data: Path) -> Iterator[None]:
    """Hold the data folder; it is made if it is not there.

    Raises:
        RetryLater: another process holds it.
    """
    data.mkdir(parents=True, exist_ok=True)
    handle = os.open(data, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise RetryLater(
            f"another process is writing into {data}; try again when it is done"
        ) from error
    try:
        yield
    finally:
        os.close(handle)


def write_tables(tables: Mapping[Path, pa.Table]) -> None:
    """Write every table fully, and only then rename them one after the other into place.

    A file that is there is replaced. If writing fails, none is renamed.
    """
    drafts = {file: file.with_name(f".{file.name}.tmp") for file in tables}
    try:
        for file, draft in drafts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(tables[file], draft, compression="zstd")
            _flush(draft)
        for file, draft in drafts.items():
            draft.replace(file)
            _flush(file.parent)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
