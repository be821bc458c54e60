"""The tables of the ledger; `migrations` says how they came about.

Times are stored as whole microseconds since 1970: they compare and sort as they should in every
database, and come back as aware UTC. JSON is stored canonically.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Dialect, ForeignKey, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from scalr_ray.core.clock import from_micros, parse_time, to_micros
from scalr_ray.core.fingerprint import canonical_json
from scalr_ray.ledger.owners import Owner
from scalr_ray.ledger.records import (
    BatchRecord,
    BatchState,
    ErasureRecord,
    ErasureState,
    PinRecord,
    RunRecord,
    RunStatus,
    TranslatorRecord,
    VerdictRecord,
)


class UtcTime(TypeDecorator[datetime]):
    """An aware time, to the microsecond; naive ones are refused."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002, D102 - SQLAlchemy's interface
        return None if value is None else to_micros(parse_time(value))

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002, D102 - SQLAlchemy's interface
        return None if value is None else from_micros(value)


class CanonicalJson(TypeDecorator[dict[str, Any]]):
    """A JSON object as canonical text; NaN and objects without a JSON form are refused."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> str | None:  # noqa: ARG002, D102 - SQLAlchemy's interface
        return None if value is None else canonical_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> dict[str, Any] | None:  # noqa: ARG002, D102 - SQLAlchemy's interface
        return None if value is None else json.loads(value)


class Base(DeclarativeBase):
    """The tables below, and nothing else of the shared database."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's interface
        datetime: UtcTime,
        dict[str, Any]: CanonicalJson,
        int: BigInteger,
        str: Text,
    }


class RunRow(Base):
    """See `RunRecord`."""

    __tablename__ = "scalr_runs"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    verb: Mapped[str]
    config_fingerprint: Mapped[str]
    config_json: Mapped[dict[str, Any]]
    seed: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(index=True)
    finished_at: Mapped[datetime | None]
    status: Mapped[str]
    error_code: Mapped[str | None]
    metrics_json: Mapped[dict[str, Any]]
    code_version: Mapped[str]
    owner_host: Mapped[str | None]
    owner_pid: Mapped[int | None]
    owner_started_at: Mapped[datetime | None]

    def record(self) -> RunRecord:
        """This row, detached."""
        return RunRecord(
            run_id=self.run_id,
            verb=self.verb,
            config=self.config_json,
            config_fingerprint=self.config_fingerprint,
            seed=self.seed,
            status=RunStatus(self.status),
            started_at=self.started_at,
            finished_at=self.finished_at,
            error_code=self.error_code,
            metrics=self.metrics_json,
            code_version=self.code_version,
            owner=self._owner(),
        )

    def _owner(self) -> Owner | None:
        if self.owner_host is None or self.owner_pid is None or self.owner_started_at is None:
            return None
        return Owner(host=self.owner_host, pid=self.owner_pid, started_at=self.owner_started_at)


class TranslatorRow(Base):
    """See `TranslatorRecord`."""

    __tablename__ = "scalr_translators"

    version: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey(RunRow.run_id))
    kind: Mapped[str]
    train_cutoff: Mapped[datetime]
    config_fingerprint: Mapped[str]
    data_fingerprint: Mapped[str]
    metrics_json: Mapped[dict[str, Any]]
    path: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(index=True)
    flagged: Mapped[str | None]

    def record(self) -> TranslatorRecord:
        """This row, detached."""
        return TranslatorRecord(
            version=self.version,
            run_id=self.run_id,
            kind=self.kind,
            train_cutoff=self.train_cutoff,
            config_fingerprint=self.config_fingerprint,
            data_fingerprint=self.data_fingerprint,
            metrics=self.metrics_json,
            path=self.path,
            created_at=self.created_at,
            flagged=self.flagged,
        )


class BatchRow(Base):
    """See `BatchRecord`."""

    __tablename__ = "scalr_batches"

    batch_id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey(RunRow.run_id))
    translator_version: Mapped[str] = mapped_column(ForeignKey(TranslatorRow.version))
    state: Mapped[str] = mapped_column(index=True)
    as_of: Mapped[datetime]
    rows: Mapped[int]
    reason: Mapped[str | None]
    snapshot_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime]

    def record(self) -> BatchRecord:
        """This row, detached."""
        return BatchRecord(
            batch_id=self.batch_id,
            run_id=self.run_id,
            translator_version=self.translator_version,
            state=BatchState(self.state),
            as_of=self.as_of,
            rows=self.rows,
            reason=self.reason,
            snapshot_id=self.snapshot_id,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )


class VerdictRow(Base):
    """See `VerdictRecord`; `check` is a word of SQL, hence the column's name."""

    __tablename__ = "scalr_verdicts"

    # SQLite counts up only a column that is exactly INTEGER.
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True
    )
    batch_id: Mapped[str] = mapped_column(ForeignKey(BatchRow.batch_id), index=True)
    check_name: Mapped[str]
    passed: Mapped[bool]
    value: Mapped[float | None]
    threshold: Mapped[float | None]
    detail: Mapped[str]
    created_at: Mapped[datetime]

    def record(self) -> VerdictRecord:
        """This row, detached."""
        return VerdictRecord(
            id=self.id,
            batch_id=self.batch_id,
            check=self.check_name,
            passed=self.passed,
            value=self.value,
            threshold=self.threshold,
            detail=self.detail,
            created_at=self.created_at,
        )


class WatermarkRow(Base):
    """Up to when the events of a source domain went into a batch."""

    __tablename__ = "scalr_watermarks"

    batch_id: Mapped[str] = mapped_column(ForeignKey(BatchRow.batch_id), primary_key=True)
    domain: Mapped[str] = mapped_column(primary_key=True)
    seen_up_to: Mapped[datetime]


class ReplacementRow(Base):
    """A batch, and one that it takes the place of once it is published."""

    __tablename__ = "scalr_replacements"

    batch_id: Mapped[str] = mapped_column(ForeignKey(BatchRow.batch_id), primary_key=True)
    replaced_id: Mapped[str] = mapped_column(ForeignKey(BatchRow.batch_id), primary_key=True)


class PinRow(Base):
    """See `PinRecord`."""

    __tablename__ = "scalr_pins"

    name: Mapped[str] = mapped_column(primary_key=True)
    snapshot_id: Mapped[int | None]
    path: Mapped[str]
    manifest_fingerprint: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    def record(self) -> PinRecord:
        """This row, detached."""
        return PinRecord(
            name=self.name,
            snapshot_id=self.snapshot_id,
            path=self.path,
            manifest_fingerprint=self.manifest_fingerprint,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )


class ErasureRow(Base):
    """See `ErasureRecord`."""

    __tablename__ = "scalr_erasures"

    erasure_id: Mapped[str] = mapped_column(primary_key=True)
    why: Mapped[str]
    state: Mapped[str]
    report_json: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    subjects: Mapped[list[SubjectRow]] = relationship(
        order_by="SubjectRow.subject", lazy="selectin"
    )

    def record(self) -> ErasureRecord:
        """This row and its subjects, detached."""
        return ErasureRecord(
            erasure_id=self.erasure_id,
            subjects=tuple(row.subject for row in self.subjects),
            why=self.why,
            state=ErasureState(self.state),
            report=self.report_json,
            created_at=self.created_at,
            finished_at=self.finished_at,
        )


class SubjectRow(Base):
    """A keyed hash of somebody who was erased."""

    __tablename__ = "scalr_erased_subjects"

    erasure_id: Mapped[str] = mapped_column(ForeignKey(ErasureRow.erasure_id), primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True, index=True)
