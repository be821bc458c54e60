"""Tables on standard output, and records as plain values for `--json`. Rich is imported late."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def new_table(*columns: str) -> Table:
    """An empty table; two columns without titles where none are named."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=bool(columns), pad_edge=False)
    for position, column in enumerate(columns or ("", "")):
        table.add_column(column, justify="left", overflow="fold", no_wrap=position == 0)
    return table


def print_table(table: Table) -> None:
    """Print a table to standard output."""
    from rich.console import Console

    # A pipe has no width; a table folded at 80 columns is hard to read and to grep.
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


def mark(good: bool) -> str:  # noqa: FBT001 - reads as a sentence
    """`ok` or `no`, in its colour."""
    return "[green]ok[/]" if good else "[red]no[/]"


def plain(value: Any) -> Any:  # noqa: ANN401 - recursive over records
    """Records, enums, times and paths as values that JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value
