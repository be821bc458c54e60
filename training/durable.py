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


def write_rows(file: Path, rows: pa.Table) -> str:
    """Write rows as Parquet and return the sha256 of the file; the same rows give the same.

    Dictionaries are written as plain values: they may hold some that no row has.
    """
    for place, column in enumerate(rows.columns):
        if pa.types.is_dictionary(column.type):
            plain = column.cast(column.type.value_type)
            rows = rows.set_column(place, rows.field(place).name, plain)
    with file.open("wb") as stream:
        pq.write_table(rows.combine_chunks(), stream, compression="zstd")
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
