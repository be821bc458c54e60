"""Writing Parquet: whole files only, durable before they are seen, never rewritten in place."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scalr_ray.core.errors import DataError
from scalr_ray.core.fingerprint import file_fingerprint


def write_beside(path: Path, table: pa.Table) -> Path:
    """Write `table` durably to a hidden file in the folder of `path` and return where it lies."""
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with hidden.open("xb") as stream:
            pq.write_table(table.combine_chunks(), stream)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    return hidden


def write_part(
    folder: Path, table: pa.Table, *, needed: Sequence[str], original: Mapping[str, str], view: str
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
        DataError: a column is missing; nothing is written.
    """
    if missing := sorted(set(needed) - set(table.column_names)):
        raise DataError(f"rows for {view!r} lack the column(s) {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    names = [original.get(name, name) for name in table.column_names]
    hidden = write_beside(
        folder / "part", table.rename_columns(names).replace_schema_metadata(None)
    )
    hidden.replace(folder / f"part-{file_fingerprint(hidden)[:32]}.parquet")
