"""Recovery: what a crash left half done becomes whole, or goes, and the ledger says what is there.

| found | made of it |
|---|---|
| a run that is `running`, and whose process is gone | failed, `interrupted` |
| a translator whose folder was being replaced | the folder that is whole |
| a batch in the table that the ledger calls accepted | published |
| a batch gone from the table that the ledger calls published | retired |
| a batch in the table that the ledger calls retired or rejected | taken out |
| a published batch, and those that it replaces still there | these are retired |
| a staged batch that the ledger does not know, and nobody makes | removed |
| the ledger's and the staged number of rows differ | what is staged |
| an erasure that was begun | finished |
| a saved training set without a pin | pinned |
| a saved training set that Feast does not know | registered |
| a pin without a saved training set | removed |

A run of another machine cannot be looked at: it is left, and said, and may be named to be given up.
Recovering twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.ingest import sole_writer
from scalr_ray.jobs.erase import PendingErasure, finish, resize_staged
from scalr_ray.jobs.erase_files import half_written, remove
from scalr_ray.jobs.force import reason_of
from scalr_ray.jobs.liveness import is_here, live_runs
from scalr_ray.jobs.release import retire_replaced
from scalr_ray.jobs.retire import take_back
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchRecord, BatchState, ErasureState
from scalr_ray.translator.artifact import mend_artifacts
from training.manifest import held_snapshot
from training.saving import register, registered
from training.set_folders import SetFolders

_GONE = "gone from the table of synthetic events"
_MAKES_BATCHES = {"generate"}


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Something that was half done.

    Attributes:
        subject: of what kind: `run`, `batch`, `erasure` and so on.
        name: which.
        found: how it stood.
        done: what became of it, or would.
    """

    subject: str
    name: str
    found: str
    done: str


def recover(
    workspace: Workspace, *, give_up: Sequence[str] = (), dry_run: bool = False
) -> list[Repair]:
    """Make every half-done state whole.

    Args:
        workspace: an opened repository.
        give_up: runs to take for dead though their machine cannot be asked.
        dry_run: find out what would be done, and change nothing.

    Returns:
        What was found, in the order in which it was mended.

    Raises:
        UsageError: a run in `give_up` is not running.
        RetryLater: a server does not answer, or somebody else writes; recovering again goes on.
        StateUnknown: the answer to a commit was lost; recovering again goes on.
    """
    if dry_run:
        return list(_Recovery(workspace=workspace, dry_run=True, run_id="").repairs(give_up))
    with workspace.run("recover") as run:
        recovery = _Recovery(workspace=workspace, dry_run=False, run_id=run.run_id)
        with workspace.progress.stage("Look for what was left half done"):
            return list(recovery.repairs(give_up))


@dataclass(frozen=True, kw_only=True)
class _Recovery:
    """One recovery.

    Attributes:
        workspace: an opened repository.
        dry_run: change nothing.
        run_id: of the run that recovers.
    """

    workspace: Workspace
    dry_run: bool
    run_id: str

    def repairs(self, give_up: Sequence[str]) -> Iterator[Repair]:
        """Mend one thing after the other, and say so."""
        yield from self._runs(give_up)
        yield from self._translators()
        yield from self._batches()
        yield from self._staged()
        yield from self._half_written()
        yield from self._erasures()
        yield from self._saved_sets()

    def _runs(self, give_up: Sequence[str]) -> Iterator[Repair]:
        ledger = self.workspace.ledger
        for run_id in give_up:
            ledger.run(run_id)
        alive = {run.run_id for run in live_runs(ledger)}
        for run in ledger.running_runs():
            if run.run_id == self.run_id:
                continue
            dead = run.run_id not in alive
            if not dead and run.run_id not in give_up:
                if not is_here(run):
                    hint = f"left; if it is dead, run `scalr recover --give-up {run.run_id}`"
                    yield self._repair("run", run.run_id, f"{run.verb} on another machine", hint)
                continue
            found = f"{run.verb} is running, but its process is gone"
            if not dead:
                found = f"{run.verb} is running"
            if not self.dry_run:
                ledger.abandon_run(run.run_id, found)
            yield self._repair("run", run.run_id, found, "failed: interrupted")

    def _translators(self) -> Iterator[Repair]:
        folder = self.workspace.layout.translators
        if self._others_at_work("train", "run", "backfill", "erase", "tune"):
            return
        for version in mend_artifacts(folder, dry_run=self.dry_run):
            yield self._repair(
                "translator", version, "its folder was being replaced", "what was there is back"
            )

    def _batches(self) -> Iterator[Repair]:
        workspace, ledger = self.workspace, self.workspace.ledger
        published = workspace.lake.published_batches()
        for batch in ledger.batches():
            shown = batch.batch_id in published
            if batch.state is BatchState.ACCEPTED and shown:
                yield self._publish(batch, published[batch.batch_id].snapshot_id)
            elif batch.state is BatchState.PUBLISHED and not shown:
                if not self.dry_run:
                    take_back(workspace, batch, _GONE)
                yield self._repair("batch", batch.batch_id, "published, but " + _GONE, "retired")
            elif batch.state in (BatchState.RETIRED, BatchState.REJECTED) and shown:
                if not self.dry_run:
                    workspace.lake.retire(batch.batch_id)
                found = f"{batch.state.value}, but in the table"
                yield self._repair("batch", batch.batch_id, found, "taken out of the table")
        yield from self._replaced()

    def _publish(self, batch: BatchRecord, snapshot_id: int) -> Repair:
        if not self.dry_run:
            self.workspace.ledger.move_batch(
                batch.batch_id,
                expected=BatchState.ACCEPTED,
                to=BatchState.PUBLISHED,
                reason=reason_of(self.workspace, batch.batch_id),
                snapshot_id=snapshot_id,
            )
        return self._repair("batch", batch.batch_id, "accepted, but in the table", "published")

    def _replaced(self) -> Iterator[Repair]:
        ledger = self.workspace.ledger
        for batch in ledger.batches(BatchState.PUBLISHED):
            left = [
                other.batch_id
                for other in ledger.replaced_by(batch.batch_id)
                if other.state is BatchState.PUBLISHED
            ]
            if left and not self.dry_run:
                retire_replaced(self.workspace, batch.batch_id)
            for other in left:
                found = f"published, and replaced by {batch.batch_id}"
                yield self._repair("batch", other, found, "retired")

    def _staged(self) -> Iterator[Repair]:
        workspace, ledger = self.workspace, self.workspace.ledger
        staged = workspace.lake.staged_batches()
        known = {batch.batch_id: batch for batch in ledger.batches()}
        if not self._others_at_work(*_MAKES_BATCHES):
            for batch_id in sorted(staged.keys() - known.keys()):
                if not self.dry_run:
                    workspace.lake.discard(batch_id)
                yield self._repair("batch", batch_id, "staged, and not in the ledger", "removed")
        for batch_id in sorted(staged.keys() & known.keys()):
            batch, rows = known[batch_id], staged[batch_id]
            if batch.rows != rows and batch.state in (BatchState.STAGED, BatchState.ACCEPTED):
                found = f"{rows:,} rows are staged, and {batch.rows:,} in the ledger"
                yield self._repair("batch", batch_id, found, f"{rows:,} rows in the ledger")
        if not self.dry_run:
            resize_staged(workspace, "what is staged was counted again")

    def _half_written(self) -> Iterator[Repair]:
        if self._others_at_work():
            return
        layout = self.workspace.layout
        with sole_writer(layout.data):
            hidden = half_written(layout)
            if not self.dry_run:
                remove(hidden)
        for path in hidden:
            name = str(path.relative_to(layout.data))
            yield self._repair("file", name, "half written", "removed")

    def _erasures(self) -> Iterator[Repair]:
        ledger = self.workspace.ledger
        pending = PendingErasure.all(self.workspace.layout)
        for erasure in pending:
            name = erasure.erasure_id or "not begun in the ledger"
            if not self.dry_run:
                name = finish(self.workspace, erasure, self.run_id).erasure_id or name
            yield self._repair("erasure", name, "was cut off", "finished")
        finished = {erasure.erasure_id for erasure in pending}
        for record in ledger.erasures():
            if record.state is ErasureState.BEGUN and record.erasure_id not in finished:
                hint = "left: call `scalr erase` again with the same ids"
                yield self._repair("erasure", record.erasure_id, "its ids are gone", hint)

    def _saved_sets(self) -> Iterator[Repair]:
        sets = SetFolders(root=self.workspace.layout.training_sets)
        changes = sets.root.is_dir() and not self.dry_run
        # Who saves or removes a set just now is waited for, and has not left it half done.
        with sets.changing() if changes else nullcontext():
            yield from self._pins(sets)
            yield from self._registrations(sets)

    def _pins(self, sets: SetFolders) -> Iterator[Repair]:
        ledger = self.workspace.ledger
        pinned = {pin.name for pin in ledger.pins()}
        there = set(sets.names())
        for name in sorted(there - pinned):
            if not self.dry_run:
                manifest = sets.manifest(name)
                ledger.pin(
                    name,
                    snapshot_id=held_snapshot(manifest),
                    path=str(sets.folder(name)),
                    manifest_fingerprint=fingerprint(manifest),
                )
            yield self._repair("training set", name, "saved, and not pinned", "pinned")
        for name in sorted(pinned - there):
            if not self.dry_run:
                ledger.unpin(name)
            yield self._repair("training set", name, "pinned, and not there", "no longer pinned")

    def _registrations(self, sets: SetFolders) -> Iterator[Repair]:
        there = set(sets.names())
        if not there:
            return  # to open Feast's registry takes seconds
        store = self.workspace.store
        for name in sorted(there - registered(store)):
            if not self.dry_run:
                register(store, sets, name)
            yield self._repair("training set", name, "saved, and not known to Feast", "registered")

    def _others_at_work(self, *verbs: str) -> bool:
        """Whether somebody else's run is under way; of one of the verbs, where any are named."""
        return any(
            run.run_id != self.run_id and (not verbs or run.verb in verbs)
            for run in live_runs(self.workspace.ledger)
        )

    @staticmethod
    def _repair(subject: str, name: str, found: str, done: str) -> Repair:
        return Repair(subject=subject, name=name, found=found, done=done)
