"""Saved training sets, as far as taking back and tidying up have to do with them."""

from __future__ import annotations

from scalr_ray.jobs.workspace import Workspace
from training.manifest import held_snapshot
from training.set_folders import SetFolders


def sets_that_hold(workspace: Workspace, batch_id: str) -> tuple[str, ...]:
    """The names of the saved training sets that hold rows of a batch.

    Raises:
        DataError: a set is damaged.
    """
    sets = SetFolders(root=workspace.layout.training_sets)
    return tuple(name for name in sets.names() if batch_id in sets.manifest(name)["batches"])


def held_snapshots(workspace: Workspace) -> set[int]:
    """The snapshots that saved training sets hold, be they pinned already or not.

    Raises:
        DataError: a set is damaged.
    """
    sets = SetFolders(root=workspace.layout.training_sets)
    held = [pin.snapshot_id for pin in workspace.ledger.pins()]
    held += [held_snapshot(sets.manifest(name)) for name in sets.names()]
    return {snapshot_id for snapshot_id in held if snapshot_id is not None}
