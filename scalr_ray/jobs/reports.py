"""Where the report of an evaluation lies, by what the ledger says of its run.

A report is asked for by its run and never by a path, so that no asker leads out of a folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

from scalr_ray.ledger import BatchRecord, Ledger, RunRecord
from training.report import HTML_NAME

MOST_BYTES = 32 * 1024**2
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe must not be waited for
_VERB, _BATCH, _BATCHES, _FOLDER = "evaluate", "batch", "batches", "report"


def told_of_report(batch_ids: Sequence[str], out: Path) -> dict[str, Any]:
    """What the run of an evaluation keeps of it: batches, and the folder of its report.

    Args:
        batch_ids: at least one, the newest first; where there are several, all are kept beside it.
        out: the folder.
    """
    several = {_BATCHES: list(batch_ids)} if len(batch_ids) > 1 else {}
    return {_BATCH: batch_ids[0], **several, _FOLDER: str(out.resolve())}


def evaluations_of(ledger: Ledger, batch: BatchRecord) -> list[RunRecord]:
    """The runs that measured a batch, alone or among others, newest first."""
    runs = ledger.runs(limit=None, verb=_VERB)
    return [
        run
        for run in runs
        if run.metrics.get(_BATCH) == batch.batch_id
        or batch.batch_id in run.metrics.get(_BATCHES, ())
    ]


def has_report(run: RunRecord) -> bool:
    """Whether a run says that it wrote a report."""
    folder = run.metrics.get(_FOLDER)
    return run.verb == _VERB and isinstance(folder, str) and Path(folder).is_absolute()


def read_report(run: RunRecord) -> bytes | None:
    """The page that a run wrote.

    Returns:
        None where it wrote none, or where no file of at most `MOST_BYTES` is in its place; a link
        counts for no file.
    """
    if not has_report(run):
        return None
    try:
        opened = os.open(Path(run.metrics[_FOLDER]) / HTML_NAME, _READING)
    except (OSError, ValueError):  # the latter of a NUL in a path
        return None
    try:
        found = os.fstat(opened)
        if not S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            return None
        with os.fdopen(opened, "rb", closefd=False) as file:
            return file.read(MOST_BYTES)
    finally:
        os.close(opened)
