"""Which runs are under way: a run that died without a word is still `running` in the ledger."""

from __future__ import annotations

import socket
from datetime import timedelta

import psutil

from scalr_ray.ledger import Ledger, RunRecord
from scalr_ray.ledger.owners import started_at

# The system tells the start of a process from that of the machine, which a corrected clock moves.
_SAME_START = timedelta(seconds=2)


def live_runs(ledger: Ledger, *, but: str | None = None) -> list[RunRecord]:
    """The runs that are under way, or may be because nobody here can tell; oldest first.

    Args:
        ledger: where they are recorded.
        but: a run that does not count.
    """
    return [run for run in ledger.running_runs() if run.run_id != but and not is_dead(run)]


def is_here(run: RunRecord) -> bool:
    """Whether a run is, or was, of this machine."""
    return run.owner is not None and run.owner.host == socket.gethostname()


def is_dead(run: RunRecord) -> bool:
    """Whether the process of a run is known to be gone."""
    if run.owner is None or not is_here(run):
        return False
    try:
        process = psutil.Process(run.owner.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        # Numbers of processes are given out again.
        return abs(started_at(process) - run.owner.started_at) > _SAME_START
    except psutil.NoSuchProcess:
        return True
