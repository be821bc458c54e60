"""Rows of single Parquet files: which hold some value, and the file without them.

A file is read a row group at a time, and of row groups whose statistics rule the values out, not
even that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scalr_ray.core.errors import DataError
from scalr_ray.lake.files import TableFiles

# Twice as large is 4 % smaller and 4 % faster to read, and takes 200 MB to write.
ROW_GROUP_ROWS = 512 * 1024
_AT_ONCE = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Values:
    """Rows whose `column` has one of some values.

    Attributes:
        column: its name.
        wanted: the values, distinct, in order, without null, in the type of the column.
    """

    column: str
    wanted: pa.Array
    _sorted: list[int | str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sorted", self.wanted.to_pylist())

    @classmethod
    def of(cls, column: str, wanted: Iterable[object], kind: pa.DataType) -> Values:
        """The rows with these values in a column of that type.

        Raises:
            DataError: a value is not of the type.
        """
        try:
            values = pa.array(list(wanted), kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise DataError(f"{column} is {kind}: {error}") from error
        distinct = pc.unique(values.drop_null())
        return cls(column=column, wanted=distinct.take(pc.sort_indices(distinct)))

    def among(self, rows: pa.Table) -> pa.ChunkedArray:
        """For each row, whether it is one of them."""
        # Some writers make `large_string` of a string, and the two do not compare.
        return pc.is_in(rows[self.column].cast(self.wanted.type), value_set=self.wanted)

    def groups(self, file: pq.ParquetFile) -> list[int]:
        """The row groups that may hold such rows."""
        place = file.schema_arrow.get_field_index(self.column)
        metadata = file.metadata
        return [
            group
            for group in range(metadata.num_row_groups)
            if self._may_be_in(metadata.row_group(group).column(place).statistics)
        ]

    def _may_be_in(self, statistics: pq.Statistics | None) -> bool:
        if statistics is None or not statistics.has_min_max:
            return bool(self._sorted)
        first = bisect_left(self._sorted, statistics.min)
        return first < len(self._sorted) and self._sorted[first] <= statistics.max


def count_rows(files: TableFiles, location: str, values: Values) -> dict[str, int]:
    """How many rows of a file have one of the values, by batch."""
    found: Counter[str] = Counter()
    with files.parquet(location) as file:
        for group in values.groups(file):
            among = values.among(file.read_row_group(group, columns=[values.column]))
            if pc.any(among).as_py():
                batches = file.read_row_group(group, columns=["batch_id"]).filter(among)
                found.update(batches["batch_id"].to_pylist())
    return dict(found)


def find_row(files: TableFiles, location: str, values: Values) -> dict[str, object] | None:
    """The first row of a file that has one of the values, or None."""
    with files.parquet(location) as file:
        for group in values.groups(file):
            among = values.among(file.read_row_group(group, columns=[values.column]))
            if pc.any(among).as_py():
                row: dict[str, object] = file.read_row_group(group).filter(among).to_pylist()[0]
                return row
    return None


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A file without some rows.

    Attributes:
        location: of the new file; None where no row is left.
        kept: its rows.
        size_bytes: how large it is.
        gone: how many rows it has not any more, by batch.
    """

    location: str | None
    kept: int
    size_bytes: int
    gone: Mapping[str, int]


def rewrite_without(files: TableFiles, location: str, values: Values, to: str) -> Rewritten:
    """Write a file again, to another location, without the rows that have one of the values."""
    gone: Counter[str] = Counter()
    kept = 0
    with files.parquet(location) as file, files.appearing(to) as path:
        with RowsWriter(path, file.schema_arrow) as writer:
            for group in range(file.metadata.num_row_groups):
                rows = file.read_row_group(group)
                among = values.among(rows)
                gone.update(rows.filter(among)["batch_id"].to_pylist())
                kept += writer.write(rows.filter(pc.invert(among)))
        size_bytes = path.stat().st_size if kept else 0
    return Rewritten(
        location=to if kept else None, kept=kept, size_bytes=size_bytes, gone=dict(gone)
    )


class RowsWriter:
    """Writes a Parquet file of the table; one that gets no rows is not made."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema.remove_metadata()
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> int:
        """Add rows; returns how many."""
        if rows.num_rows:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
            self._writer.write_table(
                rows.replace_schema_metadata(None), row_group_size=ROW_GROUP_ROWS
            )
        return int(rows.num_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` on each item, some at a time: waiting for storage and unpacking run beside it."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(work, items))
