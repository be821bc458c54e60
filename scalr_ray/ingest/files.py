"""Parquet files that appear whole or not at all, and one writer at a time.

A file is written under a name that starts with a dot, which no reader's pattern matches, flushed to
disk, and renamed. One writer at a time holds the data folder, so a name left by a crash belongs to
nobody and is overwritten by the next attempt.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        _show(drafts)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def rewrite_tables(files: Sequence[Path], change: Callable[[pa.Table], pa.Table]) -> None:
    """Put what `change` makes of them in the place of some files, in the way of `write_tables`.

    A file is read and written a row group at a time. Metadata of the schema, which may quote values
    of columns, is left out.
    """
    drafts = {file: file.with_name(f".{file.name}.tmp") for file in files}
    try:
        for file, draft in drafts.items():
            _rewrite(file, draft, change)
            _flush(draft)
        _show(drafts)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def _rewrite(file: Path, draft: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    with pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow.remove_metadata()
        with pq.ParquetWriter(draft, schema, compression="zstd") as writer:
            for group in range(parquet.num_row_groups):
                rows = change(parquet.read_row_group(group)).replace_schema_metadata(None)
                if rows.num_rows:
                    writer.write_table(rows)


def _show(drafts: Mapping[Path, Path]) -> None:
    for file, draft in drafts.items():
        draft.replace(file)
        _flush(file.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
