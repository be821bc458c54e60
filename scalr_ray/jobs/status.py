"""How a repository stands: the newest batch, what was seen, what is open, and what to do next.

It is read from the ledger and from the metadata of the table, and changes nothing. Whether machine
and repository are fit to run is asked of the doctor.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from scalr_ray.core.config import ScalrConfig
from scalr_ray.core.layout import Layout
from scalr_ray.ingest.store import SOURCE_VIEW, TARGET_VIEW
from scalr_ray.jobs.liveness import is_dead
from scalr_ray.lake import PublishedBatch, SyntheticEventLake
from scalr_ray.ledger import (
    FORCED,
    BatchRecord,
    BatchState,
    ErasureState,
    Ledger,
    RunRecord,
    TranslatorRecord,
)

LEAST_FREE_BYTES = 2 * 1024**3
_RECOVER = "run `scalr recover`"


@dataclass(frozen=True, kw_only=True)
class NewestBatch:
    """The published batch of the latest generation time.

    Attributes:
        batch_id: its id.
        as_of: it was generated as of this time, in UTC.
        published_at: UTC.
        age_s: seconds since `as_of`.
        events: its rows in the table.
        verdict: what the gate said.
    """

    batch_id: str
    as_of: datetime
    published_at: datetime
    age_s: float
    events: int
    verdict: str


@dataclass(frozen=True, kw_only=True)
class NewestTranslator:
    """The translator that was trained last.

    Attributes:
        version: its id.
        kind: `frequency` or `neural`.
        train_cutoff: it knows only what was known as of this time, in UTC.
        transfers: whether its evidence gains over the prior.
        flagged: why it must be trained again; None as long as it need not.
    """

    version: str
    kind: str
    train_cutoff: datetime
    transfers: bool
    flagged: str | None


@dataclass(frozen=True, kw_only=True)
class OpenThing:
    """Something that is under way, waits for a step, or was left half done.

    Attributes:
        subject: `run`, `batch` or `erasure`.
        name: which.
        state: how it stands.
        remedy: what to do; empty where there is only to wait.
    """

    subject: str
    name: str
    state: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a repository stands.

    Attributes:
        repo: its folder.
        looked_at: UTC.
        newest: None before the first batch is published.
        batches: how many are published.
        synthetic_events: published rows without negatives.
        target_events: rows behind the target view, every version of an event.
        synthetic_frac: the share of synthetic events among both; None where there are none.
        translator: None before the first.
        watermarks: by source domain, up to when published batches have seen its events.
        free_bytes: on the disk of `data_dir`.
        open: what is under way or half done, the most pressing first.
        next_step: one line.
    """

    repo: Path
    looked_at: datetime
    newest: NewestBatch | None
    batches: int
    synthetic_events: int
    target_events: int
    synthetic_frac: float | None
    translator: NewestTranslator | None
    watermarks: Mapping[str, datetime]
    free_bytes: int
    open: tuple[OpenThing, ...]
    next_step: str

    @property
    def half_done(self) -> int:
        """How many things `scalr recover` would mend."""
        return sum(thing.remedy == _RECOVER for thing in self.open)


def look(repo: Path, config: ScalrConfig) -> Status:
    """How the repository stands now.

    Raises:
        ConfigError: the database cannot be opened, or another version of SCALR has written it.
        DataError: S3 refuses.
        RetryLater: a server does not answer.
    """
    layout, now = Layout.of(repo, config), datetime.now(UTC)
    shown = SyntheticEventLake.published_in(layout)
    events = {view: _rows_behind(layout, view) for view in (SOURCE_VIEW, TARGET_VIEW)}
    free = _free_bytes(layout.data)
    ledger = Ledger.existing(layout.database_url)
    if ledger is None:
        return _describe(repo, now, _Found(), shown, events, free, config)
    with ledger:
        return _describe(repo, now, _Found.of(ledger, shown), shown, events, free, config)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the ledger says; by default, nothing."""

    newest: BatchRecord | None = None
    last: BatchRecord | None = None
    verdict: str = ""
    synthetic: int = 0
    translator: TranslatorRecord | None = None
    watermarks: Mapping[str, datetime] | None = None
    open: tuple[OpenThing, ...] = ()

    @classmethod
    def of(cls, ledger: Ledger, shown: Mapping[str, PublishedBatch]) -> _Found:
        batches = ledger.batches()
        published = [batch for batch in batches if batch.state is BatchState.PUBLISHED]
        newest = max(published, key=lambda batch: (batch.as_of, batch.created_at), default=None)
        return cls(
            newest=newest,
            last=ledger.latest_batch(),
            verdict="" if newest is None else _verdict(ledger, newest),
            synthetic=sum(_positives(ledger, batch, shown) for batch in published),
            translator=ledger.latest_translator(),
            watermarks=ledger.watermarks(),
            open=(
                *_dead_runs(ledger),
                *_torn(batches, shown),
                *_erasures(ledger),
                *_live_runs(ledger),
                *_waiting(batches),
            ),
        )


def _describe(
    repo: Path,
    now: datetime,
    found: _Found,
    shown: Mapping[str, PublishedBatch],
    events: Mapping[str, int],
    free: int,
    config: ScalrConfig,
) -> Status:
    newest, translator, target = found.newest, found.translator, events[TARGET_VIEW]
    every = found.synthetic + target
    return Status(
        repo=repo,
        looked_at=now,
        newest=None if newest is None else _newest(newest, found.verdict, shown, now),
        batches=len(shown),
        synthetic_events=found.synthetic,
        target_events=target,
        synthetic_frac=found.synthetic / every if every else None,
        translator=None if translator is None else _translator(translator),
        watermarks=dict(found.watermarks or {}),
        free_bytes=free,
        open=found.open,
        next_step=_next_step(found, events, free, now, config),
    )


def _newest(
    batch: BatchRecord, verdict: str, shown: Mapping[str, PublishedBatch], now: datetime
) -> NewestBatch:
    there = shown.get(batch.batch_id)
    return NewestBatch(
        batch_id=batch.batch_id,
        as_of=batch.as_of,
        published_at=batch.updated_at if there is None else there.committed_at,
        age_s=(now - batch.as_of).total_seconds(),
        events=batch.rows if there is None else there.rows,
        verdict=verdict,
    )


def _translator(record: TranslatorRecord) -> NewestTranslator:
    return NewestTranslator(
        version=record.version,
        kind=record.kind,
        train_cutoff=record.train_cutoff,
        transfers=bool(record.metrics.get("transfers", False)),
        flagged=record.flagged,
    )


def _verdict(ledger: Ledger, batch: BatchRecord) -> str:
    checks = ledger.verdicts(batch.batch_id)
    forced = next((check for check in checks if check.check == FORCED), None)
    asked = [check for check in checks if check.check != FORCED]
    passed = f"{sum(check.passed for check in asked)} of {len(asked)} checks passed"
    return f"accepted, {passed}" if forced is None else f"forced, {passed}: {forced.detail}"


def _positives(ledger: Ledger, batch: BatchRecord, shown: Mapping[str, PublishedBatch]) -> int:
    """The rows of a published batch without its negatives, in proportion to what is left of it."""
    there = shown.get(batch.batch_id)
    rows = 0 if there is None else there.rows
    mass = (ledger.run(batch.run_id).metrics.get("refinement") or {}).get("mass")
    if mass is None or not batch.rows:
        return rows
    return round(rows * int(mass["rows"]) / batch.rows)


def _dead_runs(ledger: Ledger) -> Iterator[OpenThing]:
    for run in ledger.running_runs():
        if is_dead(run):
            yield _thing_of(run, "its process is gone", _RECOVER)


def _live_runs(ledger: Ledger) -> Iterator[OpenThing]:
    for run in ledger.running_runs():
        if not is_dead(run):
            where = "" if run.owner is None else f" on {run.owner.host}"
            yield _thing_of(run, f"under way{where} since {run.started_at:%Y-%m-%d %H:%M} UTC")


def _thing_of(run: RunRecord, state: str, remedy: str = "") -> OpenThing:
    return OpenThing(subject="run", name=run.run_id, state=f"`{run.verb}` {state}", remedy=remedy)


def _torn(
    batches: Sequence[BatchRecord], shown: Mapping[str, PublishedBatch]
) -> Iterator[OpenThing]:
    """The batches of which ledger and table say different things."""
    for batch in batches:
        visible = batch.batch_id in shown
        if visible == (batch.state is BatchState.PUBLISHED):
            continue
        where = "in" if visible else "not in"
        state = f"{batch.state.value}, and {where} the table"
        yield OpenThing(subject="batch", name=batch.batch_id, state=state, remedy=_RECOVER)


def _erasures(ledger: Ledger) -> Iterator[OpenThing]:
    for erasure in ledger.erasures():
        if erasure.state is ErasureState.BEGUN:
            yield OpenThing(
                subject="erasure", name=erasure.erasure_id, state="begun", remedy=_RECOVER
            )


def _waiting(batches: Sequence[BatchRecord]) -> Iterator[OpenThing]:
    steps = {BatchState.ACCEPTED: "publish", BatchState.STAGED: "gate"}
    for state, verb in steps.items():
        for batch in batches:
            if batch.state is state:
                remedy = f"run `scalr {verb} {batch.batch_id}`"
                yield OpenThing(
                    subject="batch", name=batch.batch_id, state=state.value, remedy=remedy
                )


def _next_step(
    found: _Found, events: Mapping[str, int], free: int, now: datetime, config: ScalrConfig
) -> str:
    pressing = [thing for thing in found.open if thing.remedy == _RECOVER]
    if pressing:
        return f"{_RECOVER}: {pressing[0].subject} {pressing[0].name}, {pressing[0].state}"
    if free < LEAST_FREE_BYTES:
        return f"free some space: {free / 1024**3:.1f} GiB are left under data_dir"
    if not all(events.values()):
        return "run `scalr import FILE` with a log of both domains, then `scalr apply`"
    return _next_batch(found, now, config)


def _next_batch(found: _Found, now: datetime, config: ScalrConfig) -> str:
    under_way = [thing for thing in found.open if thing.subject == "run"]
    if under_way:
        return f"wait: {under_way[0].state}"
    if found.last is None:
        return "run `scalr apply` if the definitions have changed, then `scalr run`"
    waits = [thing for thing in found.open if thing.name == found.last.batch_id]
    if waits:
        return f"{waits[0].remedy}: it is {waits[0].state}"
    if found.last.state is BatchState.REJECTED and found.last.rows:
        why = found.last.reason or found.last.batch_id
        return f"import newer events or change scalr.yaml: the gate refused the last batch, {why}"
    return _next_run(found, now, config)


def _next_run(found: _Found, now: datetime, config: ScalrConfig) -> str:
    if found.translator is not None and found.translator.flagged is not None:
        return f"run `scalr run`, which trains again: {found.translator.flagged}"
    if found.newest is None:
        return "run `scalr run`"
    if now - found.newest.as_of >= timedelta(days=config.increment.retrain_days):
        return "run `scalr run`: the newest batch is older than increment.retrain_days"
    return "nothing; `scalr run` publishes what is new since"


def _rows_behind(layout: Layout, view: str) -> int:
    """How many rows the files behind a view hold, by their footers."""
    parts = layout.events(view).glob("part-*.parquet")
    return sum(pq.read_metadata(part).num_rows for part in parts)


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
