"""The translators of the ledger: what was trained, on what, up to when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from scalr_ray.core.clock import parse_time
from scalr_ray.core.errors import UsageError
from scalr_ray.ledger.database import part, rising_now, save, transaction
from scalr_ray.ledger.records import TranslatorRecord
from scalr_ray.ledger.runs import Runs
from scalr_ray.ledger.tables import TranslatorRow

_NEWEST_FIRST = select(TranslatorRow).order_by(
    TranslatorRow.created_at.desc(), TranslatorRow.version.desc()
)


class Translators(Runs):
    """Record and find translators; each belongs to a run."""

    def add_translator(
        self,
        *,
        version: str,
        run_id: str,
        kind: str,
        train_cutoff: datetime,
        config_fingerprint: str,
        data_fingerprint: str,
        metrics: Mapping[str, Any],
        path: str,
    ) -> TranslatorRecord:
        """Record a trained translator; the same one again returns the record that is there.

        Raises:
            UsageError: the run is unknown, or the version belongs to another translator.
        """
        train_cutoff = parse_time(train_cutoff, "train_cutoff")
        try:
            with transaction(self._engine) as session:
                row = TranslatorRow(
                    version=version,
                    run_id=run_id,
                    kind=kind,
                    train_cutoff=train_cutoff,
                    config_fingerprint=config_fingerprint,
                    data_fingerprint=data_fingerprint,
                    metrics_json=dict(metrics),
                    path=path,
                    created_at=rising_now(session, TranslatorRow.created_at),
                    flagged=None,
                )
                return save(session, row).record()
        except IntegrityError as error:
            self.run(run_id)
            there = self.translator(version)
            found = (there.kind, there.train_cutoff, there.config_fingerprint)
            if (*found, there.data_fingerprint) != (
                kind,
                train_cutoff,
                config_fingerprint,
                data_fingerprint,
            ):
                raise UsageError(f"translator {version} is there with another content") from error
            return there

    def translator(self, version: str) -> TranslatorRecord:
        """The translator of this version.

        Raises:
            UsageError: there is none.
        """
        with transaction(self._engine) as session:
            row = session.get(TranslatorRow, version)
            if row is None:
                raise UsageError(f"there is no translator {version}; train one first")
            return row.record()

    def flag_translator(self, version: str, why: str) -> TranslatorRecord:
        """Record that a translator must be trained again; the first reason stays.

        Raises:
            UsageError: there is none of this version.
        """
        change = (
            update(TranslatorRow)
            .where(TranslatorRow.version == version, TranslatorRow.flagged.is_(None))
            .values(flagged=why)
        )
        with transaction(self._engine) as session:
            session.execute(change)
        return self.translator(version)

    def translators(
        self, *, run_id: str | None = None, limit: int | None = None, skip: int = 0
    ) -> list[TranslatorRecord]:
        """All translators, or those that a run trained, newest first.

        Args:
            run_id: the run.
            limit: how many at most; None: all.
            skip: how many of the newest to leave out.
        """
        query = _NEWEST_FIRST
        if run_id is not None:
            query = query.where(TranslatorRow.run_id == run_id)
        with transaction(self._engine) as session:
            return [row.record() for row in session.scalars(part(query, limit, skip))]

    def latest_translator(self) -> TranslatorRecord | None:
        """The translator recorded last, or None before the first."""
        with transaction(self._engine) as session:
            row = session.scalars(_NEWEST_FIRST.limit(1)).one_or_none()
            return None if row is None else row.record()
