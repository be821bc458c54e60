"""Drawn rows as DuckDB reads them: a table in memory, or Parquet files by column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa

from scalr_ray.core.duck import quote_text

Rows: TypeAlias = pa.Table | Sequence[Path]
"""A table, or the Parquet files (at least one) that hold its rows."""


def expose_rows(session: duckdb.DuckDBPyConnection, name: str, rows: Rows) -> None:
    """Make `rows` readable as the relation `name`, of which statements read only what they name.

    Args:
        session: of DuckDB.
        name: a plain identifier.
        rows: a table, or at least one Parquet file.
    """
    if isinstance(rows, pa.Table):
        session.register(name, rows)
        return
    files = ", ".join(quote_text(str(path)) for path in rows)
    session.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM read_parquet([{files}])")
