"""Files that appear whole: under another name until they are complete, then renamed.

A worker that dies leaves nothing that anybody reads, and one that writes a file again replaces it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class ParquetRows:
    """A Parquet file that is written table by table; the first says the columns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> None:
        """Add rows."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, rows.schema, compression="zstd")
        if rows.num_rows:
            self._writer.write_table(rows)

    def write_some(self, rows: pa.Table) -> None:
        """Add rows, if there are any; a file without any is not made."""
        if rows.num_rows:
            self.write(rows)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def parquet_rows(path: Path) -> Iterator[ParquetRows]:
    """A Parquet file that appears whole at the end of the block, if anything was written."""
    with appearing(path) as half_written:
        rows = ParquetRows(half_written)
        try:
            yield rows
        finally:
            rows.close()


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Another name to write to, that becomes `path` where the block ends well."""
    # A name of its own: a worker that is thought dead and its retry may write at the same time.
    half_written = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield half_written
        if half_written.exists():
            half_written.replace(path)
    finally:
        half_written.unlink(missing_ok=True)
