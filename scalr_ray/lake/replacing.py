"""Putting files in the place of others, in one commit: what retiring, erasing and compacting do."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from scalr_ray.lake.files import TableFiles
from scalr_ray.lake.history import newest_snapshot
from scalr_ray.lake.rows import Rewritten, Values, count_rows, rewrite_without, side_by_side
from scalr_ray.lake.transactions import FrugalTransaction

# Where the files lie that hold rows of several batches; no batch id begins like that.
COMPACTED_FOLDER = "_compacted"


def batch_of(location: str) -> str | None:
    """The batch whose rows a data file holds; None where it holds those of several."""
    folder = location.rsplit("/", 2)[1]
    return None if folder == COMPACTED_FOLDER else folder


@dataclass(kw_only=True)
class Removal:
    """Rows that are to go from the table, by files; what was found out is kept between attempts.

    Attributes:
        files: of the table.
        values: which rows.
    """

    files: TableFiles
    values: Values
    _counted: dict[str, dict[str, int]] = field(default_factory=dict)
    _rewritten: dict[str, Rewritten] = field(default_factory=dict)

    def holders(self, locations: Sequence[str]) -> list[str]:
        """Those of the files that hold such rows."""
        new = [location for location in locations if location not in self._counted]
        counts = side_by_side(lambda place: count_rows(self.files, place, self.values), new)
        self._counted |= dict(zip(new, counts, strict=True))
        return [location for location in locations if self._counted[location]]

    def count(self, locations: Sequence[str]) -> dict[str, int]:
        """How many such rows the files hold, by batch."""
        return summed(self._counted[location] for location in self.holders(locations))

    def rewrite(self, locations: Sequence[str]) -> list[Rewritten]:
        """The files without the rows, written beside them."""
        new = [location for location in locations if location not in self._rewritten]
        self._rewritten |= dict(zip(new, side_by_side(self._rewrite, new), strict=True))
        return [self._rewritten[location] for location in locations]

    def _rewrite(self, location: str) -> Rewritten:
        to = f"{location.rsplit('/', 1)[0]}/part-{uuid.uuid4().hex}.parquet"
        return rewrite_without(self.files, location, self.values, to)


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of some counts by batch."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def replace_files(
    table: Table,
    removed: Sequence[DataFile],
    added: Sequence[str],
    *,
    said: Mapping[str, str],
    notes: Mapping[str, str],
) -> int:
    """Commit a snapshot without some files and with others; returns its id.

    Args:
        table: as it was loaded.
        removed: files of its newest snapshot.
        added: locations of files that are there.
        said: properties of the snapshot.
        notes: properties of the table that change with it.
    """
    with FrugalTransaction(table) as transaction:
        with transaction.update_snapshot(snapshot_properties=dict(said)).overwrite() as snapshot:
            # Looks into all manifests: without partitions, none can be left out.
            snapshot.delete_by_predicate(AlwaysTrue())
            for file in removed:
                snapshot.delete_data_file(file)
            for location in added:
                snapshot.append_data_file(
                    parquet_file_to_data_file(table.io, table.metadata, location)
                )
        snapshot_id = int(newest_snapshot(transaction.table_metadata).snapshot_id)
        if notes:
            transaction.set_properties(dict(notes))
    return snapshot_id
