"""Collecting what nobody needs any more, by age: snapshots, files, unfinished work.

Kept whatever their age are the newest snapshot, those that saved training sets hold, the files of
batches that may still be published, and everything younger than the oldest run that is under way.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scalr_ray.jobs.erase_files import half_written, remove, unfinished_work
from scalr_ray.jobs.erase_translators import stray_translators
from scalr_ray.jobs.liveness import live_runs
from scalr_ray.jobs.saved_sets import held_snapshots
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState

# The first two may be published yet; what is staged of the third is dealt with by itself.
_NO_ORPHANS = (BatchState.STAGED, BatchState.ACCEPTED, BatchState.REJECTED)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was removed, or would be, of one kind.

    Attributes:
        what: the kind, in words.
        count: how many.
        size_bytes: how large they are together; 0 for what has no size of its own.
        names: which, as paths, locations or ids.
    """

    what: str
    count: int
    size_bytes: int
    names: tuple[str, ...]


def collect(
    workspace: Workspace, *, dry_run: bool = False, now: datetime | None = None
) -> list[Collected]:
    """Remove by `retention` what nobody needs, or say what would be removed.

    Args:
        workspace: an opened repository.
        dry_run: change nothing.
        now: what ages are counted from; None takes the present.

    Raises:
        RetryLater: others kept committing first, or a server does not answer.
        StateUnknown: the answer to a commit was lost; collecting again goes on.
    """
    moment = datetime.now(UTC) if now is None else now
    if dry_run:
        return _collect(workspace, moment, dry_run=True)
    with workspace.run("gc"):
        return _collect(workspace, moment, dry_run=False)


def _collect(workspace: Workspace, now: datetime, *, dry_run: bool) -> list[Collected]:
    retention = workspace.config.retention
    since = [run.started_at for run in live_runs(workspace.ledger) if run.verb != "gc"]
    cut = min([now - timedelta(hours=retention.orphans_hours), *since])
    work = [path for path in _left_over(workspace) if _touched(path) < cut]
    with workspace.progress.stage("Remove what nobody needs any more"):
        found = [
            _rejected(workspace, dry_run=dry_run),
            *_lake(workspace, now - timedelta(days=retention.snapshots_days), cut, dry_run=dry_run),
            _files("unfinished work and files half written", work),
        ]
        if not dry_run:
            remove(work)
    return found


def _rejected(workspace: Workspace, *, dry_run: bool) -> Collected:
    """The staged files of batches that the gate refused."""
    lake = workspace.lake
    rejected = {batch.batch_id for batch in workspace.ledger.batches(BatchState.REJECTED)}
    # One of them may be published by force just now, which asks for collecting likewise.
    if any(run.verb == "publish" for run in live_runs(workspace.ledger)):
        rejected = set()
    staged = sorted(rejected & lake.staged_batches().keys())
    size = lake.size_bytes(file for batch in staged for file in lake.staged_files(batch))
    if not dry_run:
        for batch_id in staged:
            lake.discard(batch_id)
    return Collected(
        what="staged files of rejected batches",
        count=len(staged),
        size_bytes=size,
        names=tuple(staged),
    )


def _lake(
    workspace: Workspace, before: datetime, cut: datetime, *, dry_run: bool
) -> Iterable[Collected]:
    """Snapshots that are old enough, and the files that nothing names once they are gone."""
    lake, ledger = workspace.lake, workspace.ledger
    keep = held_snapshots(workspace)
    if dry_run:
        keep.add(lake.current_snapshot_id() or 0)
        expired = [
            snapshot.snapshot_id
            for snapshot in lake.snapshots()
            if snapshot.committed_at < before and snapshot.snapshot_id not in keep
        ]
    else:
        expired = lake.expire(before=before, keep=keep)
    in_use = [batch.batch_id for batch in ledger.batches() if batch.state in _NO_ORPHANS]
    orphans = lake.orphans(older_than=cut, staged=in_use, gone=expired)
    size = lake.size_bytes(orphans)
    if not dry_run:
        lake.remove(orphans)
    yield Collected(
        what="snapshots", count=len(expired), size_bytes=0, names=tuple(map(str, expired))
    )
    yield Collected(
        what="files of the lake that nothing names",
        count=len(orphans),
        size_bytes=size,
        names=tuple(orphans),
    )


def _left_over(workspace: Workspace) -> list[Path]:
    layout = workspace.layout
    strays = stray_translators(workspace, workspace.ledger.translators())
    hidden = layout.training_sets.glob(".*")
    return sorted({*unfinished_work(layout), *half_written(layout), *strays, *hidden})


def _files(what: str, paths: Iterable[Path]) -> Collected:
    listed = list(paths)
    return Collected(
        what=what,
        count=len(listed),
        size_bytes=sum(_size(path) for path in listed),
        names=tuple(map(str, listed)),
    )


def _touched(path: Path) -> datetime:
    """When something in it was written last."""
    newest = max((found.st_mtime for found in _stats(path)), default=time.time())
    return datetime.fromtimestamp(newest, UTC)


def _size(path: Path) -> int:
    return sum(found.st_size for found in _stats(path) if stat.S_ISREG(found.st_mode))


def _stats(path: Path) -> Iterator[os.stat_result]:
    """What the system says of a file, or of a folder and all that is in it."""
    for found in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # somebody else has just removed it
            yield found.lstat()
