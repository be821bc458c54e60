"""Staged batches: Parquet files inside the table's data folder that no snapshot lists.

A batch is staged in `<table>/data/<batch_id>/`. The files already lie where they stay, so that
publishing moves nothing. The list `_staged.json` beside them says which they are, and is written
last and in one step: a batch is staged whole or not at all, and staged again it changes from one
list to the other. Files that no list names are left-overs. The folder is not called `batch_id=...`:
readers that take such names for partitions would find the column twice.

Rows are looked at when they are staged; publishing looks at the footers of the files alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scalr_ray.core.damage import plain_name, refusing_damage
from scalr_ray.core.duck import duck
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.lake.files import TableFiles
from scalr_ray.lake.rows import Values, count_rows, rewrite_without, side_by_side
from scalr_ray.lake.schemas import schema_problem, to_schema
from scalr_ray.lake.troubles import file_errors

_BATCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LIST = "_staged.json"


@dataclass(frozen=True, kw_only=True)
class StagedFile:
    """A file of a staged batch.

    Attributes:
        name: in the folder of the batch.
        rows: how many it holds, at least one.
        size_bytes: how large it is.
    """

    name: str
    rows: int
    size_bytes: int


def _listed(entry: dict[str, Any]) -> StagedFile:
    file = StagedFile(**entry)
    plain_name(file.name)
    if file.rows < 1 or file.size_bytes < 0:
        raise ValueError(f"{file.name} is said to hold {file.rows} rows")
    return file


@dataclass(frozen=True, kw_only=True)
class StagingArea:
    """The staged files of one table.

    Attributes:
        files: of the table.
        schema: the schema every file must have.
    """

    files: TableFiles
    schema: pa.Schema

    @property
    def data(self) -> str:
        """The table's data folder."""
        return f"{self.files.root}/data"

    def batch_dir(self, batch_id: str) -> str:
        """Where the files of a batch lie; the folder need not exist yet.

        Raises:
            UsageError: the id cannot name a folder.
        """
        if not _BATCH_ID.fullmatch(batch_id):
            raise UsageError(
                f"batch id {batch_id!r} cannot name a folder; use up to 128 letters, digits, "
                "'.', '_' and '-', starting with a letter or a digit"
            )
        return f"{self.data}/{batch_id}"

    def location(self, batch_id: str, file: StagedFile) -> str:
        """Where a file of a batch lies."""
        return f"{self.batch_dir(batch_id)}/{file.name}"

    def listed(self, batch_id: str) -> list[StagedFile] | None:
        """The files of a staged batch in order of their names; None where none is staged.

        Raises:
            DataError: the list is damaged, or names files that lie elsewhere.
        """
        what = f"the list of batch {batch_id}"
        with refusing_damage(what, "generate it again"):
            with file_errors(f"read {what}"):
                text = self.files.read_text(f"{self.batch_dir(batch_id)}/{_LIST}")
            return None if text is None else [_listed(entry) for entry in json.loads(text)]

    def in_use(self, batch_id: str) -> set[str]:
        """The locations of the list of a staged batch, and of the files that it names."""
        listed = self.listed(batch_id)
        if listed is None:
            return set()
        files = {self.location(batch_id, file) for file in listed}
        return {f"{self.batch_dir(batch_id)}/{_LIST}", *files}

    def needed(self, batch_id: str) -> list[StagedFile]:
        """The files of a staged batch.

        Raises:
            DataError: nothing is staged.
        """
        files = self.listed(batch_id)
        if files is None:
            raise DataError(f"nothing is staged for batch {batch_id}; generate it first")
        return files

    def batches(self) -> list[str]:
        """The ids of the batches that have a list."""
        ending = f"/{_LIST}"
        return [
            file.location.removesuffix(ending).rsplit("/", 1)[1]
            for file in self.files.below(self.data)
            if file.location.endswith(ending)
        ]

    def stage(self, batch_id: str, folder: Path) -> int:
        """Take over the finished Parquet files of a local folder, in place of what was staged.

        Raises:
            DataError: they are not fit to publish; nothing has changed.
        """
        paths = [path for path in sorted(folder.glob("*.parquet")) if path.name[0] not in "._"]
        counts = [_check(path, self.schema, batch_id) for path in paths]
        _refuse_twice([path for path, rows in zip(paths, counts, strict=True) if rows], batch_id)
        before = self.listed(batch_id) or []
        # Names that were never used: what is there stays whole until the list changes.
        mark = uuid.uuid4().hex[:8]
        staged = [
            StagedFile(
                name=f"{path.stem}-{mark}.parquet", rows=rows, size_bytes=path.stat().st_size
            )
            for path, rows in zip(paths, counts, strict=True)
            if rows
        ]
        taken = [path for path, rows in zip(paths, counts, strict=True) if rows]
        side_by_side(
            lambda pair: self.files.bring(pair[0], self.location(batch_id, pair[1])),
            list(zip(taken, staged, strict=True)),
        )
        self._write_list(batch_id, staged)
        self._remove(batch_id, before)
        for path in paths:
            path.unlink()
        return sum(counts)

    def write(self, batch_id: str, table: pa.Table) -> str:
        """Add one file, whose name follows from the event ids, unless it is there already.

        Raises:
            DataError: the rows are not fit to publish, or are partly staged already.
        """
        where = f"batch {batch_id}"
        _refuse(schema_problem(table.schema, self.schema), where)
        rows = to_schema(table, self.schema)
        _check_batch_column(rows["batch_id"], batch_id, where)
        before = self.listed(batch_id) or []
        name = f"part-{_name_of(rows['event_id'])}.parquet"
        location = f"{self.batch_dir(batch_id)}/{name}"
        if name in {file.name for file in before}:
            return location
        ids = [rows["event_id"]]
        for file in before:
            with self.files.parquet(self.location(batch_id, file)) as parquet:
                ids.append(parquet.read(columns=["event_id"])["event_id"].cast(pa.string()))
        _check_distinct(ids, batch_id)
        with self.files.appearing(location) as path:
            pq.write_table(rows, path, compression="zstd")
            size_bytes = path.stat().st_size
        added = StagedFile(name=name, rows=rows.num_rows, size_bytes=size_bytes)
        self._write_list(batch_id, sorted([*before, added], key=lambda file: file.name))
        return location

    def read(self, batch_id: str) -> pa.Table:
        """All staged rows of a batch, with exactly the schema.

        Raises:
            DataError: nothing is staged, or a file is gone or damaged.
        """

        def rows_of(file: StagedFile) -> pa.Table:
            location = self.location(batch_id, file)
            with file_errors(f"read {location}"), self.files.parquet(location) as parquet:
                return to_schema(parquet.read(), self.schema)

        tables = side_by_side(rows_of, self.needed(batch_id))
        return pa.concat_tables([self.schema.empty_table(), *tables])

    def checked(self, batch_id: str) -> list[StagedFile]:
        """The files of a batch that hold rows, whose footers say what the list says.

        Raises:
            DataError: nothing is staged, or a file is gone, damaged or another one.
        """

        def refuse_changed(file: StagedFile) -> None:
            location = self.location(batch_id, file)
            what = f"read {location}, which is to be published"
            with file_errors(what), self.files.parquet(location) as parquet:
                _refuse(schema_problem(parquet.schema_arrow, self.schema), location)
                if parquet.metadata.num_rows != file.rows:
                    raise DataError(
                        f"{location} holds {parquet.metadata.num_rows} rows and was staged with "
                        f"{file.rows}; discard the batch and generate it again"
                    )

        files = [file for file in self.needed(batch_id) if file.rows]
        side_by_side(refuse_changed, files)
        return files

    def drop(self, batch_id: str, values: Values) -> int:
        """Write the files again without some rows; returns how many there were."""
        files = self.needed(batch_id)
        found = side_by_side(
            lambda file: count_rows(self.files, self.location(batch_id, file), values), files
        )
        kept: list[StagedFile] = []
        for file, rows in zip(files, found, strict=True):
            kept += self._without(batch_id, file, values) if rows else [file]
        if any(found):
            self._write_list(batch_id, kept)
            self._remove(batch_id, [file for file in files if file not in kept])
        return sum(sum(rows.values()) for rows in found)

    def forget(self, batch_id: str) -> None:
        """Remove the list: the files belong to the table now, or to nobody."""
        self.files.remove(f"{self.batch_dir(batch_id)}/{_LIST}")

    def remove(self, batch_id: str) -> int:
        """Delete the batch's folder; returns how many staged files it held."""
        count = len(self.listed(batch_id) or [])
        self.files.remove_folder(self.batch_dir(batch_id))
        return count

    def _without(self, batch_id: str, file: StagedFile, values: Values) -> list[StagedFile]:
        stem = file.name.removesuffix(".parquet").rsplit("-", 1)[0]
        name = f"{stem}-{uuid.uuid4().hex[:8]}.parquet"
        to = f"{self.batch_dir(batch_id)}/{name}"
        written = rewrite_without(self.files, self.location(batch_id, file), values, to)
        if written.location is None:
            return []
        return [StagedFile(name=name, rows=written.kept, size_bytes=written.size_bytes)]

    def _write_list(self, batch_id: str, files: Iterable[StagedFile]) -> None:
        text = json.dumps([asdict(file) for file in files], indent=1)
        self.files.write_text(f"{self.batch_dir(batch_id)}/{_LIST}", text)

    def _remove(self, batch_id: str, files: Sequence[StagedFile]) -> None:
        for file in files:
            self.files.remove(self.location(batch_id, file))


def _check(path: Path, schema: pa.Schema, batch_id: str) -> int:
    """The rows of a local file, once it has been found fit to publish; ids are looked at later."""
    try:
        with pq.ParquetFile(path) as file:
            _refuse(schema_problem(file.schema_arrow, schema), str(path))
            if not _all_of(file.metadata, batch_id):
                _check_batch_column(
                    file.read(columns=["batch_id"])["batch_id"], batch_id, str(path)
                )
            return int(file.metadata.num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file; discard the batch") from error


def _all_of(metadata: pq.FileMetaData, batch_id: str) -> bool:
    """Whether the statistics say that all rows are of the batch."""
    place = metadata.schema.names.index("batch_id")
    for group in range(metadata.num_row_groups):
        said = metadata.row_group(group).column(place).statistics
        if said is None or not said.has_min_max or {said.min, said.max} != {batch_id}:
            return False
    return True


def _refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        raise DataError(f"{where}: {problem}; a synthetic event has another schema")


def _check_batch_column(column: pa.ChunkedArray, batch_id: str, where: str) -> None:
    strangers = [value for value in pc.unique(column).to_pylist() if value != batch_id]
    if strangers:
        raise DataError(f"{where}: holds rows of batch {strangers[0]!r} beside {batch_id!r}")


def _check_distinct(event_ids: Sequence[pa.ChunkedArray], batch_id: str) -> None:
    rows = sum(len(ids) for ids in event_ids)
    chunks = [chunk for ids in event_ids for chunk in ids.chunks]
    distinct = pc.count_distinct(pa.chunked_array(chunks, pa.string())).as_py()
    _say_twice(rows, distinct, batch_id)


def _refuse_twice(paths: Sequence[Path], batch_id: str) -> None:
    """Check that no event is in the files twice, however many there are: DuckDB can spill."""
    if not paths:
        return
    with duck(spill_dir=paths[0].parent) as session:
        counted = session.execute(
            "SELECT count(*), count(DISTINCT event_id) FROM read_parquet(?)",
            [[str(path) for path in paths]],
        ).fetchone()
    assert counted is not None, "a count has one row"
    _say_twice(counted[0], counted[1], batch_id)


def _say_twice(rows: int, distinct: int, batch_id: str) -> None:
    if distinct != rows:
        raise DataError(
            f"batch {batch_id}: {rows - distinct} of {rows} staged events are there "
            "twice; discard the batch and generate it again"
        )


def _name_of(event_ids: pa.ChunkedArray) -> str:
    """A name that a retry finds again, though its `generated_at` differs."""
    digest = hashlib.sha256()
    for event_id in sorted(event_ids.to_pylist()):
        digest.update(event_id.encode() + b"\0")
    return digest.hexdigest()[:32]
