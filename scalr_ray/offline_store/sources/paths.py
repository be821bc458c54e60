"""From the path of a FileSource to files, and to what the names of their folders say.

A path names one file, a folder (all Parquet files below it) or a pattern. Files and folders whose
name starts with `.` or `_` are not looked at. A folder called `column=value` below the source, that
is below its path or below the part of its pattern before the first wildcard, gives the files in it
that column; folders above say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

import pyarrow as pa

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.offline_store.sources.reading import Access, label
from scalr_ray.offline_store.storage import Kind, Place

if TYPE_CHECKING:
    from feast.data_source import DataSource

PartValue: TypeAlias = int | date | str | None

_SUFFIX = ".parquet"
_ALL_BELOW = "**/*.parquet"
_NEW_PARTS = "part-*.parquet"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
# Zeros in front are part of a text, such as a postal code.
_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A column that the names of folders give.

    Attributes:
        name: of the column.
        kind: int64, date32 or string, whichever suits all values.
        values: one for each file; None where a folder says so or a file lies in no such folder.
    """

    name: str
    kind: pa.DataType
    values: tuple[PartValue, ...]


@dataclass(frozen=True, kw_only=True)
class Files:
    """Parquet files in one storage.

    Attributes:
        places: where they lie; at least one.
        partitions: what the names of their folders say.
    """

    places: tuple[Place, ...]
    partitions: tuple[Partition, ...]


def parquet_files(source: DataSource, access: Access) -> Files | None:
    """The Parquet files of a FileSource, sorted; None when there is none yet.

    Raises:
        DataError: its path names a single file that is gone, or S3 refuses access to it.
        RetryLater: S3 does not answer.
        UsageError: it is no FileSource of Parquet files on local disk or in S3.
    """
    root, pattern = _split(source, access)
    kind = Kind.FOLDER if pattern else root.kind()
    if kind is Kind.FILE:
        return Files(places=(root,), partitions=())
    if kind is Kind.NOTHING and root.name.endswith(_SUFFIX):
        raise DataError(f"{label(source)}: the file {root.uri} is gone; restore or rewrite it")
    names = sorted(set(_below(root, pattern or _ALL_BELOW)))
    if not names:
        return None
    return Files(places=tuple(root / name for name in names), partitions=_partitions(names))


def may_be_absent(source: DataSource, access: Access) -> bool:
    """Whether `source` names a single file that is not there, as before its first write."""
    root, pattern = _split(source, access)
    return not pattern and root.name.endswith(_SUFFIX) and root.kind() is Kind.NOTHING


def part_folder(source: DataSource, access: Access) -> Place:
    """The folder where new files of a FileSource go: its path, or what its pattern looks into.

    Raises:
        UsageError: it names a single file, a pattern that new parts would not match, or folders
            that name columns.
    """
    root, pattern = _split(source, access)
    if not pattern and root.name.endswith(_SUFFIX):
        raise UsageError(
            f"{label(source)} is the single file {root.uri}, which is never rewritten in place; "
            "point it at a folder or at <folder>/part-*.parquet"
        )
    if pattern not in ("", _NEW_PARTS):
        raise UsageError(f"{label(source)}: new files go only to <folder>/part-*.parquet")
    files = parquet_files(source, access)
    if files is not None and files.partitions:
        named = ", ".join(part.name for part in files.partitions)
        raise UsageError(
            f"{label(source)} keeps {named} in the names of its folders; add files to those folders"
        )
    return root


def _split(source: DataSource, access: Access) -> tuple[Place, str]:
    """Where a FileSource lies, up to the first wildcard, and the pattern from there on, if any."""
    from feast.data_format import ParquetFormat
    from feast.infra.offline_stores.file_source import FileSource

    if not isinstance(source, FileSource):
        raise UsageError(
            f"{label(source)} is a {type(source).__name__}; use a FileSource, an IcebergSource or "
            "a PostgreSQLSource"
        )
    if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
        raise UsageError(f"{label(source)} is not Parquet; write it as Parquet or as Iceberg")
    parts = str(source.path).split("/")
    fixed = next((place for place, part in enumerate(parts) if _is_wild(part)), len(parts))
    pattern = [part for part in parts[fixed:] if part]
    if any("**" in part and part != "**" for part in pattern):
        raise UsageError(f"{label(source)}: in {source.path}, ** must stand alone between slashes")
    if pattern and pattern[-1] == "**":
        pattern.append(f"*{_SUFFIX}")
    root = "".join(f"{part}/" for part in parts[:fixed])
    place = Place.at(root, repo=access.repo, endpoint=source.s3_endpoint_override)
    return place, "/".join(pattern)


def _is_wild(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _below(root: Place, pattern: str) -> Iterator[str]:
    """The files that fit, and those below the folders that fit, as paths relative to `root`."""
    for name, kind in root.glob(pattern):
        if any(part.startswith((".", "_")) for part in name.split("/")):
            continue
        if kind is Kind.FILE:
            yield name
        else:
            yield from (f"{name}/{deeper}" for deeper in _below(root / name, _ALL_BELOW))


def _partitions(names: Sequence[str]) -> tuple[Partition, ...]:
    """What the folders say of the files with these relative paths."""
    said = [_said(name) for name in names]
    columns = sorted({column for folders in said for column in folders})
    return tuple(
        _partition(column, [folders.get(column) for folders in said]) for column in columns
    )


def _said(name: str) -> Mapping[str, str | None]:
    """The text that the folders of one file give to each column."""
    pairs = [folder.split("=", 1) for folder in name.split("/")[:-1] if "=" in folder]
    return {
        unquote(column): None if value == _HIVE_NULL else unquote(value)
        for column, value in pairs
        if column
    }


def _partition(column: str, texts: Sequence[str | None]) -> Partition:
    given = [text for text in texts if text is not None]
    if given and all(map(_WHOLE_NUMBER.fullmatch, given)):
        numbers = [None if text is None else int(text) for text in texts]
        return Partition(name=column, kind=pa.int64(), values=tuple(numbers))
    if given and all(map(_is_day, given)):
        days = [None if text is None else date.fromisoformat(text) for text in texts]
        return Partition(name=column, kind=pa.date32(), values=tuple(days))
    return Partition(name=column, kind=pa.string(), values=tuple(texts))


def _is_day(text: str) -> bool:
    if not _DAY.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
