"""Erasing users from the files below the data folder: rows are dropped, unfinished work goes.

Events, features and rows that were set aside are written again without the users; all new files are
complete before the first takes its place, and the names stay, so that the same log imported again
still finds what it has brought. What a training or a generation that is not running any more left
behind to go on from is removed: it was made with these users.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scalr_ray.core.errors import DataError
from scalr_ray.core.layout import Layout
from scalr_ray.ingest import rewrite_tables

_USER = "user_id"


def rows_of_users(layout: Layout, user_ids: Sequence[str | int]) -> dict[str, int]:
    """How many rows of some users lie in which folders of the data, of those that have any.

    Raises:
        DataError: a file cannot be read.
    """
    found: dict[str, int] = {}
    for folder in _folders(layout):
        rows = sum(_count(file, user_ids) for file in _files(folder))
        if rows:
            found[str(folder.relative_to(layout.data))] = rows
    return found


def drop_rows_of_users(layout: Layout, user_ids: Sequence[str | int]) -> dict[str, int]:
    """Write the files that hold rows of some users again without them; rows dropped, by folder.

    The caller holds the data folder (`scalr_ray.ingest.sole_writer`).

    Raises:
        DataError: a file cannot be read.
    """
    dropped: dict[str, int] = {}
    for folder in _folders(layout):
        files = {file: _count(file, user_ids) for file in _files(folder)}
        rewrite_tables(
            [file for file, rows in files.items() if rows],
            lambda rows: rows.filter(pc.invert(_among(rows[_USER], user_ids))),
        )
        if rows := sum(files.values()):
            dropped[str(folder.relative_to(layout.data))] = rows
    return dropped


def unfinished_work(layout: Layout) -> list[Path]:
    """What trainings and generations have left behind to go on from, and files half written."""
    left = [
        path
        for folder in (layout.generation, layout.training)
        for path in (folder.iterdir() if folder.exists() else ())
    ]
    return sorted([*left, *half_written(layout)])


def half_written(layout: Layout) -> list[Path]:
    """Hidden files and folders: of somebody who is writing or, after a crash, of nobody."""
    places = (layout.data / "events", layout.data / "features", layout.rejected, layout.erasures)
    hidden = [path for place in places for path in place.rglob(".*")]
    hidden += layout.data.glob(".*.key.*")
    return sorted(hidden)


def remove(paths: Sequence[Path]) -> None:
    """Remove files and folders with all that is in them; what is gone already is no matter."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _folders(layout: Layout) -> list[Path]:
    """The folders of the data whose files may hold users."""
    kinds = [layout.data / "events", layout.data / "features"]
    views = [view for kind in kinds if kind.exists() for view in kind.iterdir() if view.is_dir()]
    return sorted([*views, *([layout.rejected] if layout.rejected.exists() else [])])


def _files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*.parquet")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if not hidden and _USER in _schema(file).names:
            yield file


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file} cannot be read, so nobody can say whom it holds; restore or remove it, and "
            "run `scalr recover`"
        ) from error


def _count(file: Path, user_ids: Sequence[str | int]) -> int:
    with pq.ParquetFile(file) as parquet:
        found = [
            pc.sum(_among(rows.column(_USER), user_ids)).as_py() or 0
            for rows in parquet.iter_batches(columns=[_USER])
        ]
    return sum(found)


def _among(
    column: pa.Array | pa.ChunkedArray, user_ids: Sequence[str | int]
) -> pa.Array | pa.ChunkedArray:
    """Whose rows are of the users: rows that were set aside have ids as text."""
    texts = pa.array([str(user_id) for user_id in user_ids], pa.string())
    plain = column.cast(pa.string())
    return pc.is_in(plain, value_set=texts)  # false where there is none
