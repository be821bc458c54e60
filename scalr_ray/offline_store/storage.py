"""Where files lie: on local disk or in S3, and what goes wrong there, said in one line.

S3 is reached as `scalr_ray.core.s3` says, at the endpoint of the source or of the environment. A
place holds no secrets, so that it can be sent to another process and opened there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import duckdb
import pyarrow as pa
from pyarrow import fs

from scalr_ray.core.errors import DataError, ScalrError, UsageError
from scalr_ray.core.s3 import S3_SCHEME, s3_error, s3_filesystem


class Kind(Enum):
    """What is found at a place."""

    FILE = "file"
    FOLDER = "folder"
    NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file or a folder, whether it is there or not.

    Attributes:
        path: absolute on local disk; `bucket/key` in S3.
        in_s3: whether it lies in S3.
        endpoint: of an S3 service other than the one the environment names.
    """

    path: str
    in_s3: bool = False
    endpoint: str | None = None

    @classmethod
    def at(cls, text: str, *, repo: Path, endpoint: str | None = None) -> Place:
        """The place that a path or an `s3://` or `file://` URI names.

        Raises:
            UsageError: it lies neither on local disk nor in S3.
        """
        if text.startswith(S3_SCHEME):
            path = text.removeprefix(S3_SCHEME).rstrip("/")
            if not path or path.startswith("/"):
                raise UsageError(f"{text} names no bucket; write s3://<bucket>/<path>")
            return cls(path=path, in_s3=True, endpoint=endpoint or None)
        local = text.removeprefix("file://")
        if "://" in local:
            raise UsageError(f"{text} cannot be reached; use a local path or s3://<bucket>/<path>")
        return cls(path=str(repo / local))

    @property
    def uri(self) -> str:
        """The `s3://` URI, or the absolute local path."""
        return f"{S3_SCHEME}{self.path}" if self.in_s3 else self.path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    def __truediv__(self, name: str) -> Place:
        return replace(self, path=f"{self.path}/{name}")

    def filesystem(self) -> fs.FileSystem:
        """What reads and writes here; made anew in each process."""
        if not self.in_s3:
            return fs.LocalFileSystem()
        return s3_filesystem(self.endpoint)

    def kind(self) -> Kind:
        """What is there.

        Raises:
            DataError: S3 refuses to tell.
            RetryLater: S3 does not answer.
        """
        with storage_errors(self.uri):
            found = self.filesystem().get_file_info(self.path).type
        kinds = {fs.FileType.File: Kind.FILE, fs.FileType.Directory: Kind.FOLDER}
        return kinds.get(found, Kind.NOTHING)

    def glob(self, pattern: str) -> Iterator[tuple[str, Kind]]:
        """The files and folders below this folder that fit, as relative paths, in no order.

        A `*` stands for part of a name, `**` for any number of folders. A folder that is not there
        holds nothing.

        Raises:
            DataError: S3 refuses to list it, or has no such bucket.
            RetryLater: S3 does not answer.
        """
        if not self.in_s3:
            root = Path(self.path)
            for found in root.glob(pattern):
                kind = Kind.FOLDER if found.is_dir() else Kind.FILE
                yield found.relative_to(root).as_posix(), kind
            return
        wanted = tuple(pattern.split("/"))
        for info in self._listed(recursive=len(wanted) > 1):
            name = info.path[len(self.path) + 1 :]
            if _fits(tuple(name.split("/")), wanted):
                yield name, Kind.FILE if info.is_file else Kind.FOLDER

    def _listed(self, *, recursive: bool) -> list[fs.FileInfo]:
        with storage_errors(self.uri):
            system = self.filesystem()
            found = system.get_file_info(
                fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
            )
            bucket = self.path.split("/", 1)[0]
            if not found and system.get_file_info(bucket).type == fs.FileType.NotFound:
                raise DataError(f"{self.uri}: S3 has no bucket {bucket!r}; create it first")
        return list(found)


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Say what Arrow and DuckDB raise about files as one line of ours that names `what`.

    Raises:
        DataError: it is unreadable, refused or not there.
        RetryLater: S3 does not answer.
    """
    try:
        yield
    except (
        OSError,
        pa.ArrowException,
        duckdb.BinderException,
        duckdb.InvalidInputException,
        duckdb.IOException,
    ) as error:
        raise storage_error(what, error) from error


def storage_error(what: str, error: Exception) -> ScalrError:
    """What to tell the user of an `error` that Arrow or DuckDB raised while reading `what`."""
    return s3_error(what, error) or DataError(f"{what} cannot be read: {error}")


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path fit those of a pattern."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or (bool(parts) and _fits(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
