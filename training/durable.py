"""Writing files so that they outlive a crash, and holding a folder against other processes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalr_ray.core.fingerprint import file_fingerprint
from training.row_file import BLOCK_ROWS

HALF_WRITTEN = ".*.half"


@contextmanager
def locked(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold a folder alone, or share it with those who hold it likewise; waits for others.

    The operating system lets go for a process that dies.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def as_parquet(rows: pa.Table) -> pa.Table:
    """Rows in the types in which they come back from Parquet, without changing a value.

    The values of lists have a name of their own there, and dictionaries become plain values: they
    may hold some that no row has.
    """
    fields = [field.with_type(_as_parquet_type(field.type)) for field in rows.schema]
    return rows.cast(pa.schema(fields)).combine_chunks()


def write_rows(file: Path, rows: pa.Table) -> str:
    """Write rows as Parquet and return the sha256 of the file; the same rows give the same.

    They are those that `as_parquet` gives.
    """
    with file.open("wb") as stream:
        # Row groups of that size, so that a stream of the rows need not hold more of them.
        pq.write_table(as_parquet(rows), stream, compression="zstd", row_group_size=BLOCK_ROWS)
        stream.flush()
        os.fsync(stream.fileno())
    return file_fingerprint(file)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write JSON for people to read, which appears whole or not at all."""
    half_written = file.with_name(f".{file.name}.half")
    with half_written.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    half_written.replace(file)


def flush(folder: Path) -> None:
    """Make durable which files a folder holds."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _as_parquet_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(pa.field("element", _as_parquet_type(kind.value_type)))
    return kind
