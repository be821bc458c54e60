"""DuckDB sessions: one private in-memory database each, in UTC, within limits, spilling to disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb


@contextmanager
def duck(
    *, memory_limit: str = "4GB", threads: int = 2, spill_dir: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a session and close it again.

    Args:
        memory_limit: DuckDB's budget before it spills, for example `"4GB"`.
        threads: worker threads.
        spill_dir: where it spills, in a folder of its own that goes with it; None takes the
            system's folder for temporary files.
    """
    if spill_dir is not None:
        spill_dir.mkdir(parents=True, exist_ok=True)
    # Sessions that share a folder would write to the same files: DuckDB names them by number.
    with TemporaryDirectory(prefix="scalr-duck-", dir=spill_dir) as private:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "threads": threads,
            "temp_directory": private,
        }
        with duckdb.connect(":memory:", config=settings) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            # A notebook without ipywidgets has none, and DuckDB refuses to be told so.
            if _setting(connection, "enable_progress_bar"):
                connection.execute("SET enable_progress_bar = false")
            yield connection


def _setting(connection: duckdb.DuckDBPyConnection, name: str) -> object:
    found = connection.execute("SELECT current_setting(?)", [name]).fetchone()
    assert found is not None
    return found[0]


def quote_name(name: str) -> str:
    """A column or table name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Text as a quoted SQL literal."""
    return "'" + text.replace("'", "''") + "'"
