"""Writing Parquet: whole files only, durable before they are seen, never rewritten in place.

On local disk a file is written beside its name and then moved there. In S3 an object appears when
its upload is complete, and not before; the content is handed over at once, so that an interrupted
upload leaves none.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scalr_ray.core.errors import DataError
from scalr_ray.core.fingerprint import file_fingerprint
from scalr_ray.offline_store.storage import Place, storage_errors

_FINGERPRINT_DIGITS = 32


def write_beside(path: Path, table: pa.Table) -> Path:
    """Write `table` durably to a hidden file in the folder of `path` and return where it lies."""
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with ExitStack() as unless_done:
        unless_done.callback(hidden.unlink, missing_ok=True)
        with hidden.open("xb") as stream:
            pq.write_table(table.combine_chunks(), stream)
            stream.flush()
            os.fsync(stream.fileno())
        unless_done.pop_all()
    return hidden


def write_file(place: Place, table: pa.Table) -> None:
    """Write `table` as the Parquet file at `place`, in the stead of what lies there.

    Raises:
        DataError: S3 refuses it.
        RetryLater: S3 does not answer; nothing is written.
    """
    if place.in_s3:
        _upload(place, _encoded(table))
        return
    path = Path(place.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_beside(path, table).replace(path)


def write_part(
    folder: Place, table: pa.Table, *, needed: Sequence[str], original: Mapping[str, str], view: str
) -> None:
    """Add `table` to `folder` as one new `part-*.parquet`, all or nothing.

    The file is named after its content, so that repeating a write changes nothing.

    Args:
        folder: created when it is not there.
        table: rows under the names of the view.
        needed: columns it must have.
        original: name in the file, where it differs from the name in the view.
        view: whose rows these are, for the message.

    Raises:
        DataError: a column is missing, or S3 refuses the file; nothing is written.
        RetryLater: S3 does not answer; nothing is written.
    """
    if missing := sorted(set(needed) - set(table.column_names)):
        raise DataError(f"rows for {view!r} lack the column(s) {', '.join(missing)}")
    names = [original.get(name, name) for name in table.column_names]
    part = table.rename_columns(names).replace_schema_metadata(None)
    if folder.in_s3:
        content = _encoded(part)
        _upload(folder / _part_name(hashlib.sha256(content).hexdigest()), content)
        return
    path = Path(folder.path)
    path.mkdir(parents=True, exist_ok=True)
    hidden = write_beside(path / "part", part)
    hidden.replace(path / _part_name(file_fingerprint(hidden)))


def write_split(folder: Place, table: pa.Table, *, rows: int) -> list[str]:
    """Write `table` to `folder` as files of `rows` rows each, at least one; their URIs, in order.

    Raises:
        DataError: S3 refuses a file.
        RetryLater: S3 does not answer.
    """
    places = []
    for number, start in enumerate(range(0, max(table.num_rows, 1), rows)):
        place = folder / f"part-{number:05}.parquet"
        write_file(place, table.slice(start, rows))
        places.append(place.uri)
    return places


def rows_fingerprint(table: pa.Table) -> str:
    """The sha256 of `table` as Parquet: of its rows in their order, however memory holds them."""
    return hashlib.sha256(_encoded(table)).hexdigest()


def _part_name(content_fingerprint: str) -> str:
    return f"part-{content_fingerprint[:_FINGERPRINT_DIGITS]}.parquet"


def _encoded(table: pa.Table) -> pa.Buffer:
    stream = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), stream)
    return stream.getvalue()


def _upload(place: Place, content: pa.Buffer) -> None:
    with storage_errors(place.uri):
        # no context manager: leaving it on an error would complete what was uploaded by then
        stream = place.filesystem().open_output_stream(place.path)
        stream.write(content)
        stream.close()
