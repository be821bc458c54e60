"""Pins in the ledger: the snapshots of the lake that saved training sets hold."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from scalr_ray.core.errors import UsageError
from scalr_ray.ledger.database import save, transaction
from scalr_ray.ledger.progress import BatchProgress
from scalr_ray.ledger.records import PinRecord
from scalr_ray.ledger.tables import PinRow


class Pins(BatchProgress):
    """Pin, find and let go of snapshots, each by the name of a training set."""

    def pin(
        self, name: str, *, snapshot_id: int | None, path: str, manifest_fingerprint: str
    ) -> PinRecord:
        """Record a saved training set; the same one again returns the record that is there.

        Raises:
            UsageError: the name belongs to another training set.
        """
        now = datetime.now(UTC)
        row = PinRow(
            name=name,
            snapshot_id=snapshot_id,
            path=path,
            manifest_fingerprint=manifest_fingerprint,
            created_at=now,
            updated_at=now,
        )
        try:
            with transaction(self._engine) as session:
                return save(session, row).record()
        except IntegrityError as error:
            there = self.pin_of(name)
            if (there.snapshot_id, there.path, there.manifest_fingerprint) != (
                snapshot_id,
                path,
                manifest_fingerprint,
            ):
                raise UsageError(
                    f"there is another training set {name!r}; save under another name"
                ) from error
            return there

    def repin(self, name: str, *, snapshot_id: int | None, manifest_fingerprint: str) -> PinRecord:
        """Record that a training set was rewritten, and what it holds now.

        Raises:
            UsageError: there is no such training set.
        """
        change = (
            update(PinRow)
            .where(PinRow.name == name)
            .values(
                snapshot_id=snapshot_id,
                manifest_fingerprint=manifest_fingerprint,
                updated_at=datetime.now(UTC),
            )
            .returning(PinRow)
        )
        with transaction(self._engine) as session:
            row = session.scalars(change).one_or_none()
            if row is None:
                raise _unknown(name)
            return row.record()

    def unpin(self, name: str) -> None:
        """Forget a training set; one that is not there is forgotten already."""
        with transaction(self._engine) as session:
            session.execute(delete(PinRow).where(PinRow.name == name))

    def pin_of(self, name: str) -> PinRecord:
        """The training set of that name.

        Raises:
            UsageError: there is none.
        """
        with transaction(self._engine) as session:
            row = session.get(PinRow, name)
            if row is None:
                raise _unknown(name)
            return row.record()

    def pins(self) -> list[PinRecord]:
        """All saved training sets, in order of their names."""
        with transaction(self._engine) as session:
            return [row.record() for row in session.scalars(select(PinRow).order_by(PinRow.name))]


def _unknown(name: str) -> UsageError:
    return UsageError(f"there is no saved training set {name!r}")
