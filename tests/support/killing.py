"""Kill -9 of a process at its work: at a random instant, or at a step that is counted.

A step is a call that changes something which outlives the process: the commit of a transaction that
wrote, a commit to the Iceberg catalog, a file that appears or goes. The process dies right before
or right after it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fresh_processes import fresh, fresh_process

Work = Callable[..., None]

_READS = ("SELECT", "PRAGMA", "SHOW", "SET")
_WROTE = "wrote since the last commit"


def killed_after(seconds: float, work: Work, *arguments: Any) -> bool:
    """Do some work in a process of its own and kill it after so long; False: it was quicker."""
    ready, begun = fresh().Pipe(duplex=False)
    process = fresh_process(_begin, begun, work, arguments)
    process.start()
    begun.close()
    ready.recv()
    process.join(seconds)
    if process.exitcode is not None:
        assert process.exitcode == 0, f"the work failed by itself: {process.exitcode}"
        return False
    process.kill()
    process.join()
    return True


def seconds_of(work: Work, *arguments: Any) -> float:
    """How long the work takes when nobody interrupts it."""
    before = time.perf_counter()
    assert not killed_after(600, work, *arguments)
    return time.perf_counter() - before


def killed_at_step(step: int, work: Work, *arguments: Any) -> bool:
    """Do some work in a process that kills itself at the step; False: it has fewer steps."""
    process = fresh_process(_count, step, work, arguments)
    process.start()
    process.join(600)
    if process.exitcode == -signal.SIGKILL:
        return True
    assert process.exitcode == 0, f"the work failed by itself: {process.exitcode}"
    return False


def _begin(begun: Any, work: Work, arguments: Sequence[Any]) -> None:
    begun.send(None)
    begun.close()
    work(*arguments)


def _count(step: int, work: Work, arguments: Sequence[Any]) -> None:
    with _steps_that_kill(step):
        work(*arguments)


@contextmanager
def _steps_that_kill(at: int) -> Iterator[None]:
    import pyarrow.parquet as pq
    from pyiceberg.catalog.sql import SqlCatalog
    from sqlalchemy import event
    from sqlalchemy.engine.base import Connection, Engine, RootTransaction

    passed = 0

    def count() -> None:
        nonlocal passed
        passed += 1
        if passed == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            count()
            result = function(*arguments, **options)
            count()
            return result

        return call

    commit = RootTransaction._do_commit

    def commit_of_writes(transaction: RootTransaction) -> None:
        wrote = transaction.connection.info.pop(_WROTE, False)
        (counted(commit) if wrote else commit)(transaction)

    def note(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.lstrip().upper().startswith(_READS):
            connection.info[_WROTE] = True

    event.listen(Engine, "before_cursor_execute", note)
    places = [
        (SqlCatalog, "commit_table"),
        (Path, "rename"),
        (Path, "replace"),
        (Path, "unlink"),
        (os, "rename"),
        (pq, "write_table"),
    ]
    with ExitStack() as patched:
        patched.callback(event.remove, Engine, "before_cursor_execute", note)
        patched.enter_context(patch.object(RootTransaction, "_do_commit", commit_of_writes))
        for place, name in places:
            patched.enter_context(patch.object(place, name, counted(getattr(place, name))))
        yield
