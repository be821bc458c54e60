"""A call from a command line: what the libraries print on their own, and how it ends."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from scalr_ray.core.errors import ScalrError

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_STOPPED = 128 + signal.SIGTERM

_QUIET_ENVIRONMENT = {
    "FEAST_USAGE": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


def exit_code_of(call: Callable[[], Any], program: str = "scalr") -> int:
    """Call, and turn what it raises into one line on standard error and an exit code.

    Args:
        call: parses a command line and does what it says.
        program: whose `--help` says more.
    """
    try:
        call()
    except ScalrError as error:
        click.echo(f"scalr: {error.message}", err=True)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:
        asked.show()
        return asked.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else program
        click.echo(f"scalr: {_one_line(error)}; `{where} --help` says more", err=True)
        return error.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("scalr: interrupted", err=True)
        return EXIT_INTERRUPTED
    return 0


@contextmanager
def quiet(*, verbose: bool) -> Iterator[None]:
    """Silence what Feast, Ray and others print on their own in the block, unless `verbose`."""
    for name, value in _QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if verbose:
        logging.basicConfig(level=logging.INFO)
        yield
        return
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _one_line(error: click.ClickException) -> str:
    return " ".join(error.format_message().split()).rstrip(".")
