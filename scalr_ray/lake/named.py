"""Which files the snapshots of the table name: data files, manifests, and their lists."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pyiceberg.manifest import DataFile, ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot


class NamedFiles:
    """The files that the snapshots of one state of the table name; each manifest is read once."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._entries: dict[str, dict[str, DataFile]] = {}

    def current(self) -> dict[str, DataFile]:
        """The data files of the newest snapshot, by location."""
        snapshot = self._table.current_snapshot()
        return {} if snapshot is None else self.of(snapshot)

    def of(self, snapshot: Snapshot) -> dict[str, DataFile]:
        """The data files of a snapshot, by location."""
        found: dict[str, DataFile] = {}
        for manifest in self._manifests(snapshot):
            found |= self._live(manifest)
        return found

    def by_snapshot(self) -> dict[int, dict[str, DataFile]]:
        """The data files of every snapshot, by its id."""
        return {snapshot.snapshot_id: self.of(snapshot) for snapshot in self._table.snapshots()}

    def everything(self, but: Collection[int] = ()) -> set[str]:
        """All that the table needs: metadata and its log, lists, manifests, data files.

        Args:
            but: snapshots whose files do not count.
        """
        metadata = self._table.metadata
        needed = {self._table.metadata_location}
        needed |= {entry.metadata_file for entry in metadata.metadata_log}
        needed |= {entry.statistics_path for entry in metadata.statistics}
        for snapshot in metadata.snapshots:
            if snapshot.snapshot_id in but:
                continue
            needed.add(snapshot.manifest_list)
            for manifest in self._manifests(snapshot):
                needed.add(manifest.manifest_path)
                needed |= self._live(manifest).keys()
        return needed

    def _manifests(self, snapshot: Snapshot) -> list[ManifestFile]:
        found: list[Any] = snapshot.manifests(self._table.io)
        return found

    def _live(self, manifest: ManifestFile) -> dict[str, DataFile]:
        path = manifest.manifest_path
        if path not in self._entries:
            entries = manifest.fetch_manifest_entry(self._table.io, discard_deleted=True)
            self._entries[path] = {entry.data_file.file_path: entry.data_file for entry in entries}
        return self._entries[path]
