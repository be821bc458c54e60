"""What a person sees while a stage runs: its name, a bar where there is a count, its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)

Advance = Callable[[int], None]


class Progress:
    """Stages on a console; a quiet one prints nothing and still keeps the times.

    Attributes:
        timings_s: seconds per finished stage, by title, in order.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self.timings_s: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str, *, total: int | None = None) -> Iterator[Advance]:
        """Show a stage while the block runs; call what is yielded with the units just done."""
        started = time.perf_counter()
        if self._console is None or not self._console.is_terminal:
            yield lambda _: None  # a bar redraws itself, which a file or a pipe cannot show
        else:
            with Bar(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                *([] if total is None else [BarColumn(), MofNCompleteColumn()]),
                TimeElapsedColumn(),
                *([] if total is None else [TimeRemainingColumn()]),
                console=self._console,
                transient=True,
            ) as bar:
                task = bar.add_task(title, total=total)
                yield lambda units: bar.advance(task, units)
        seconds = time.perf_counter() - started
        self.timings_s[title] = self.timings_s.get(title, 0.0) + seconds
        if self._console is not None:
            line = f"[green]✓[/] {escape(title)} [dim]{seconds:.1f} s[/]"
            self._console.print(line, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a line under the current stage."""
        if self._console is not None:
            self._console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)
