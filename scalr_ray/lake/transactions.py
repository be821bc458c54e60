"""Transactions on tables with many snapshots.

pyiceberg works the metadata of a transaction out again, as a deep copy, whenever something asks for
it: some twenty times for one append, and three times for each snapshot that expires. With 1,000
snapshots one copy takes 0.1 s. Here it is kept until the transaction changes.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update.snapshot import ExpireSnapshots


class FrugalTransaction(Transaction):  # type: ignore[misc] # pyiceberg is not followed
    """Several changes of a table that are committed together at the end of a `with` block."""

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._worked_out: tuple[object, object, TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """What the metadata of the table will be after the changes made so far."""
        known = self._worked_out
        base, updates = self._table.metadata, self._updates
        if known is None or known[0] is not base or known[1] is not updates:
            known = (base, updates, super().table_metadata)
            self._worked_out = known
        return known[2]


def expire_snapshots(table: Table, snapshot_ids: Iterable[int]) -> None:
    """Commit the table without some snapshots, of which none is the newest."""
    with FrugalTransaction(table) as transaction:
        ExpireSnapshots(transaction).by_ids(list(snapshot_ids)).commit()
