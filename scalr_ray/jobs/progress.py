"""What a person sees while a stage runs: its name, a bar where there is a count, its time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)
from rich.text import Text

from scalr_ray.core import logs

_LINE_EVERY_S = 30.0
_LOG = logging.getLogger(__name__)

Advance = Callable[[int], None]


class Tell(Protocol):
    """Shows how many units were just done, and what else there is to say of the stage."""

    def __call__(self, units: int, said: str = "") -> None:
        """Nothing said leaves what was said before."""


class _Rate(ProgressColumn):
    """Units per second, lately."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


class Progress:
    """Stages on a console; a quiet one prints nothing and still keeps the times.

    Where logs are structured (`core/logs.py`), stages and notes are logged instead of printed.

    Attributes:
        timings_s: seconds per finished stage, by title, in order.
    """

    def __init__(self, console: Console | None = None) -> None:
        logs.set_up()
        self._logs = logs.are_json()
        self._console = None if self._logs else console
        self.timings_s: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str, *, total: int | None = None) -> Iterator[Tell]:
        """Show a stage while the block runs; call what is yielded with the units just done."""
        started = time.perf_counter()
        if self._logs:
            yield _Lines(self, title, total).advance
        elif self._console is None:
            yield _say_nothing
        elif not self._console.is_terminal:
            # A bar redraws itself, which a file or a pipe cannot show.
            yield _Lines(self, title, total).advance
        else:
            with Bar(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                *([] if total is None else [BarColumn(), MofNCompleteColumn(), _Rate()]),
                TimeElapsedColumn(),
                *([] if total is None else [TimeRemainingColumn()]),
                TextColumn("{task.fields[said]}", markup=False),
                console=self._console,
                transient=True,
            ) as bar:
                task = bar.add_task(title, total=total, said="")

                def advance(units: int, said: str = "") -> None:
                    bar.advance(task, units)
                    if said:
                        bar.update(task, said=said)

                yield advance
        seconds = time.perf_counter() - started
        self.timings_s[title] = self.timings_s.get(title, 0.0) + seconds
        if self._logs:
            _LOG.info("%s", title, extra=logs.fields(seconds=round(seconds, 3)))
        if self._console is not None:
            line = f"[green]✓[/] {escape(title)} [dim]{seconds:.1f} s[/]"
            self._console.print(line, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a line under the current stage."""
        if self._logs:
            _LOG.info("%s", text)
        if self._console is not None:
            self._console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)


def _say_nothing(units: int, said: str = "") -> None:
    del units, said


class _Lines:
    """What is done of a stage, in a line every half minute."""

    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self._progress, self._title, self._total = progress, title, total
        self._started = self._told = time.monotonic()
        self._done, self._said = 0, ""

    def advance(self, units: int, said: str = "") -> None:
        """Count units that were just done."""
        self._done += units
        self._said = f", {said}" if said else self._said
        now = time.monotonic()
        if now - self._told < _LINE_EVERY_S or self._total is None:
            return
        self._told = now
        rate = self._done / (now - self._started)
        left_s = max(self._total - self._done, 0) / rate if rate else float("inf")
        self._progress.note(
            f"{self._title}: {self._done:,} of {self._total:,}, {rate:,.0f}/s, {left_s:,.0f} s left"
            f"{self._said}"
        )
