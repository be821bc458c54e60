"""A stage as a process of its own: `python -m scalr_ray.jobs.train --repo REPO --as-of TIME`.

It takes the options of `scalr train` and returns its exit codes. Progress and errors, a line each,
go to standard error; what came of the stage goes to standard output. This is what a Ray job runs
(`submission.py`), and what `ray job submit -- python -m scalr_ray.jobs.train ...` runs.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import click

from scalr_ray.core.errors import GateRefused
from scalr_ray.core.plain import plain
from scalr_ray.jobs import options
from scalr_ray.jobs.calls import EXIT_STOPPED, exit_code_of, quiet
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.workspace import Workspace

_HELP = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a stage says at its end.

    Attributes:
        record: for machines: records of the stage, or plain values.
        sentence: the same in a line for a reader.
        refused: whether the gate let nothing pass.
    """

    record: Any
    sentence: str
    refused: bool = False


class Main(Protocol):
    """Runs a stage as a command line says; returns the exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """None takes the arguments of the process."""


def main_of(stage: str, work: Callable[..., Told]) -> Main:
    """The `main` of a stage.

    Args:
        stage: its name among `options.STAGES`.
        work: takes a workspace, and the options of the stage by name.
    """
    program = f"python -m scalr_ray.jobs.{stage}"

    @click.command(stage, help=work.__doc__, context_settings=_HELP)
    @options.takes(stage)
    @options.VERBOSE
    @options.AS_JSON
    @options.OVERRIDES
    @options.REPO
    def command(
        repo: Path,
        overrides: tuple[str, ...],
        *,
        as_json: bool,
        verbose: bool,
        **given: Any,  # noqa: ANN401 - whatever the stage takes
    ) -> None:
        settings = options.with_kind(overrides, given.pop("kind", None))
        with quiet(verbose=verbose), closing(_open(repo, settings, as_json=as_json)) as workspace:
            told = work(workspace, **given)
        if as_json:
            click.echo(json.dumps(plain(told.record), indent=2))
        if told.refused:
            raise GateRefused(told.sentence)
        if not as_json:
            click.echo(told.sentence)

    def main(argv: Sequence[str] | None = None) -> int:
        """Run the stage as a program; returns the exit code."""
        with _stopped_by_signal():
            return exit_code_of(
                lambda: command(args=argv, prog_name=program, standalone_mode=False), program
            )

    return main


def run_stage(stage: str) -> NoReturn:
    """End this process as the `main` of a stage does, for `python -m scalr_ray.jobs.STAGE`.

    It is run under the name of its module, by which workers import what they are sent.
    """
    module = importlib.import_module(f"scalr_ray.jobs.{stage}")
    raise SystemExit(module.main())


def _open(repo: Path, overrides: Sequence[str], *, as_json: bool) -> Workspace:
    from rich.console import Console

    return Workspace(repo, overrides, Progress(None if as_json else Console(stderr=True)))


@contextmanager
def _stopped_by_signal() -> Iterator[None]:
    """End by an exception when Ray stops the job, so that the ledger is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_STOPPED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
