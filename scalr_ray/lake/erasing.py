"""Erasing users: no row, and no byte of one, in any file that is left.

1. Staged files are written again without the rows.
2. One commit puts files without the rows in the place of those that hold some.
3. Every older snapshot that names a file with such rows is expired, in a second commit; the others
   stay readable.
4. What no snapshot names and holds such rows is deleted, with the metadata of the snapshots that
   have gone.

Each step starts from what is there, so that an erasure that was cut off is finished by another. The
metadata that stays holds no bounds of ids (`scalr_ray.lake.catalog`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table

from scalr_ray.core.s3 import s3_error
from scalr_ray.lake.catalog import TABLE_NAME
from scalr_ray.lake.commits import Committer, refuse_clock_behind
from scalr_ray.lake.history import ERASED_PROPERTY, notes_without, was_published
from scalr_ray.lake.named import NamedFiles
from scalr_ray.lake.replacing import Removal, replace_files, summed
from scalr_ray.lake.rows import Values
from scalr_ray.lake.staging import StagingArea
from scalr_ray.lake.transactions import expire_snapshots

_WHAT = "erase users"
_EXPIRE = "expire the snapshots with rows of erased users"


@dataclass(frozen=True, kw_only=True)
class ErasedRows:
    """What an erasure did to the table.

    Attributes:
        rows_by_batch: published rows that are gone, by batch.
        staged_rows_by_batch: staged rows that are gone, by batch.
        expired_snapshots: that can no longer be read.
        removed_files: that were deleted: data files and what belonged to the expired snapshots.
        snapshot_id: the newest snapshot afterwards; None where nothing was ever published.
    """

    rows_by_batch: dict[str, int]
    staged_rows_by_batch: dict[str, int]
    expired_snapshots: tuple[int, ...]
    removed_files: tuple[str, ...]
    snapshot_id: int | None


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """Erases rows by the id of their user.

    Attributes:
        catalog: of the table.
        committer: commits to it.
        staging: its staged batches.
    """

    catalog: SqlCatalog
    committer: Committer
    staging: StagingArea

    def run(self, user_ids: Sequence[object]) -> ErasedRows:
        """Erase the rows of some users everywhere; see `SyntheticEventLake.erase`."""
        values = self._values(user_ids)
        removal = Removal(files=self.staging.files, values=values)
        with self.committer.errors(_WHAT):
            refuse_clock_behind(_WHAT, self._table())
            staged = self._from_staged(values)
        gone: Counter[str] = Counter()
        found = None
        while found is None:
            gone.update(self.committer.commit(_WHAT, lambda: self._from_current(removal)))
            found = self.committer.commit(_EXPIRE, lambda: self._expire(removal))
        expired, needless = found
        with self.committer.errors(_WHAT):
            table = self._table()
            removed = self._clean(table, removal, needless)
            snapshot = table.current_snapshot()
        return ErasedRows(
            rows_by_batch=dict(sorted(gone.items())),
            staged_rows_by_batch=staged,
            expired_snapshots=expired,
            removed_files=tuple(sorted(removed)),
            snapshot_id=None if snapshot is None else int(snapshot.snapshot_id),
        )

    def preview(self, user_ids: Sequence[object]) -> tuple[dict[str, int], dict[str, int]]:
        """See `SyntheticEventLake.erase_preview`."""
        removal = Removal(files=self.staging.files, values=self._values(user_ids))
        with self.committer.errors("count the rows of users"):
            table = self._table()
            staged = [
                self.staging.location(batch_id, file)
                for batch_id in self.staging.batches()
                if not was_published(table, batch_id)
                for file in self.staging.listed(batch_id) or []
            ]
            return removal.count(list(NamedFiles(table).current())), removal.count(staged)

    def _values(self, user_ids: Sequence[object]) -> Values:
        return Values.of("user_id", user_ids, self.staging.schema.field("user_id").type)

    def _from_staged(self, values: Values) -> dict[str, int]:
        table = self._table()
        dropped: dict[str, int] = {}
        for batch_id in self.staging.batches():
            if not was_published(table, batch_id):
                dropped[batch_id] = self.staging.drop(batch_id, values)
        return {batch_id: rows for batch_id, rows in dropped.items() if rows}

    def _from_current(self, removal: Removal) -> dict[str, int]:
        table = self._table()
        files = NamedFiles(table).current()
        holders = removal.holders(list(files))
        if not holders:
            return {}
        rewritten = removal.rewrite(holders)
        gone = summed(file.gone for file in rewritten)
        replace_files(
            table,
            [files[location] for location in holders],
            [file.location for file in rewritten if file.location is not None],
            said={ERASED_PROPERTY: str(sum(gone.values()))},
            notes=notes_without(table, gone),
        )
        return gone

    def _expire(self, removal: Removal) -> tuple[tuple[int, ...], set[str]] | None:
        """Expire what holds the rows; the ids of the snapshots, and the files only they needed.

        None where the newest holds such rows: somebody has published them in the meantime.
        """
        table = self._table()
        named = NamedFiles(table)
        by_snapshot = named.by_snapshot()
        locations = sorted({place for files in by_snapshot.values() for place in files})
        holders = set(removal.holders(locations))
        expired = [number for number, files in by_snapshot.items() if holders & files.keys()]
        if not expired:
            return (), set()
        snapshot = table.current_snapshot()
        if snapshot is not None and snapshot.snapshot_id in expired:
            return None
        needless = named.everything() - named.everything(but=expired)
        expire_snapshots(table, expired)
        return tuple(expired), needless

    def _clean(self, table: Table, removal: Removal, needless: set[str]) -> set[str]:
        """Delete what nobody names and holds the rows, or was needed by expired snapshots alone."""
        staging = self.staging
        needed = NamedFiles(table).everything()
        for batch_id in staging.batches():
            listed = staging.listed(batch_id) or []
            needed |= {staging.location(batch_id, file) for file in listed}
        unnamed = [
            file.location
            for file in staging.files.below(staging.data)
            if file.location not in needed and ".parquet" in file.location
        ]
        gone = {place for place in unnamed if self._holds(place, removal)} | (needless - needed)
        return {place for place in gone if staging.files.remove(place)}

    def _holds(self, location: str, removal: Removal) -> bool:
        """Whether a left-over holds the rows; one that is cut off may, so it goes as well."""
        try:
            return bool(removal.holders([location]))
        except FileNotFoundError:
            return False
        except pa.ArrowInvalid:
            return True
        except OSError as error:  # a damaged footer is one, too, and has no number
            if error.errno is not None or s3_error(location, error) is not None:
                raise
            return True

    def _table(self) -> Table:
        return self.catalog.load_table(TABLE_NAME)
