"""What batches leave behind for the next: how far they saw each domain, and whom they replace.

The watermark of a batch and a source domain is the largest time from which an event of the domain
that went into the batch was visible. It is kept per domain, because a domain that is loaded weekly
must not be skipped over by one that is loaded hourly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, func, select

from scalr_ray.core.clock import parse_time
from scalr_ray.core.errors import UsageError
from scalr_ray.ledger.batches import Batches
from scalr_ray.ledger.database import transaction
from scalr_ray.ledger.records import BatchRecord, BatchState
from scalr_ray.ledger.tables import BatchRow, ReplacementRow, WatermarkRow


class BatchProgress(Batches):
    """Record and find the watermarks and the replacements of batches."""

    def set_watermarks(self, batch_id: str, watermarks: Mapping[str, datetime]) -> None:
        """Record how far a batch saw each source domain; what was recorded before is overwritten.

        Raises:
            UsageError: there is no such batch, or a time has no zone.
        """
        rows = [
            WatermarkRow(
                batch_id=batch_id,
                domain=domain,
                seen_up_to=parse_time(moment, f"watermark of {domain}"),
            )
            for domain, moment in watermarks.items()
        ]
        with transaction(self._engine) as session:
            if session.get(BatchRow, batch_id) is None:
                raise UsageError(f"there is no batch {batch_id}; generate one first")
            session.execute(delete(WatermarkRow).where(WatermarkRow.batch_id == batch_id))
            session.add_all(rows)

    def batch_watermarks(self, batch_id: str) -> dict[str, datetime]:
        """How far a batch saw each source domain, by domain; empty where nothing was recorded."""
        query = select(WatermarkRow).where(WatermarkRow.batch_id == batch_id)
        with transaction(self._engine) as session:
            rows = session.scalars(query.order_by(WatermarkRow.domain))
            return {row.domain: row.seen_up_to for row in rows}

    def watermarks(
        self,
        states: Collection[BatchState] = (BatchState.PUBLISHED,),
        *,
        as_of: datetime | None = None,
    ) -> dict[str, datetime]:
        """The largest watermark of each source domain among the batches in these states.

        Args:
            states: of the batches that count.
            as_of: T; only batches that were generated as of T or earlier count. None: all.
        """
        query = (
            select(WatermarkRow.domain, func.max(WatermarkRow.seen_up_to))
            .join(BatchRow, BatchRow.batch_id == WatermarkRow.batch_id)
            .where(BatchRow.state.in_(states))
            .group_by(WatermarkRow.domain)
            .order_by(WatermarkRow.domain)
        )
        if as_of is not None:
            query = query.where(BatchRow.as_of <= parse_time(as_of, "as_of"))
        with transaction(self._engine) as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def replace_batches(self, batch_id: str, replaced: Sequence[str]) -> None:
        """Record that a batch takes the place of others once it is published.

        Raises:
            UsageError: one of them is not there, or a batch would replace itself.
        """
        for known in (batch_id, *replaced):
            self.batch(known)
        if batch_id in replaced:
            raise UsageError(f"batch {batch_id} cannot replace itself")
        with transaction(self._engine) as session:
            for other in replaced:
                session.merge(ReplacementRow(batch_id=batch_id, replaced_id=other))

    def replaced_by(self, batch_id: str) -> list[BatchRecord]:
        """The batches that a batch takes the place of, in whatever state they are; oldest first."""
        query = (
            select(BatchRow)
            .join(ReplacementRow, ReplacementRow.replaced_id == BatchRow.batch_id)
            .where(ReplacementRow.batch_id == batch_id)
            .order_by(BatchRow.created_at, BatchRow.batch_id)
        )
        with transaction(self._engine) as session:
            return [row.record() for row in session.scalars(query)]
