"""The files of the table, on local disk or in S3, named by location as Iceberg names them.

A file appears whole or not at all: on local disk by rename, in S3 because an object is there only
once it is complete. Names that start with `.` are of files that are being written.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

import pyarrow.parquet as pq
from pyarrow import fs

from scalr_ray.core.s3 import S3_SCHEME, s3_filesystem


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file that is there.

    Attributes:
        location: where it lies.
        size_bytes: how large it is.
        modified: when it was written, in UTC.
    """

    location: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True, kw_only=True)
class TableFiles:
    """What lies below the location of a table.

    Attributes:
        root: the table's location: an absolute path, or `s3://bucket/prefix`.
        filesystem: Arrow's, that reads and writes there.
    """

    root: str
    filesystem: fs.FileSystem

    @classmethod
    def at(cls, root: str) -> Self:
        """The files below a location."""
        system = s3_filesystem() if root.startswith(S3_SCHEME) else fs.LocalFileSystem()
        return cls(root=root, filesystem=system)

    @property
    def local(self) -> bool:
        """Whether they lie on local disk."""
        return not self.root.startswith(S3_SCHEME)

    def below(self, folder: str, *, recursive: bool = True) -> list[FoundFile]:
        """The files in a folder, which need not be there, in order of their names."""
        wanted = fs.FileSelector(_path(folder), recursive=recursive, allow_not_found=True)
        scheme = "" if self.local else S3_SCHEME
        found = [
            FoundFile(location=f"{scheme}{info.path}", size_bytes=info.size, modified=info.mtime)
            for info in self.filesystem.get_file_info(wanted)
            if info.is_file
        ]
        return sorted(found, key=lambda file: file.location)

    def exists(self, location: str) -> bool:
        """Whether there is such a file."""
        return bool(self.filesystem.get_file_info(_path(location)).is_file)

    def size_bytes(self, locations: Iterable[str]) -> int:
        """How large some files are together; those that are gone count nothing."""
        infos = self.filesystem.get_file_info([_path(location) for location in locations])
        return sum(info.size for info in infos if info.is_file)

    @contextmanager
    def parquet(self, location: str) -> Iterator[pq.ParquetFile]:
        """A Parquet file, open for reading."""
        with (
            self.filesystem.open_input_file(_path(location)) as stream,
            pq.ParquetFile(stream) as file,
        ):
            yield file

    def read_text(self, location: str) -> str | None:
        """The text of a file; None where there is none."""
        try:
            with self.filesystem.open_input_stream(_path(location)) as stream:
                return bytes(stream.read()).decode()
        except FileNotFoundError:
            return None

    def write_text(self, location: str, text: str) -> None:
        """Write a file in one step, in place of the one that is there."""
        with self.appearing(location) as half_written:
            half_written.write_text(text, encoding="utf-8")

    @contextmanager
    def appearing(self, location: str) -> Iterator[Path]:
        """A local path to write to, that becomes the file at `location` where the block ends well.

        A block that writes nothing makes no file.
        """
        if not self.local:
            with tempfile.TemporaryDirectory(prefix="scalr-lake-") as folder:
                half_written = Path(folder) / "half"
                yield half_written
                if half_written.exists():
                    self._upload(half_written, location)
            return
        target = Path(location)
        target.parent.mkdir(parents=True, exist_ok=True)
        half_written = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            yield half_written
            if half_written.exists():
                half_written.replace(target)
        finally:
            half_written.unlink(missing_ok=True)

    def bring(self, path: Path, location: str) -> None:
        """Let a finished local file appear at `location` as well; it stays where it is.

        On the same disk the two are one file, and nothing is copied.
        """
        if not self.local:
            self._upload(path, location)
            return
        Path(location).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, location)
        except FileExistsError:
            raise
        except OSError:  # another disk, or one without links
            with self.appearing(location) as half_written:
                shutil.copyfile(path, half_written)
        os.utime(location)  # a file that is brought now is young, whenever it was written

    def remove(self, location: str) -> bool:
        """Delete a file of the table, and its folder with the last one; returns if it was there."""
        if not self.exists(location):
            return False
        self.filesystem.delete_file(_path(location))
        if self.local:
            with suppress(OSError):  # it holds other files
                Path(location).parent.rmdir()
        return True

    def remove_folder(self, folder: str) -> None:
        """Delete a folder and all that is in it, if it is there."""
        if self.filesystem.get_file_info(_path(folder)).type != fs.FileType.NotFound:
            self.filesystem.delete_dir(_path(folder))

    def _upload(self, path: Path, location: str) -> None:
        with path.open("rb") as source, self.filesystem.open_output_stream(_path(location)) as to:
            shutil.copyfileobj(source, to, 8 * 1024 * 1024)


def _path(location: str) -> str:
    """A location as Arrow's file systems name it."""
    return location.removeprefix(S3_SCHEME)
