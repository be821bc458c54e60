"""Erasing users: from tables, files and what was learned, and for the future.

```
begin: the ids, in a file for the owner alone; who is erased, by keyed hash, in the ledger: from
       here on imports, trainings, generation and the gate leave the users out
  1. translators          take out what they gave, or flag (needs their events)
  2. files                events, features, rows set aside; unfinished work goes
  3. the lake             staged and published rows; snapshots that showed them expire
  4. saved training sets  written again, with a new manifest
end:   the report in the ledger; the file with the ids goes
```

Every step finds out what is left to do, so that an erasure that was cut off is finished by the same
call or by `scalr recover`. The ids are in no table, log or report: a report has counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.errors import RetryLater
from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.core.layout import Layout
from scalr_ray.core.private import write_private
from scalr_ray.core.subjects import SubjectKey, typed_ids
from scalr_ray.ingest import sole_writer
from scalr_ray.jobs.erase_files import (
    drop_rows_of_users,
    remove,
    rows_of_users,
    unfinished_work,
)
from scalr_ray.jobs.erase_translators import forget_users
from scalr_ray.jobs.liveness import live_runs
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState, ErasureRecord, ErasureState
from scalr_ray.translator.artifact import mend_artifacts
from training import saved

UserIds = Sequence[str] | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Erased:
    """What an erasure found and did.

    Attributes:
        erasure_id: in the ledger; None of a dry run.
        users: how many users were named.
        report: by kind of place, then by place: rows that are gone, or what became of it.
        dry_run: whether nothing was changed.
    """

    erasure_id: str | None
    users: int
    report: Mapping[str, Mapping[str, Any]]
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class PendingErasure:
    """An erasure that is under way, in a file that only its owner may read.

    Attributes:
        path: of the file.
        user_ids: in the type of the repository.
        why: for a reader.
        erasure_id: in the ledger; None where it has not begun there.
        report: what was done so far.
    """

    path: Path
    user_ids: UserIds
    why: str
    erasure_id: str | None = None
    report: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, user_ids: UserIds, why: str) -> PendingErasure:
        """That of these users; one that was cut off goes on."""
        name = fingerprint(sorted(SubjectKey.of(layout).subject(user) for user in user_ids), 16)
        path = layout.erasures / f"{name}.json"
        return cls.read(path) if path.exists() else cls(path=path, user_ids=user_ids, why=why)

    @classmethod
    def read(cls, path: Path) -> PendingErasure:
        """What lies in a file."""
        return cls(path=path, **json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def all(cls, layout: Layout) -> list[PendingErasure]:
        """Those that were not finished."""
        return [cls.read(path) for path in sorted(layout.erasures.glob("[!.]*.json"))]

    def keep(self) -> None:
        """Write the file."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        del content["path"]
        write_private(self.path, json.dumps(content))

    def note(self, kind: str, found: Mapping[str, Any]) -> None:
        """Add to the report; rows add up with those of an earlier try."""
        there = self.report.setdefault(kind, {})
        for name, value in found.items():
            before = there.get(name, 0)
            there[name] = before + value if isinstance(value, int) else value
        self.keep()


def erase(
    workspace: Workspace, texts: Sequence[str], *, why: str = "", dry_run: bool = False
) -> Erased:
    """Erase users; those that nobody knows are kept out all the same.

    Args:
        workspace: an opened repository.
        texts: user ids as somebody wrote them.
        why: for the ledger; it must name nobody.
        dry_run: say what would be done, and change nothing.

    Raises:
        UsageError: an id is not of the type of the repository, or there is none.
        RetryLater: a run is under way, somebody else writes, or a server does not answer; what was
            done stays done.
        StateUnknown: the answer to a commit was lost; `scalr recover` goes on.
    """
    user_ids = typed_ids(texts, workspace.config.ids.user_id)
    _ = workspace.erased  # refuses where the key is gone by which others were erased
    if dry_run:
        return Erased(
            erasure_id=None, users=len(user_ids), report=_preview(workspace, user_ids), dry_run=True
        )
    with workspace.run("erase") as run:
        refuse_live_runs(workspace, run.run_id)
        pending = PendingErasure.of(workspace.layout, user_ids, why)
        pending.keep()
        return finish(workspace, pending, run.run_id)


def finish(workspace: Workspace, pending: PendingErasure, run_id: str) -> Erased:
    """Do what is left to do of an erasure whose ids are kept.

    Args:
        workspace: an opened repository.
        pending: the erasure.
        run_id: of the run that does it.

    Raises:
        RetryLater, StateUnknown, UsageError: as `erase`.
    """
    record = _begun(workspace, pending)
    pending = replace(pending, erasure_id=record.erasure_id)
    pending.keep()
    # A run that began before did not know of the erasure; one that begins now does.
    refuse_live_runs(workspace, run_id)
    progress, layout, user_ids = workspace.progress, workspace.layout, pending.user_ids
    with sole_writer(layout.data):
        with progress.stage("Take the users out of the translators"):
            mend_artifacts(layout.translators)
            pending.note("translators", forget_users(workspace, user_ids))
        with progress.stage("Take their rows out of the files"):
            pending.note("files", drop_rows_of_users(layout, user_ids))
            remove(unfinished_work(layout))
    with progress.stage("Take their rows out of the lake"):
        gone = workspace.lake.erase(user_ids)
        pending.note("published", gone.rows_by_batch)
        pending.note("staged", gone.staged_rows_by_batch)
        pending.note(
            "lake", {"snapshots": len(gone.expired_snapshots), "files": len(gone.removed_files)}
        )
        resize_staged(workspace, f"users were erased ({record.erasure_id})")
    with progress.stage("Take their rows out of saved training sets"):
        why = pending.why or record.erasure_id
        rows = saved.erase_users(layout, workspace.ledger, user_ids, why)
        pending.note("training sets", rows)
    done = workspace.ledger.finish_erasure(record.erasure_id, pending.report)
    pending.path.unlink()
    return Erased(erasure_id=done.erasure_id, users=len(user_ids), report=done.report)


def resize_staged(workspace: Workspace, why: str) -> None:
    """Let the ledger say how many rows the staged batches have."""
    staged = workspace.lake.staged_batches()
    for state in (BatchState.STAGED, BatchState.ACCEPTED):
        for batch in workspace.ledger.batches(state):
            rows = staged.get(batch.batch_id, batch.rows)
            if rows != batch.rows:
                workspace.ledger.resize_batch(batch.batch_id, rows, why)


def refuse_live_runs(workspace: Workspace, run_id: str) -> None:
    """Check that nobody works in the repository: what is in memory there cannot be erased.

    Raises:
        RetryLater: somebody does, or may do on another machine.
    """
    others = live_runs(workspace.ledger, but=run_id)
    if others:
        raise RetryLater(
            f"run {others[0].run_id} ({others[0].verb}) is under way, which may hold events of the "
            "users; try again when it is done, or after `scalr recover` if it is dead"
        )


def _begun(workspace: Workspace, pending: PendingErasure) -> ErasureRecord:
    """The record of the erasure, which is made if it is not there."""
    key, known = SubjectKey.of(workspace.layout), workspace.ledger.erasures()
    subjects = sorted(key.subject(user_id) for user_id in pending.user_ids)
    for record in known:
        same = record.state is ErasureState.BEGUN and sorted(record.subjects) == subjects
        if same or record.erasure_id == pending.erasure_id:
            return record
    return workspace.ledger.begin_erasure(subjects, pending.why)


def _preview(workspace: Workspace, user_ids: UserIds) -> dict[str, dict[str, Any]]:
    lake = workspace.lake
    published = lake.read(columns=("user_id", "batch_id"))
    staged = {batch_id: lake.read_staged(batch_id) for batch_id in lake.staged_batches()}
    found = {batch_id: _rows(rows, user_ids) for batch_id, rows in staged.items()}
    batches = pc.unique(published["batch_id"]).to_pylist()
    shown = {
        batch_id: _rows(published.filter(pc.equal(published["batch_id"], batch_id)), user_ids)
        for batch_id in sorted(batches)
    }
    return {
        "translators": dict(forget_users(workspace, user_ids, dry_run=True)),
        "files": dict(rows_of_users(workspace.layout, user_ids)),
        "published": {batch_id: rows for batch_id, rows in shown.items() if rows},
        "staged": {batch_id: rows for batch_id, rows in found.items() if rows},
        "training sets": dict(saved.rows_of_users(workspace.layout, user_ids)),
    }


def _rows(rows: pa.Table, user_ids: UserIds) -> int:
    wanted = pa.array(user_ids, rows.schema.field("user_id").type)
    return int(pc.sum(pc.is_in(rows["user_id"], value_set=wanted)).as_py() or 0)
