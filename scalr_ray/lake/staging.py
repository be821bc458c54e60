"""Staged batches: Parquet files inside the table's data folder that no snapshot lists.

A batch is staged in `<table>/data/<batch_id>/`. The files already lie where they stay, so that
publishing moves nothing. The folder is not called `batch_id=...`: readers that take such names for
partitions would find the column twice.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.lake.schemas import schema_problem, to_schema

_BATCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class StagingArea:
    """The staged files of one table.

    Attributes:
        folder: the table's data folder.
        schema: the schema every file must have.
    """

    folder: Path
    schema: pa.Schema

    def batch_dir(self, batch_id: str) -> Path:
        """Where the files of a batch lie; the folder need not exist yet.

        Raises:
            UsageError: the id cannot name a folder.
        """
        if not _BATCH_ID.fullmatch(batch_id):
            raise UsageError(
                f"batch id {batch_id!r} cannot name a folder; use up to 128 letters, digits, "
                "'.', '_' and '-', starting with a letter or a digit"
            )
        return self.folder / batch_id

    def files(self, batch_id: str) -> list[Path]:
        """The staged Parquet files in order of their names; half-written ones are left out."""
        found = self.batch_dir(batch_id).glob("*.parquet")
        return sorted(path for path in found if not path.name.startswith((".", "_")))

    def write(self, batch_id: str, table: pa.Table) -> Path:
        """Write one file whose name follows from the event ids, unless it is there already."""
        _refuse(schema_problem(table.schema, self.schema), f"batch {batch_id}")
        rows = to_schema(table, self.schema)
        _check_batch_column(rows.column("batch_id"), batch_id, f"batch {batch_id}")
        folder = self.batch_dir(batch_id)
        path = folder / f"part-{_name_of(rows.column('event_id'))}.parquet"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            half_written = folder / f".{uuid.uuid4().hex}.parquet"
            pq.write_table(rows, half_written, compression="zstd")
            half_written.replace(path)
        return path

    def read(self, batch_id: str) -> pa.Table:
        """All staged rows of a batch, with exactly the schema.

        Raises:
            DataError: nothing is staged, or a file is not fit to publish.
        """
        tables = [self.schema.empty_table()]
        for path in self.audit(batch_id):
            with _opened(path) as parquet:
                tables.append(to_schema(parquet.read(), self.schema))
        return pa.concat_tables(tables)

    def audit(self, batch_id: str) -> list[Path]:
        """The files of a batch that hold rows, once all have been found fit to publish.

        Raises:
            DataError: nothing is staged; a file is no Parquet file, has another schema or holds
                rows of another batch; or an event is staged twice.
        """
        files = self.files(batch_id)
        if not files:
            raise DataError(f"nothing is staged for batch {batch_id}; generate it first")
        event_ids: dict[Path, pa.ChunkedArray] = {}
        for path in files:
            with _opened(path) as parquet:
                _refuse(schema_problem(parquet.schema_arrow, self.schema), str(path))
                columns = parquet.read(columns=["event_id", "batch_id"])
            _check_batch_column(columns.column("batch_id"), batch_id, str(path))
            if columns.num_rows:
                event_ids[path] = columns.column("event_id").cast(pa.string())
        _check_distinct(event_ids.values(), batch_id)
        return list(event_ids)

    def remove(self, batch_id: str) -> int:
        """Delete the batch's folder; returns how many staged files it held."""
        count = len(self.files(batch_id))
        folder = self.batch_dir(batch_id)
        if folder.exists():
            shutil.rmtree(folder)
        return count


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as parquet:
            yield parquet
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file; discard the batch") from error


def _refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        raise DataError(f"{where}: {problem}; a synthetic event has another schema")


def _check_batch_column(column: pa.ChunkedArray, batch_id: str, where: str) -> None:
    strangers = [value for value in pc.unique(column).to_pylist() if value != batch_id]
    if strangers:
        raise DataError(f"{where}: holds rows of batch {strangers[0]!r} beside {batch_id!r}")


def _check_distinct(event_ids: Collection[pa.ChunkedArray], batch_id: str) -> None:
    staged_rows = sum(len(ids) for ids in event_ids)
    chunks = [chunk for ids in event_ids for chunk in ids.chunks]
    distinct = pc.count_distinct(pa.chunked_array(chunks, pa.string())).as_py()
    if distinct != staged_rows:
        raise DataError(
            f"batch {batch_id}: {staged_rows - distinct} of {staged_rows} staged events are there "
            "twice; discard the batch and generate it again"
        )


def _name_of(event_ids: pa.ChunkedArray) -> str:
    """A name that a retry finds again, though its `generated_at` differs."""
    digest = hashlib.sha256()
    for event_id in sorted(event_ids.to_pylist()):
        digest.update(event_id.encode() + b"\0")
    return digest.hexdigest()[:32]
