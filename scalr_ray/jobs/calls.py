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

from scalr_ray.core import logs
from scalr_ray.core.errors import ConfigError, ScalrError, UsageError

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_STOPPED = 128 + signal.SIGTERM
_EXIT_BUG = ScalrError.exit_code

_QUIET_ENVIRONMENT = {
    "FEAST_USAGE": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


def exit_code_of(call: Callable[[], Any], program: str = "scalr") -> int:
    """Call, and turn what it raises into one line on standard error and an exit code.

    What nobody foresaw is raised; where the logs are JSON it is a line with a traceback.

    Args:
        call: parses a command line and does what it says.
        program: whose `--help` says more.
    """
    code = 0
    try:
        call()
    except ScalrError as error:
        say_last(error.message, error.exit_code, code=error.code)
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:
        asked.show()
        code = asked.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else program
        message = f"{_one_line(error)}; `{where} --help` says more"
        say_last(message, error.exit_code, code=UsageError.code)
        code = error.exit_code
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except (KeyboardInterrupt, click.Abort):
        say_last("interrupted", EXIT_INTERRUPTED)
        code = EXIT_INTERRUPTED
    except Exception as error:
        if not are_json():
            raise
        say_last("a bug: it ended with an error of Python", _EXIT_BUG, error=error)
        code = _EXIT_BUG
    return code


def say_last(
    message: str, exit_code: int, *, error: BaseException | None = None, **known: object
) -> None:
    """Say on standard error how a call ended: `scalr: ...`, or JSON where the logs are JSON."""
    told = f"scalr: {message}"
    if are_json():
        told = logs.last_line(message, error=error, exit_code=exit_code, **known)
    click.echo(told, err=True)


def are_json() -> bool:
    """Whether the logs are JSON; they are not where the environment asks for something unknown."""
    try:
        return logs.are_json()
    except ConfigError:
        return False


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
