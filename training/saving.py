"""Saving a training set: files that appear whole, a pin in the ledger, a dataset in Feast."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.errors import UsageError
from scalr_ray.core.events import EVENT_TIMESTAMP
from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.core.layout import Layout
from scalr_ray.core.subjects import ErasedUsers
from scalr_ray.ledger import Ledger
from training.inputs import repo_of
from training.manifest import checked, held_snapshot
from training.set_folders import ROWS, SetFolders

if TYPE_CHECKING:
    from feast import FeatureStore

KEYS = ("event_id",)


@dataclass(frozen=True, kw_only=True)
class SavedTrainingSet:
    """A training set on disk.

    Attributes:
        name: under which it is loaded.
        folder: where its rows and its manifest lie.
        rows: how many it has.
        snapshot_id: the snapshot of the synthetic events that is kept for it.
        manifest: as in its folder.
    """

    name: str
    folder: Path
    rows: int
    snapshot_id: int | None
    manifest: dict[str, Any]


def save(
    store: FeatureStore, name: str, table: pa.Table, manifest: dict[str, Any]
) -> SavedTrainingSet:
    """Save a training set under a name; the same one again changes nothing.

    From then on its snapshot of the synthetic events is kept, and `store.get_saved_dataset(name)`
    finds it too.

    Raises:
        UsageError: the name is no name or belongs to another set, the set holds rows of users who
            were erased since it was pulled, or writing is not allowed.
        RetryLater: the disk is full, or the database does not answer; save it again.
    """
    layout = Layout.of(repo_of(store))
    folders = SetFolders(root=layout.training_sets)
    folder = folders.folder(name)
    with Ledger(layout.database_url) as ledger, folders.changing():
        # Within: an erasure is in the ledger before it waits for its turn to look at the sets.
        _refuse_erased(table, ErasedUsers.of(layout, ledger.erased_subjects()))
        said = folders.add(name, table, manifest)
        snapshot_id = held_snapshot(said)
        ledger.pin(
            name,
            snapshot_id=snapshot_id,
            path=str(folder),
            manifest_fingerprint=fingerprint(said),
        )
        register(store, folders, name)
    return SavedTrainingSet(
        name=name,
        folder=folder,
        rows=table.num_rows,
        snapshot_id=snapshot_id,
        manifest=said,
    )


def register(store: FeatureStore, folders: SetFolders, name: str) -> None:
    """Tell Feast of a set that is there; again changes nothing.

    Raises:
        DataError: the set is damaged.
    """
    from scalr_ray.offline_store.saved_datasets import register_dataset

    said = checked(folders.manifest(name), name)
    register_dataset(
        store,
        name,
        folders.folder(name) / ROWS,
        columns=[n for n in folders.columns(name) if n not in (*KEYS, EVENT_TIMESTAMP)],
        keys=KEYS,
        service=said["service"],
        times=_times(said),
        tags={"as_of": said["as_of"], "snapshot_id": str(said["snapshot_id"])},
    )


def registered(store: FeatureStore) -> set[str]:
    """The names of all datasets that Feast knows, be they sets of ours or not."""
    from scalr_ray.offline_store.saved_datasets import known_datasets

    return known_datasets(store)


def _refuse_erased(rows: pa.Table, erased: ErasedUsers) -> None:
    count = pc.sum(erased.marks(rows["user_id"])).as_py() or 0
    if count:
        raise UsageError(
            f"{count} rows of the training set are of users who were erased since it was pulled; "
            "pull it again"
        )


def _times(manifest: dict[str, Any]) -> tuple[datetime, datetime]:
    start, end, as_of = (
        datetime.fromisoformat(manifest[name]) for name in ("start", "end", "as_of")
    )
    return start, min(end, as_of)
