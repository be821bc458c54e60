"""Saved training sets on disk: a folder each, whole or not there.

```
training_sets/<name>/rows.parquet      the rows
                     manifest.json     what they are, and the sha256 of `rows.parquet`
              .<name>.<token>/         a folder that is being written, or that was removed
```
Whoever changes something holds the folder of them all, whoever reads shares it; a process that dies
lets go. What it left unfinished has a name with a dot in front, and the next who writes clears it
away, or finishes it.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.fingerprint import file_fingerprint
from scalr_ray.lake.troubles import file_errors
from training.durable import HALF_WRITTEN, flush, locked, write_json, write_rows
from training.row_file import RowFile

ROWS = "rows.parquet"
ROWS_SHA256 = "rows_sha256"

_MANIFEST = "manifest.json"
# What replaces the two files of a set; the second one says that the first is whole.
_NEXT_ROWS = ".rows.parquet"
_NEXT_MANIFEST = ".manifest.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class SetFolders:
    """All saved training sets of a repository.

    Attributes:
        root: where their folders lie.
    """

    root: Path

    def folder(self, name: str) -> Path:
        """Where a set lies, or would lie.

        Raises:
            UsageError: the name cannot name a set.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a training set; use up to 64 of a-z, 0-9, _ and -, and "
                "begin with a letter or a digit"
            )
        return self.root / name

    def names(self) -> list[str]:
        """The sets that are there, in order."""
        with file_errors("list the saved training sets"):
            found = (path.parent.name for path in self.root.glob(f"[!.]*/{_MANIFEST}"))
            return sorted(name for name in found if _NAME.fullmatch(name))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold all sets for oneself, waiting for others, and clear away what the dead have left.

        Raises:
            RetryLater: the disk is full.
            UsageError: writing is not allowed.
        """
        with file_errors("write into the saved training sets"):
            self.root.mkdir(parents=True, exist_ok=True)
            with locked(self.root, alone=True):
                for dead in self.root.glob(".*"):
                    shutil.rmtree(dead)
                yield

    def add(self, name: str, rows: pa.Table, manifest: dict[str, Any]) -> dict[str, Any]:
        """Write a set, within `changing`; the same again changes nothing. Returns its manifest.

        Raises:
            UsageError: there is another set of that name.
        """
        folder = self.folder(name)
        hidden = self.root / f".{name}.{secrets.token_hex(8)}"
        hidden.mkdir()
        said = manifest | {ROWS_SHA256: write_rows(hidden / ROWS, rows)}
        if folder.exists():
            shutil.rmtree(hidden)
            if _manifest_in(folder) != said:
                raise UsageError(
                    f"there is another training set {name!r}; save under another name, or remove "
                    "that one first"
                )
            return said
        write_json(hidden / _MANIFEST, said)
        flush(hidden)
        hidden.rename(folder)
        flush(self.root)
        return said

    def read(self, name: str) -> tuple[pa.Table, dict[str, Any]]:
        """The rows and the manifest of a set.

        Raises:
            DataError: there is none of that name, or it is damaged.
        """
        folder = self.folder(name)
        if not self.root.is_dir():
            raise self._unknown(name)
        with file_errors(f"read training set {name!r}"), locked(self.root, alone=False):
            return self.rows(name), _manifest_in(folder)

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a set.

        Raises:
            DataError: there is none of that name, or it is damaged.
        """
        folder = self.folder(name)
        if not folder.is_dir():
            raise self._unknown(name)
        return _manifest_in(folder)

    def rows(self, name: str) -> pa.Table:
        """The rows of a set, held or shared by the caller.

        Raises:
            DataError: there is none of that name, or the rows are not those that were saved.
        """
        # Not by `read_table`, which takes `column=value` in the path of the repository for data.
        with pq.ParquetFile(self._sound(name)) as opened:
            return opened.read().combine_chunks()

    def file(self, name: str) -> RowFile:
        """The rows of a set, to be read block by block.

        Raises:
            DataError: there is none of that name, or it is damaged.
        """
        folder = self.folder(name)
        if not folder.is_dir():
            raise self._unknown(name)
        with file_errors(f"read training set {name!r}"), locked(self.root, alone=False):
            return RowFile.of(self._sound(name))

    def columns(self, name: str) -> list[str]:
        """The names of the columns of a set, without looking whether the rest is sound.

        Raises:
            DataError: the file is gone or unreadable.
        """
        with file_errors(f"read training set {name!r}"), pq.ParquetFile(self._rows(name)) as opened:
            return list(opened.schema_arrow.names)

    def column(self, name: str, column: str) -> pa.ChunkedArray:
        """One column of a set, without looking whether the rest is sound.

        Raises:
            DataError: the file is gone or unreadable.
        """
        with file_errors(f"read training set {name!r}"), pq.ParquetFile(self._rows(name)) as opened:
            return opened.read([column])[column]

    def replace(self, name: str, rows: pa.Table, manifest: dict[str, Any]) -> dict[str, Any]:
        """Put other rows in the place of those of a set, within `changing`.

        `finish` completes what is cut off in between. Returns the manifest.
        """
        folder = self.folder(name)
        said = manifest | {ROWS_SHA256: write_rows(folder / _NEXT_ROWS, rows)}
        write_json(folder / _NEXT_MANIFEST, said)
        flush(folder)
        (folder / _NEXT_ROWS).replace(folder / ROWS)
        flush(folder)
        (folder / _NEXT_MANIFEST).replace(folder / _MANIFEST)
        flush(folder)
        return said

    def finish(self, name: str) -> bool:
        """Complete or undo a replacement that was cut off, within `changing`.

        Returns:
            Whether rows that had been replaced already got their manifest only now.
        """
        folder = self.folder(name)
        for half_written in folder.glob(HALF_WRITTEN):
            half_written.unlink()
        (folder / _NEXT_ROWS).unlink(missing_ok=True)
        waiting = folder / _NEXT_MANIFEST
        if not waiting.exists():
            return False
        said = _json_in(waiting)
        if said[ROWS_SHA256] != file_fingerprint(self._rows(name)):
            waiting.unlink()
            return False
        waiting.replace(folder / _MANIFEST)
        flush(folder)
        return True

    def remove(self, name: str) -> None:
        """Delete a set, within `changing`: gone at once, whatever it takes to delete its files."""
        hidden = self.root / f".{name}.{secrets.token_hex(8)}"
        self.folder(name).rename(hidden)
        flush(self.root)
        shutil.rmtree(hidden)

    def _sound(self, name: str) -> Path:
        """The file of the rows, which are those that were saved."""
        file = self._rows(name)
        said = self.manifest(name)[ROWS_SHA256]
        if not file.exists() or file_fingerprint(file) != said:
            if (file.parent / _NEXT_MANIFEST).exists():
                raise DataError(
                    f"training set {name!r} is about to lose the rows of erased users; run "
                    "`scalr recover`, which goes on with it"
                )
            raise _damaged(file.parent, f"{ROWS} is gone or is not what was saved")
        return file

    def _rows(self, name: str) -> Path:
        return self.folder(name) / ROWS

    def _unknown(self, name: str) -> DataError:
        known = ", ".join(self.names()) or "none"
        return DataError(f"there is no saved training set {name!r}; there is {known}")


def _manifest_in(folder: Path) -> dict[str, Any]:
    return _json_in(folder / _MANIFEST)


def _json_in(file: Path) -> dict[str, Any]:
    folder = file.parent
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f"{file.name} is gone or unreadable") from error
    if not isinstance(manifest, dict) or ROWS_SHA256 not in manifest:
        raise _damaged(folder, f"{file.name} is not what was saved")
    return manifest


def _damaged(folder: Path, how: str) -> DataError:
    return DataError(
        f"training set {folder.name!r} is damaged: {how}; restore {folder} from a backup, or "
        "remove the set and save it again"
    )
