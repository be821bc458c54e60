"""Erasures in the ledger: that they happened and what they touched, never of whom."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update

from scalr_ray.core.errors import UsageError
from scalr_ray.ledger.database import rising_now, save, transaction
from scalr_ray.ledger.pins import Pins
from scalr_ray.ledger.records import ErasureRecord, ErasureState
from scalr_ray.ledger.tables import ErasureRow, SubjectRow


class Erasures(Pins):
    """Begin, finish and list erasures."""

    def begin_erasure(self, subjects: Sequence[str], why: str) -> ErasureRecord:
        """Record that users are about to be erased.

        Args:
            subjects: keyed hashes of their ids; from now on they count as erased.
            why: for a reader; it must not name them.
        """
        with transaction(self._engine) as session:
            now = rising_now(session, ErasureRow.created_at)
            row = ErasureRow(
                erasure_id=f"erasure-{now:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}",
                why=why,
                state=ErasureState.BEGUN,
                report_json={},
                created_at=now,
                finished_at=None,
                subjects=[SubjectRow(subject=subject) for subject in sorted(set(subjects))],
            )
            return save(session, row).record()

    def finish_erasure(self, erasure_id: str, report: Mapping[str, Any]) -> ErasureRecord:
        """Record that an erasure is done, and what it touched; a second time changes nothing.

        Raises:
            UsageError: there is no such erasure.
        """
        change = (
            update(ErasureRow)
            .where(ErasureRow.erasure_id == erasure_id, ErasureRow.state == ErasureState.BEGUN)
            .values(
                state=ErasureState.DONE, report_json=dict(report), finished_at=datetime.now(UTC)
            )
        )
        with transaction(self._engine) as session:
            session.execute(change)
            row = session.get(ErasureRow, erasure_id)
            if row is None:
                raise UsageError(f"there is no erasure {erasure_id}")
            return row.record()

    def erasures(self) -> list[ErasureRecord]:
        """All erasures, oldest first."""
        query = select(ErasureRow).order_by(ErasureRow.created_at, ErasureRow.erasure_id)
        with transaction(self._engine) as session:
            return [row.record() for row in session.scalars(query)]

    def erased_subjects(self) -> frozenset[str]:
        """The keyed hashes of everybody who was erased, or is being erased."""
        with transaction(self._engine) as session:
            return frozenset(session.scalars(select(SubjectRow.subject).distinct()))
