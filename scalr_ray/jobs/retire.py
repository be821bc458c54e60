"""Retiring a batch: gone from the current view in one commit, readable where it was pinned."""

from __future__ import annotations

from dataclasses import dataclass

from scalr_ray.core.errors import UsageError
from scalr_ray.jobs import open_lineage
from scalr_ray.jobs.saved_sets import sets_that_hold
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchRecord, BatchState

_BY_HAND = "retired by hand"


@dataclass(frozen=True, kw_only=True)
class Retired:
    """A batch that nobody sees any more.

    Attributes:
        record: the batch in the ledger.
        training_sets: names of the saved training sets that hold rows of it; they still load.
    """

    record: BatchRecord
    training_sets: tuple[str, ...]


def retire(workspace: Workspace, batch_id: str, *, why: str = "") -> Retired:
    """Take a published batch out of the table and note it in the ledger; again changes nothing.

    The table comes first: after a crash in between there are too few events for nobody who asks the
    ledger, and the same call, or `scalr recover`, does the rest.

    Args:
        workspace: an opened repository.
        batch_id: the batch.
        why: for the ledger.

    Raises:
        UsageError: there is no such batch, or it is not published.
        RetryLater: others kept committing first, or a server does not answer.
        StateUnknown: the answer to the commit was lost; `scalr recover` finds out.
    """
    with workspace.run("retire"):
        batch = workspace.ledger.batch(batch_id)
        if batch.state is not BatchState.RETIRED:
            if batch.state is not BatchState.PUBLISHED:
                raise UsageError(
                    f"{batch_id} is {batch.state.value}, so there is nothing to retire"
                )
            with workspace.progress.stage(f"Take {batch_id} out of the table"):
                batch = take_back(workspace, batch, why or _BY_HAND)
        open_lineage.reads(open_lineage.batch(workspace.config.project, batch_id))
        open_lineage.writes(open_lineage.table(workspace.layout, workspace.schema))
    return Retired(record=batch, training_sets=sets_that_hold(workspace, batch_id))


def take_back(workspace: Workspace, batch: BatchRecord, why: str) -> BatchRecord:
    """Do what is left to do to retire a batch that the ledger calls published.

    Raises:
        RetryLater, StateUnknown: as `retire`.
    """
    if batch.batch_id in workspace.lake.published_batches():
        workspace.lake.retire(batch.batch_id)
    return workspace.ledger.move_batch(
        batch.batch_id, expected=BatchState.PUBLISHED, to=BatchState.RETIRED, reason=why
    )
