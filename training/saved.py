"""Training sets that were saved: load, compare and remove them, and take erased users out of them.

A saved set is read from its own files, so that it loads whatever became of the batches in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.errors import DataError
from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.core.layout import Layout
from scalr_ray.ledger import BatchState, Ledger
from training.comparison import Difference, compare
from training.dataset import MixedDataset
from training.inputs import repo_of
from training.manifest import checked, held_snapshot, revised
from training.row_file import RowFile
from training.set_folders import ROWS_SHA256, SetFolders

if TYPE_CHECKING:
    from feast import FeatureStore

_FALLEN = (BatchState.RETIRED, BatchState.REJECTED)


def load(store: FeatureStore, name: str) -> MixedDataset:
    """A saved training set, row by row as it was saved.

    Returns:
        The set; its `notes` say which of its batches were retired since, and which rows it lost to
        erasures.

    Raises:
        UsageError: the name is no name of a set.
        DataError: there is no such set, or it is damaged.
        RetryLater: the database does not answer.
    """
    layout = Layout.of(repo_of(store))
    table, manifest = SetFolders(root=layout.training_sets).read(name)
    checked(manifest, name)
    del manifest[ROWS_SHA256]
    notes = _notes(layout, manifest)
    return MixedDataset(table=table, manifest=manifest, notes=notes, store=store)


def rows(store: FeatureStore, name: str) -> RowFile:
    """The rows of a saved training set on disk, for `training.streams`: memory holds none of them.

    Raises:
        UsageError: the name is no name of a set.
        DataError: there is no such set, or it is damaged.
    """
    return SetFolders(root=Layout.of(repo_of(store)).training_sets).file(name)


def names(store: FeatureStore) -> list[str]:
    """The saved training sets of a repository, in order."""
    return SetFolders(root=Layout.of(repo_of(store)).training_sets).names()


def diff(store: FeatureStore, a: str, b: str) -> Difference:
    """What differs between two saved training sets; prints as a table.

    Raises:
        UsageError, DataError, RetryLater: as `load`.
    """
    return compare((a, b), (load(store, a), load(store, b)))


def remove(store: FeatureStore, name: str) -> None:
    """Delete a saved training set, and keep its snapshot no longer.

    Raises:
        UsageError: the name is no name of a set, or writing is not allowed.
        DataError: there is no such set.
        RetryLater: the database does not answer; remove it again.
    """
    from scalr_ray.offline_store.saved_datasets import forget_dataset

    layout = Layout.of(repo_of(store))
    folders = SetFolders(root=layout.training_sets)
    with Ledger(layout.database_url) as ledger, folders.changing():
        pinned = name in {pin.name for pin in ledger.pins()}
        there = folders.folder(name).is_dir()
        if not there and not pinned:
            raise DataError(f"there is no saved training set {name!r}, so there is none to remove")
        # Last of all the files: as long as they are there, the rest can be done again.
        forget_dataset(store, name)
        ledger.unpin(name)
        if there:
            folders.remove(name)


def erase_users(
    layout: Layout, ledger: Ledger, users: Sequence[object], why: str
) -> dict[str, int]:
    """Take the rows of some users out of every saved training set.

    Each set that has some is written again, the other rows in their order, and its manifest says
    what happened, when and why. Repeating it changes nothing, and finishes what was cut off.

    Args:
        layout: of the repository.
        ledger: of the repository.
        users: their ids, in the type of the repository.
        why: for a reader; it must name nobody.

    Returns:
        How many rows are gone, by name of the set.

    Raises:
        DataError: a set is damaged, so that nobody can say whom it holds.
        RetryLater: the disk is full, or the database does not answer; erase them again.
        UsageError: writing is not allowed.
    """
    folders = SetFolders(root=layout.training_sets)
    if not folders.root.is_dir():
        return {}
    gone: dict[str, int] = {}
    with folders.changing():
        pinned = {pin.name: pin.manifest_fingerprint for pin in ledger.pins()}
        for name in folders.names():
            if folders.finish(name):
                said = checked(folders.manifest(name), name)
                gone[name] = said["revisions"][-1]["rows_removed"]
            if count := _erase_from(folders, name, users, why):
                gone[name] = gone.get(name, 0) + count
            manifest = checked(folders.manifest(name), name)
            known = fingerprint(manifest)
            if name in pinned and pinned[name] != known:
                ledger.repin(name, snapshot_id=held_snapshot(manifest), manifest_fingerprint=known)
    return gone


def rows_of_users(layout: Layout, users: Sequence[object]) -> dict[str, int]:
    """How many rows `erase_users` would take, by name of the set; changes nothing.

    Raises:
        DataError: a set is damaged.
    """
    folders = SetFolders(root=layout.training_sets)
    counts = {
        name: int(pc.sum(_held(folders.column(name, "user_id"), users)).as_py() or 0)
        for name in folders.names()
    }
    return {name: count for name, count in counts.items() if count}


def _erase_from(folders: SetFolders, name: str, users: Sequence[object], why: str) -> int:
    if not pc.any(_held(folders.column(name, "user_id"), users)).as_py():
        return 0
    saved = folders.rows(name)
    held = _held(saved["user_id"], users)
    left, removed = saved.filter(pc.invert(held)), saved.filter(held)
    manifest = checked(folders.manifest(name), name)
    folders.replace(name, left, revised(manifest, left, removed, at=datetime.now(UTC), why=why))
    return int(removed.num_rows)


def _held(user_ids: pa.ChunkedArray, users: Sequence[object]) -> pa.ChunkedArray:
    return pc.is_in(user_ids, value_set=pa.array(users, user_ids.type))


def _notes(layout: Layout, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    with Ledger(layout.database_url) as ledger:
        fallen = {batch.batch_id: batch for state in _FALLEN for batch in ledger.batches(state)}
    for batch_id, count in manifest["batches"].items():
        if batch := fallen.get(batch_id):
            why = f": {batch.reason}" if batch.reason else ""
            notes.append(
                f"batch {batch_id}, {count} rows here, was {batch.state} on "
                f"{batch.updated_at:%Y-%m-%d}{why}"
            )
    for revision in manifest.get("revisions", []):
        why = f": {revision['why']}" if revision["why"] else ""
        notes.append(
            f"{revision['rows_removed']} rows of erased users were taken out on "
            f"{revision['at'][:10]}{why}"
        )
    if manifest["snapshot_id"] != held_snapshot(manifest):
        notes.append(
            f"it can no longer be pulled at snapshot {manifest['snapshot_id']}, which held events "
            "of erased users"
        )
    return tuple(notes)
