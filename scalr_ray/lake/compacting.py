"""Few files in the place of many small ones: rows stay as they are, readers open fewer files."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import DataFile

from scalr_ray.lake.catalog import TABLE_NAME
from scalr_ray.lake.commits import Committer, refuse_clock_behind
from scalr_ray.lake.history import COMPACTED_PROPERTY
from scalr_ray.lake.named import NamedFiles
from scalr_ray.lake.replacing import COMPACTED_FOLDER, replace_files
from scalr_ray.lake.rows import RowsWriter, side_by_side
from scalr_ray.lake.schemas import to_schema
from scalr_ray.lake.staging import StagingArea

TARGET_ROWS = 1_000_000
_WHAT = "compact the table of synthetic events"


@dataclass(frozen=True, kw_only=True)
class CompactedFiles:
    """What a compaction did.

    Attributes:
        files_before: small files that were taken together.
        files_after: files that hold their rows now.
        rows: how many rows that are.
        snapshot_id: of the commit.
    """

    files_before: int
    files_after: int
    rows: int
    snapshot_id: int


@dataclass(kw_only=True)
class Compaction:
    """Takes small files together.

    Attributes:
        catalog: of the table.
        committer: commits to it.
        staging: tells where files lie, and their schema.
    """

    catalog: SqlCatalog
    committer: Committer
    staging: StagingArea

    def run(self) -> CompactedFiles | None:
        """Compact once; see `SyntheticEventLake.compact`."""
        return self.committer.commit(_WHAT, self._once)

    def _once(self) -> CompactedFiles | None:
        table = self.catalog.load_table(TABLE_NAME)
        files = NamedFiles(table).current()
        small = [file for file in files.values() if file.record_count < TARGET_ROWS // 2]
        groups = [group for group in grouped(small) if len(group) > 1]
        if not groups:
            return None
        refuse_clock_behind(_WHAT, table)
        removed = [file for group in groups for file in group]
        added = [self._together(group) for group in groups]
        snapshot_id = replace_files(
            table, removed, added, said={COMPACTED_PROPERTY: str(len(removed))}, notes={}
        )
        return CompactedFiles(
            files_before=len(removed),
            files_after=len(added),
            rows=sum(file.record_count for file in removed),
            snapshot_id=snapshot_id,
        )

    def _together(self, group: Sequence[DataFile]) -> str:
        """One file with the rows of several, batch after batch."""
        files = self.staging.files
        location = f"{self.staging.data}/{COMPACTED_FOLDER}/part-{uuid.uuid4().hex}.parquet"

        def rows_of(file: DataFile) -> pa.Table:
            with files.parquet(file.file_path) as parquet:
                return to_schema(parquet.read(), self.staging.schema)

        rows = pa.concat_tables(side_by_side(rows_of, group))
        with files.appearing(location) as path, RowsWriter(path, self.staging.schema) as writer:
            writer.write(rows)
        return location


def grouped(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Files that make up one new file each, by location, up to the number of rows aimed at."""
    groups: list[list[DataFile]] = []
    rows = TARGET_ROWS
    for file in sorted(files, key=lambda file: str(file.file_path)):
        if rows + file.record_count > TARGET_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(file)
        rows += file.record_count
    return groups
