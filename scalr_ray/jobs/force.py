"""Publishing a batch that the gate refused for what its events are worth, on somebody's word.

The gate asks two kinds of questions. Whether the rows are right cannot be overruled. Whether they
are worth anything can be, by somebody who knows more than a validation window does: the word is
kept beside what the gate said, for as long as the ledger is.
"""

from __future__ import annotations

from collections.abc import Sequence

from scalr_ray.core.errors import DataError, GateRefused, RetryLater, UsageError
from scalr_ray.jobs.generate import ANOTHER_BATCH, describe_refusal
from scalr_ray.jobs.liveness import live_runs
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import FORCED, BatchRecord, BatchState, VerdictRecord

# Every other check is about whether the rows are right.
_WORTH = ("transfer", "trial_")


def is_about_worth(check: str) -> bool:
    """Whether a check of the gate asks what events are worth, not whether they are right."""
    return check.startswith(_WORTH)


def describe_checks(checks: Sequence[VerdictRecord]) -> str:
    """Checks and what they found, in one line."""
    return "; ".join(f"{check.check}: {check.detail}" for check in checks)


def describe_refused(workspace: Workspace, batch: BatchRecord) -> str:
    """Every check by which a batch was refused, with its figures, and what to do."""
    failed = _failed(workspace, batch.batch_id)
    if not failed:
        return describe_refusal(batch)
    said = f"{batch.batch_id} was refused by the gate ({describe_checks(failed)}); {ANOTHER_BATCH}"
    if all(is_about_worth(check.check) for check in failed):
        said += f"; or overrule it with `scalr publish {batch.batch_id} --force --why TEXT`"
    return said


def forcible(workspace: Workspace, batch_id: str | None, why: str) -> tuple[BatchRecord, str]:
    """A batch that may be published by force, and what the ledger is to say of it.

    One that was forced before is found as it stands, with what was said then.

    Args:
        workspace: an opened repository.
        batch_id: the batch; force is never for whichever is the newest.
        why: for a reader of the ledger.

    Raises:
        UsageError: no batch or reason is named, the gate accepted it or was not asked, or another
            batch was published since.
        GateRefused: a check that cannot be overruled refused it.
        DataError: nothing is staged of it any more.
    """
    why = " ".join(why.split())
    if batch_id is None:
        raise UsageError("--force needs the name of a batch: `scalr publish BATCH --force`")
    if not why:
        raise UsageError("--force needs a reason for the ledger: --why TEXT")
    batch = workspace.ledger.batch(batch_id)
    if (before := workspace.ledger.forcing(batch_id)) is not None:
        if batch.state in (BatchState.ACCEPTED, BatchState.PUBLISHED):
            return batch, before.detail
        raise UsageError(f"{batch_id} was published by force and is {batch.state.value} now")
    if batch.state is not BatchState.REJECTED:
        step = {BatchState.STAGED: "run `scalr gate` first"}
        done = step.get(batch.state, "there is nothing to overrule; publish without --force")
        raise UsageError(f"{batch_id} is {batch.state.value}; {done}")
    failed = _failed(workspace, batch_id)
    _refuse_wrong(batch, failed)
    _refuse_overtaken(workspace, batch, failed[0])
    if not workspace.lake.staged_batches().get(batch_id):
        raise DataError(f"no events of {batch_id} are staged any more; {ANOTHER_BATCH}")
    return batch, f"{why} (against {describe_checks(failed)})"


def overrule(workspace: Workspace, batch_id: str | None, why: str, run_id: str) -> BatchRecord:
    """Move a batch that the gate refused to accepted, with the reason; again changes nothing.

    Args:
        workspace: an opened repository.
        batch_id: the batch.
        why: for a reader of the ledger.
        run_id: of the run that publishes.

    Raises:
        UsageError, GateRefused, DataError: as `forcible`.
        RetryLater: `scalr gc` is under way, which removes the files of refused batches.
    """
    # It asks for publishing likewise, and each is in the ledger before it asks.
    if any(run.verb == "gc" for run in live_runs(workspace.ledger, but=run_id)):
        raise RetryLater("`scalr gc` is under way, which removes refused batches; try again then")
    batch, said = forcible(workspace, batch_id, why)
    if batch.state is not BatchState.REJECTED:
        return batch
    rows = workspace.lake.staged_batches()[batch.batch_id]
    return workspace.ledger.force_batch(batch.batch_id, rows=rows, why=said)


def reason_of(workspace: Workspace, batch_id: str) -> str | None:
    """Why a batch may be published that the gate refused; None where it did not."""
    forced = workspace.ledger.forcing(batch_id)
    return None if forced is None else f"{FORCED}: {forced.detail}"


def _failed(workspace: Workspace, batch_id: str) -> list[VerdictRecord]:
    return [check for check in workspace.ledger.verdicts(batch_id) if not check.passed]


def _refuse_wrong(batch: BatchRecord, failed: Sequence[VerdictRecord]) -> None:
    wrong = [check for check in failed if not is_about_worth(check.check)]
    if wrong or not failed:
        found = describe_checks(wrong) if wrong else str(batch.reason)
        raise GateRefused(
            f"{batch.batch_id} cannot be forced ({found}): --force overrules what the gate says of "
            "the worth of events, never whether they are right"
        )


def _refuse_overtaken(workspace: Workspace, batch: BatchRecord, judged: VerdictRecord) -> None:
    """Pairs and mass were held against what was published then, and not against what came since."""
    for other in workspace.lake.published_batches().values():
        if other.committed_at > judged.created_at:
            raise UsageError(
                f"{other.batch_id} was published after the gate looked at {batch.batch_id}, which "
                "may repeat it; run `scalr generate` and `scalr gate` for a batch to force"
            )
