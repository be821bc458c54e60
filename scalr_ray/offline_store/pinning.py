"""Reading an Iceberg view at one snapshot, however often, whatever is committed meanwhile."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

from feast import FeatureStore
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from feast.infra.offline_stores.file_source import FileSource

from scalr_ray.core.errors import UsageError
from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.offline_store.sources.iceberg_table import open_table, pinned_snapshot
from scalr_ray.offline_store.sources.paths import parquet_files
from scalr_ray.offline_store.sources.reading import label
from scalr_ray.offline_store.storage import storage_errors
from scalr_ray.offline_store.store import AsOfOfflineStoreConfig, session_of


@dataclass(frozen=True, kw_only=True)
class PinnedStore:
    """A feature store that reads one view at one snapshot, and all others as they are.

    Attributes:
        store: with the pin; the one that it was made from knows nothing of it.
        snapshot_id: None where the table had no snapshot yet, or where nothing can be pinned.
        empty: whether the view has no rows there, although it may have some by now.
    """

    store: FeatureStore
    snapshot_id: int | None
    empty: bool = False


def pin_view(
    store: FeatureStore, view: str, snapshot: int | Literal["newest"] | None
) -> PinnedStore:
    """A store that reads the Iceberg table behind a view at one snapshot only.

    A view of another kind of source, and the view of another offline store, are read as they are.

    Args:
        store: an opened feature store; it is left as it is.
        view: name of a feature view.
        snapshot: its id; None is the table before its first snapshot. `newest` is the pin that the
            source or the session has already, if there is one.

    Raises:
        UsageError: a snapshot is named, and the view cannot be read at one.
        DataError: the catalog cannot be read.
        RetryLater: the catalog is busy.
    """
    source = store.get_feature_view(view).batch_source
    settings = store.config.offline_store
    if not (isinstance(source, IcebergSource) and isinstance(settings, AsOfOfflineStoreConfig)):
        if snapshot != "newest":
            raise UsageError(
                f"{view} cannot be read at a snapshot: it takes an IcebergSource and the offline "
                "store of SCALR; leave snapshot_id out"
            )
        return PinnedStore(store=store, snapshot_id=None)
    pin = _newest(store, source) if snapshot == "newest" else snapshot
    if pin is None:
        return PinnedStore(store=store, snapshot_id=None, empty=True)
    offline = settings.model_copy(update={"snapshots": {**settings.snapshots, source.name: pin}})
    _ = store.registry  # opened once, and shared by the copy
    pinned = copy.copy(store)
    pinned.config = store.config.model_copy()
    pinned.config.offline_config = offline
    pinned.config._offline_store = offline  # noqa: SLF001 - where Feast keeps it once parsed
    return PinnedStore(store=pinned, snapshot_id=pin)


def files_fingerprint(store: FeatureStore, view: str) -> str | None:
    """A hash of the names and sizes of the files behind a view; None where it has no files.

    Parts are named after their content and never rewritten, so that it stands for the rows.

    Raises:
        DataError: a single file is gone, or S3 refuses.
        RetryLater: S3 does not answer.
    """
    source = store.get_feature_view(view).batch_source
    settings = store.config.offline_store
    if not (isinstance(source, FileSource) and isinstance(settings, AsOfOfflineStoreConfig)):
        return None
    files = parquet_files(source, session_of(store.config).access)
    if files is None:
        return None
    with storage_errors(label(source)):
        system = files.places[0].filesystem()
        found = system.get_file_info([place.path for place in files.places])
    root = str(source.path)
    return fingerprint([[_below(info.path, root), info.size] for info in found], 16)


def _below(path: str, root: str) -> str:
    """The part of a path that the source does not name, so that a copy has the same."""
    fixed = root.split("*", 1)[0].removeprefix("s3://").removeprefix("file://")
    return path.removeprefix(fixed)


def _newest(store: FeatureStore, source: IcebergSource) -> int | None:
    pin = pinned_snapshot(source, session_of(store.config).access)
    if pin is not None:
        return pin
    with open_table(source) as table:
        current = None if table is None else table.current_snapshot()
        return None if current is None else int(current.snapshot_id)
