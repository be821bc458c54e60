"""Processes of their own that start at once: forked from one that has imported what they need.

A process that is forked from the tests would inherit their threads and open databases; one that is
spawned imports Feast for seconds. The server that these are forked from has imported and done
nothing else.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from typing import Any

_IMPORTED = (
    "feast",
    "pyarrow.parquet",
    "ray",
    "scalr_ray",
    "scalr_ray.jobs.sdk",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "training",
)


@cache
def fresh() -> ForkServerContext:
    """The context to start them in."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    return context


def fresh_process(target: Callable[..., Any], *arguments: Any) -> Any:
    """A process that is not started yet, and will have the environment that this one has now."""
    return fresh().Process(target=_in_environment, args=(dict(os.environ), target, arguments))


def in_parallel(calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """What each call returns, from a process each, all at work at the same time.

    Raises:
        AssertionError: one did not end well; says how.
    """
    pipes, processes = [], []
    for function, arguments in calls:
        receiver, sender = fresh().Pipe(duplex=False)
        process = fresh_process(_told, sender, function, arguments)
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    answers = [_answer(pipe) for pipe in pipes]
    for process in processes:
        process.join()
    failures = [text for failed, text in answers if failed]
    assert not failures, failures[0]
    return [result for _, result in answers]


def _in_environment(
    environment: dict[str, str], target: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    gc.freeze()  # what was imported stays, and looking through it at each collection takes long
    # The server was started in the environment of an earlier test.
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


def _answer(pipe: Any) -> tuple[bool, Any]:
    try:
        return pipe.recv()
    except EOFError:
        return True, "a process ended without a word"


def _told(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import traceback
    import warnings

    warnings.simplefilter("ignore")  # Feast and Ray warn of themselves
    try:
        sender.send((False, function(*arguments)))
    except BaseException:  # noqa: BLE001 - whatever it was, the test tells it
        sender.send((True, traceback.format_exc()))
