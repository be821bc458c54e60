"""Which process runs a run, so that others can find out whether it still does."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import psutil


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process.

    Attributes:
        host: name of its machine.
        pid: its number there.
        started_at: when it started, in UTC and whole seconds; numbers are given out again.
    """

    host: str
    pid: int
    started_at: datetime

    @classmethod
    def of_this_process(cls) -> Owner:
        """The process that asks."""
        return _owner(os.getpid())  # asked each time: a forked process is another


@cache
def _owner(pid: int) -> Owner:
    return Owner(host=socket.gethostname(), pid=pid, started_at=started_at(psutil.Process(pid)))


def started_at(process: psutil.Process) -> datetime:
    """When a process started, in UTC and whole seconds."""
    return datetime.fromtimestamp(int(process.create_time()), UTC)
