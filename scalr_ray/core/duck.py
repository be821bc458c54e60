"""DuckDB sessions: one private in-memory database each, in UTC, within limits, spilling to disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb


@contextmanager
def duck(
    *, memory_limit: str = "4GB", threads: int = 2, spill_dir: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a session and close it again.

    Args:
        memory_limit: DuckDB's budget before it spills, for example `"4GB"`.
        threads: worker threads.
        spill_dir: where it spills; None keeps DuckDB's default.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit,
        "threads": threads,
    }
    if spill_dir is not None:
        settings["temp_directory"] = str(spill_dir)
    connection = duckdb.connect(":memory:", config=settings)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        yield connection
    finally:
        connection.close()


def quote_name(name: str) -> str:
    """A column or table name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Text as a quoted SQL literal."""
    return "'" + text.replace("'", "''") + "'"
