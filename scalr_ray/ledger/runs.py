"""The runs of the ledger: what was called, with which settings, and how it ended."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, select, update

from scalr_ray.core.errors import ScalrError, UsageError
from scalr_ray.ledger.code import code_version
from scalr_ray.ledger.database import part, rising_now, save, transaction
from scalr_ray.ledger.owners import Owner
from scalr_ray.ledger.records import RunRecord, RunStatus
from scalr_ray.ledger.tables import RunRow

INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class RunInProgress:
    """A run that `Ledger.running` finishes; put what it measures into `metrics`."""

    run_id: str
    metrics: dict[str, Any] = field(default_factory=dict)


class Runs:
    """Start, end and list runs."""

    _engine: Engine

    def start_run(
        self, verb: str, config: Mapping[str, Any], fingerprint: str, seed: int
    ) -> RunRecord:
        """Record that a verb begins; `config` must have a canonical JSON form."""
        owner = Owner.of_this_process()
        with transaction(self._engine) as session:
            now = rising_now(session, RunRow.started_at)
            row = RunRow(
                run_id=f"{now:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}",
                verb=verb,
                config_fingerprint=fingerprint,
                config_json=dict(config),
                seed=seed,
                started_at=now,
                finished_at=None,
                status=RunStatus.RUNNING,
                error_code=None,
                metrics_json={},
                code_version=code_version(),
                owner_host=owner.host,
                owner_pid=owner.pid,
                owner_started_at=owner.started_at,
            )
            return save(session, row).record()

    def finish_run(self, run_id: str, metrics: Mapping[str, Any]) -> RunRecord:
        """Record that a run ended well, and what it measured.

        Raises:
            UsageError: there is no such run, or it has ended already.
        """
        return self._end_run(run_id, status=RunStatus.DONE, metrics_json=dict(metrics))

    def fail_run(self, run_id: str, error_code: str) -> RunRecord:
        """Record that a run ended with an error.

        Raises:
            UsageError: there is no such run, or it has ended already.
        """
        return self._end_run(run_id, status=RunStatus.FAILED, error_code=error_code)

    def abandon_run(self, run_id: str, why: str) -> RunRecord:
        """Record that a run ended without a word, because its process is gone.

        Args:
            run_id: the run.
            why: for a reader, among its metrics.

        Raises:
            UsageError: there is no such run, or it has ended already.
        """
        return self._end_run(
            run_id,
            status=RunStatus.FAILED,
            error_code=INTERRUPTED,
            metrics_json={"abandoned": why},
        )

    def running_runs(self) -> list[RunRecord]:
        """The runs that have not ended, oldest first; some of them may have died without a word."""
        query = select(RunRow).where(RunRow.status == RunStatus.RUNNING)
        with transaction(self._engine) as session:
            rows = session.scalars(query.order_by(RunRow.started_at, RunRow.run_id))
            return [row.record() for row in rows]

    @contextmanager
    def running(
        self, verb: str, config: Mapping[str, Any], fingerprint: str, seed: int
    ) -> Iterator[RunInProgress]:
        """Start a run, and finish or fail it at the end of the `with` block."""
        run = RunInProgress(run_id=self.start_run(verb, config, fingerprint, seed).run_id)
        try:
            yield run
        except BaseException as error:
            code = error.code if isinstance(error, ScalrError) else type(error).__name__
            self.fail_run(run.run_id, code)
            raise
        self.finish_run(run.run_id, run.metrics)

    def run(self, run_id: str) -> RunRecord:
        """The run with this id.

        Raises:
            UsageError: there is none.
        """
        with transaction(self._engine) as session:
            row = session.get(RunRow, run_id)
            if row is None:
                raise UsageError(f"there is no run {run_id}; `scalr runs` lists them")
            return row.record()

    def runs(
        self, limit: int | None = 50, *, skip: int = 0, verb: str | None = None
    ) -> list[RunRecord]:
        """Runs, newest first, or those of one verb.

        Args:
            limit: how many at most; None: all.
            skip: how many of the newest to leave out.
            verb: what was called.
        """
        query = select(RunRow).order_by(RunRow.started_at.desc(), RunRow.run_id.desc())
        if verb is not None:
            query = query.where(RunRow.verb == verb)
        with transaction(self._engine) as session:
            return [row.record() for row in session.scalars(part(query, limit, skip))]

    def _end_run(self, run_id: str, *, status: RunStatus, **values: object) -> RunRecord:
        change = (
            update(RunRow)
            .where(RunRow.run_id == run_id, RunRow.status == RunStatus.RUNNING)
            .values(status=status, finished_at=datetime.now(UTC), **values)
            .returning(RunRow)
        )
        with transaction(self._engine) as session:
            row = session.scalars(change).one_or_none()
            if row is not None:
                return row.record()
        raise UsageError(f"run {run_id} has ended already: it is {self.run(run_id).status}")
