"""Tables on standard output. Rich is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
