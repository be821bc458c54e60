"""What nobody needs any more: old snapshots, and files that nothing names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table

from scalr_ray.core.clock import parse_time
from scalr_ray.core.errors import UsageError
from scalr_ray.lake.catalog import TABLE_NAME
from scalr_ray.lake.commits import Committer
from scalr_ray.lake.history import committed_at
from scalr_ray.lake.named import NamedFiles
from scalr_ray.lake.staging import StagingArea
from scalr_ray.lake.transactions import expire_snapshots


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """Finds and removes what is not needed.

    Attributes:
        catalog: of the table.
        committer: commits to it.
        staging: its staged batches, and all its files.
    """

    catalog: SqlCatalog
    committer: Committer
    staging: StagingArea

    def expire(self, *, before: datetime, keep: Collection[int]) -> list[int]:
        """See `SyntheticEventLake.expire`."""
        cut = parse_time(before, "before")

        def attempt() -> list[int]:
            table = self._table()
            current = table.current_snapshot()
            kept = {*keep, *([] if current is None else [current.snapshot_id])}
            old = [
                int(snapshot.snapshot_id)
                for snapshot in table.snapshots()
                if committed_at(snapshot) < cut and snapshot.snapshot_id not in kept
            ]
            if old:
                expire_snapshots(table, old)
            return old

        return self.committer.commit("expire old snapshots", attempt)

    def orphans(
        self, *, older_than: datetime, staged: Collection[str], gone: Collection[int]
    ) -> list[str]:
        """See `SyntheticEventLake.orphans`."""
        cut = parse_time(older_than, "older_than")
        with self.committer.errors("look for orphan files"):
            # Listed first: what is published in between is named when the table is looked at.
            found = self.staging.files.below(self.staging.files.root)
            needed = NamedFiles(self._table()).everything(but=gone)
            for batch_id in staged:
                needed |= self.staging.in_use(batch_id)
        return [
            file.location for file in found if file.modified < cut and file.location not in needed
        ]

    def remove(self, locations: Iterable[str]) -> int:
        """See `SyntheticEventLake.remove`."""
        files, wanted = self.staging.files, list(locations)
        for location in wanted:
            if not location.startswith(f"{files.root}/"):
                raise UsageError(f"{location} is no file of the table at {files.root}")
        with self.committer.errors("remove orphan files"):
            return sum(files.remove(location) for location in wanted)

    def _table(self) -> Table:
        return self.catalog.load_table(TABLE_NAME)
