"""`RowFile`: the rows of a training set as a Parquet file that is read block by block.

A block is a row group. Whoever opens the file looks whether it is still the one that was named, so
that a set that lost the rows of an erased user is never read on as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from scalr_ray.core.errors import DataError, ScalrError
from scalr_ray.lake.troubles import file_errors

BLOCK_ROWS = 65_536

_TAIL_BYTES = 8  # the length of the footer, and `PAR1`


@dataclass(frozen=True, kw_only=True, eq=False)
class RowFile:
    """A Parquet file of rows.

    Attributes:
        path: where it lies.
        footer: hash of its footer, which says where each column chunk lies and what is in it.
        schema: of its rows.
        blocks: rows of each of its row groups.
        with_nulls: the columns that may hold a null somewhere in the file.
    """

    path: Path
    footer: str
    schema: pa.Schema
    blocks: tuple[int, ...]
    with_nulls: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look at a file; reads its footer only.

        Raises:
            DataError: it is gone or is no Parquet file.
        """
        with file_errors(f"read {path}"), pq.ParquetFile(path) as opened:
            said = opened.metadata
            groups = [said.row_group(place) for place in range(said.num_row_groups)]
            return cls(
                path=path,
                footer=_footer(path),
                schema=opened.schema_arrow,
                blocks=tuple(group.num_rows for group in groups),
                with_nulls=frozenset(
                    column.path_in_schema
                    for group in groups
                    for column in map(group.column, range(group.num_columns))
                    if not (column.is_stats_set and column.statistics.null_count == 0)
                ),
            )

    @classmethod
    def spooled(cls, rows: pa.Table) -> Self:
        """Write rows into a file of their own, which goes when nobody holds the result any more.

        The same rows give the same footer.

        Raises:
            RetryLater: the disk is full.
        """
        folder = Path(tempfile.mkdtemp(prefix="scalr-rows-"))
        path = folder / "rows.parquet"
        text = [field.name for field in rows.schema if not pa.types.is_primitive(field.type)]
        try:
            with file_errors("write the rows of a stream"):
                pq.write_table(
                    rows, path, row_group_size=BLOCK_ROWS, compression="none", use_dictionary=text
                )
            spooled = cls.of(path)
        except ScalrError:
            shutil.rmtree(folder)
            raise
        weakref.finalize(spooled, _remove, folder, os.getpid())
        return spooled

    @property
    def rows(self) -> int:
        """How many it has."""
        return sum(self.blocks)

    @contextmanager
    def opened(self) -> Iterator[pq.ParquetFile]:
        """Open it for reading block by block.

        Raises:
            DataError: it is gone, or is another file by now.
        """
        # Not memory-mapped: what is read is then ours to count, and to let go.
        with file_errors(f"read {self.path}"), pq.ParquetFile(self.path) as opened:
            if _footer(self.path) != self.footer:
                raise DataError(
                    f"the rows in {self.path} are others than when the stream was made (have "
                    "users been erased?); make it again"
                )
            yield opened

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process does not own the file."""
        said = (self.path, self.footer, self.schema, self.blocks, self.with_nulls)
        return _restored, said


def _restored(
    path: Path, footer: str, schema: pa.Schema, blocks: tuple[int, ...], with_nulls: frozenset[str]
) -> RowFile:
    return RowFile(path=path, footer=footer, schema=schema, blocks=blocks, with_nulls=with_nulls)


def _footer(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(-_TAIL_BYTES, os.SEEK_END)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-_TAIL_BYTES - length, os.SEEK_END)
        return hashlib.sha256(stream.read(length)).hexdigest()


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a process that was forked off it
        shutil.rmtree(folder, ignore_errors=True)
