"""Many Parquet files as one relation: columns matched by name, in types that suit all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import and_
from typing import TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from scalr_ray.core.duck import quote_name, quote_text
from scalr_ray.core.errors import DataError
from scalr_ray.offline_store.sources.paths import Files, PartValue
from scalr_ray.offline_store.storage import Place

# name, type and value of what the folders say of one file
Said: TypeAlias = tuple[tuple[str, pa.DataType, PartValue], ...]

_FORMAT = ds.ParquetFileFormat()
_FOOTERS_AT_ONCE = 16
_FILE_INDEX = "file_index"  # DuckDB's, of the list of files

_SQL_KINDS = {pa.int64(): "BIGINT", pa.date32(): "DATE", pa.string(): "VARCHAR"}


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Files that lie in one storage, at least one.

    A column that the files have themselves is taken from there, and from no folder.
    """

    files: Files

    @classmethod
    def of(cls, files: Files, session: duckdb.DuckDBPyConnection) -> Scan:
        """Look into the files for columns that their folders name too.

        Raises:
            DataError: a column is in the way of telling the files of folders apart.
        """
        scan = cls(files=files)
        if not files.partitions:
            return scan
        own = scan._own_columns(session)
        if _FILE_INDEX in own and not scan.in_s3:
            raise DataError(f"a column {_FILE_INDEX!r} cannot lie in hive folders; rename it")
        kept = tuple(part for part in files.partitions if part.name.casefold() not in own)
        return scan if kept == files.partitions else cls(files=replace(files, partitions=kept))

    @property
    def in_s3(self) -> bool:
        """Whether the files lie in S3."""
        return self.files.places[0].in_s3

    @property
    def said(self) -> Sequence[Said]:
        """What the folders say of each file."""
        return [
            tuple((part.name, part.kind, part.values[place]) for part in self.files.partitions)
            for place in range(len(self.files.places))
        ]

    @cached_property
    def fragments(self) -> Sequence[ds.ParquetFileFragment]:
        """The files as Arrow sees them, their footers read."""
        places = self.files.places
        system = places[0].filesystem()
        made = [
            fragment(place, system, said) for place, said in zip(places, self.said, strict=True)
        ]
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            for _ in pool.map(lambda found: found.ensure_complete_metadata(), made):
                pass  # the first error is raised
        return made

    def show(self, session: duckdb.DuckDBPyConnection, name: str) -> str:
        """The statement that gives all rows; what it reads is registered under `name` and so on."""
        if not self.in_s3:
            return _read_parquet_sql(self.files)
        alike: dict[pa.Schema, list[ds.ParquetFileFragment]] = {}
        for found, said in zip(self.fragments, self.said, strict=True):
            alike.setdefault(shown_schema(found, said), []).append(found)
        shown = []
        for place, (schema, group) in enumerate(alike.items()):
            shown.append(f"FROM {quote_name(f'{name}_{place}')}")
            session.register(f"{name}_{place}", dataset(group, schema))
        return " UNION ALL BY NAME ".join(shown)

    def _own_columns(self, session: duckdb.DuckDBPyConnection) -> set[str]:
        """The columns of the files themselves, as DuckDB compares names."""
        if self.in_s3:
            names = [name for found in self.fragments for name in found.physical_schema.names]
        else:
            plain = replace(self.files, partitions=())
            names = session.sql(_read_parquet_sql(plain)).columns
        return {name.casefold() for name in names}


def fragment(
    place: Place,
    system: fs.FileSystem,
    said: Said,
    row_groups: Sequence[int] | None = None,
) -> ds.ParquetFileFragment:
    """One file, or some of its row groups, with what its folders say of it."""
    conditions = [
        pc.field(name).is_null() if value is None else pc.field(name) == pa.scalar(value, kind)
        for name, kind, value in said
    ]
    return _FORMAT.make_fragment(
        place.path,
        filesystem=system,
        partition_expression=reduce(and_, conditions) if conditions else None,
        row_groups=None if row_groups is None else list(row_groups),
    )


def dataset(fragments: Sequence[ds.ParquetFileFragment], schema: pa.Schema) -> ds.Dataset:
    """Files of one schema, as DuckDB reads them: only the columns and row groups it needs."""
    return ds.FileSystemDataset(
        list(fragments), schema, _FORMAT, filesystem=fragments[0].filesystem
    )


def shown_schema(found: ds.ParquetFileFragment, said: Said) -> pa.Schema:
    """The columns of one file and of its folders, times in the units that DuckDB gives them."""
    stored = [field.with_type(_in_micros(field.type)) for field in found.physical_schema]
    return pa.schema([*stored, *(pa.field(name, kind) for name, kind, _ in said)])


def runs(found: ds.ParquetFileFragment, rows: int) -> Iterator[tuple[int, ...]]:
    """The row groups of a file, in order, in runs of about so many rows."""
    run: list[int] = []
    held = 0
    for group in found.row_groups:
        run.append(group.id)
        held += group.num_rows
        if held >= rows:
            yield tuple(run)
            run, held = [], 0
    if run:
        yield tuple(run)


def _in_micros(kind: pa.DataType) -> pa.DataType:
    coarse = pa.types.is_timestamp(kind) and kind.unit in ("s", "ms")
    return pa.timestamp("us", kind.tz) if coarse else kind


def _read_parquet_sql(files: Files) -> str:
    listed = ", ".join(quote_text(_escaped(place.path)) for place in files.places)
    said = "".join(
        f", [{', '.join(_literal(value) for value in part.values)}]"
        f"[({_FILE_INDEX} + 1)::BIGINT]::{_SQL_KINDS[part.kind]} AS {quote_name(part.name)}"
        for part in files.partitions
    )
    options = "union_by_name = true, hive_partitioning = false"
    return f"SELECT *{said} FROM read_parquet([{listed}], {options})"


def _literal(value: PartValue) -> str:
    return "NULL" if value is None else quote_text(str(value))


def _escaped(path: str) -> str:
    """A path that DuckDB does not take for a pattern."""
    return "".join(f"[{mark}]" if mark in "*?[" else mark for mark in path)
