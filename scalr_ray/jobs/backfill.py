"""Backfill: what the scheduled run would have published, had it run all along.

Rolling origins T0, T0 + every, ... up to T1. At each, a translator is trained on what was visible
then, events are generated as of then, and what the gate accepts is published with the origin as its
logical time; the ledger keeps the wall clock. The first batch is for everybody, each later one for
what had appeared since the one before. So a training set as of any T holds what an observer at T
would have had, and nothing that happened after T changes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow.compute as pc

from scalr_ray.core.clock import parse_time
from scalr_ray.core.errors import GateRefused, MassReached, TooLittleData, UsageError
from scalr_ray.jobs.entry import Told, main_of, run_stage
from scalr_ray.jobs.generate import generate
from scalr_ray.jobs.increment import NOTHING_CAME, generate_since
from scalr_ray.jobs.measuring import measured
from scalr_ray.jobs.news import count_news, published_as_of, watermarks
from scalr_ray.jobs.release import gate, publish
from scalr_ray.jobs.train import data_fingerprint, train
from scalr_ray.jobs.workspace import SOURCE_VIEW, TARGET_VIEW, Workspace
from scalr_ray.ledger import BatchRecord, BatchState, TranslatorRecord
from scalr_ray.offline_store.pull import all_visible_from

NOTHING_NEW = "nothing new"

_ONCE_ACCEPTED = {BatchState.ACCEPTED, BatchState.PUBLISHED, BatchState.RETIRED}
_DURATION = re.compile(r"([1-9][0-9]{0,4})([dh])")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What became of one origin.

    Attributes:
        as_of: the origin.
        translator: version of the translator that was trained there; None where none was.
        batch_id: its batch; None where none was generated.
        events: synthetic events of the batch.
        users: users who got some; None where nothing was published.
        verdict: `published`, `retired`, `nothing new`, or why there is nothing.
    """

    as_of: datetime
    translator: str | None = None
    batch_id: str | None = None
    events: int = 0
    users: int | None = None
    verdict: str

    @property
    def published(self) -> bool:
        """Whether its events can be seen."""
        return self.verdict == BatchState.PUBLISHED


def parse_every(text: str | timedelta) -> timedelta:
    """The distance of two origins, from days or hours such as `7d` or `12h`.

    Raises:
        UsageError: it is no such text, or not positive.
    """
    if isinstance(text, timedelta):
        if text <= timedelta(0):
            raise UsageError(f"--every {text} is not positive; write for example 7d")
        return text
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UsageError(f"--every {text!r} is no duration; write days or hours, say 7d or 12h")
    return int(found[1]) * _UNITS[found[2]]


def backfill(
    workspace: Workspace, *, start: datetime, end: datetime, every: timedelta
) -> list[Origin]:
    """Train, generate, audit and publish at every origin from `start` to `end`, both included.

    An origin that the gate refuses, or that has too little data or no weight left, is told and
    passed over. One that has been published is left as it is, so a backfill that was cut off goes
    on where it was.

    Args:
        workspace: an opened repository.
        start: the first origin.
        end: no origin lies after it.
        every: the distance of two origins.

    Returns:
        What became of each origin, in order.

    Raises:
        UsageError: `start` is not before `end`, `end` lies in the future, or there are no events.
        ScalrError: whatever else goes wrong at an origin ends the backfill; call it again to go on.
    """
    _refuse_window(workspace, start, end)
    told = []
    with measured(workspace):
        for moment in _origins(start, end, every):
            workspace.progress.note(f"origin {moment}")
            told.append(_fill(workspace, moment))
            workspace.progress.note(f"origin {moment}: {told[-1].verdict}")
    return told


def describe_none(origins: Sequence[Origin]) -> str:
    """One line where no origin has a published batch."""
    return f"no origin has a published batch; the last: {origins[-1].verdict}"


def _origins(start: datetime, end: datetime, every: timedelta) -> Iterator[datetime]:
    moment = start
    while moment <= end:
        yield moment
        moment += every


def _refuse_window(workspace: Workspace, start: datetime, end: datetime) -> None:
    if start >= end:
        raise UsageError(f"--from {start} is not before --to {end}; swap them")
    newest = all_visible_from(workspace.store, (SOURCE_VIEW, TARGET_VIEW))
    if newest is None:
        raise UsageError(f"{workspace.repo} holds no events; run `scalr import FILE` first")
    now = datetime.now(UTC)
    if end > max(now, newest):
        raise UsageError(
            f"--to {end} lies in the future; the newest event became known at {newest}, so choose "
            "a time up to then"
        )


def _fill(workspace: Workspace, moment: datetime) -> Origin:
    """Do what is left to do at one origin."""
    if (found := _finished(workspace, moment)) is not None:
        return _told(workspace, found)
    since = watermarks(workspace, published_as_of(workspace, moment))
    if since and not count_news(workspace, moment, since):
        return Origin(as_of=moment, verdict=NOTHING_NEW)
    try:
        translator = _translator(workspace, moment)
    except TooLittleData as error:
        return Origin(as_of=moment, verdict=f"too little data: {error.message}")
    return _publish(workspace, moment, translator, since)


def _publish(
    workspace: Workspace,
    moment: datetime,
    translator: TranslatorRecord,
    since: Mapping[str, datetime],
) -> Origin:
    """Generate, audit, and publish what is accepted."""
    try:
        if since:
            batch = generate_since(workspace, translator, as_of=moment, since=since)
        else:
            batch = generate(workspace, translator=translator.version).record
    except GateRefused:
        return _told(workspace, _refused(workspace, moment, translator))
    except TooLittleData as error:
        verdict = f"too little data: {error.message}"
        return Origin(as_of=moment, translator=translator.version, verdict=verdict)
    except MassReached as error:
        verdict = f"no weight left: {error.message}"
        return Origin(as_of=moment, translator=translator.version, verdict=verdict)
    if batch is None:
        return Origin(as_of=moment, translator=translator.version, verdict=NOTHING_NEW)
    if gate(workspace, batch_id=batch.batch_id).accepted:
        publish(workspace, batch_id=batch.batch_id)
    return _told(workspace, workspace.ledger.batch(batch.batch_id))


def _finished(workspace: Workspace, moment: datetime) -> BatchRecord | None:
    """The batch of an origin that was accepted, which is published now if it is not, or retired."""
    for batch in workspace.ledger.batches():
        if batch.as_of != moment:
            continue
        if batch.state is BatchState.ACCEPTED:
            publish(workspace, batch_id=batch.batch_id)
        if batch.state in _ONCE_ACCEPTED:
            return workspace.ledger.batch(batch.batch_id)
    return None


def _refused(workspace: Workspace, moment: datetime, translator: TranslatorRecord) -> BatchRecord:
    """The batch of a translator that was refused at an origin before."""
    return next(
        batch
        for batch in workspace.ledger.batches(BatchState.REJECTED)
        if batch.as_of == moment and batch.translator_version == translator.version
    )


def _translator(workspace: Workspace, moment: datetime) -> TranslatorRecord:
    """The translator of an origin: the one that was trained there on the same, or a new one."""
    events = workspace.training_events(moment)
    for record in workspace.ledger.translators():
        trained = (record.train_cutoff, record.config_fingerprint)
        if trained != (moment, workspace.config.fingerprint) or record.flagged is not None:
            continue
        if record.data_fingerprint == data_fingerprint(events):
            return record
    return train(workspace, as_of=moment).record


def _told(workspace: Workspace, batch: BatchRecord) -> Origin:
    """What a batch that was decided upon says of its origin."""
    users, verdict = None, batch.state.value
    if batch.state is BatchState.PUBLISHED:
        rows = workspace.lake.read(batch_ids=[batch.batch_id], columns=("user_id",))
        users = pc.count_distinct(rows["user_id"]).as_py()
    if batch.state is BatchState.REJECTED:
        verdict = NOTHING_NEW if batch.reason == NOTHING_CAME else f"refused: {batch.reason}"
    return Origin(
        as_of=batch.as_of,
        translator=batch.translator_version,
        batch_id=batch.batch_id,
        events=batch.rows,
        users=users,
        verdict=verdict,
    )


def _job(workspace: Workspace, start: str, end: str, every: str) -> Told:
    """Publish what runs in the past would have, each by a translator that knew only that past."""
    origins = backfill(
        workspace,
        start=parse_time(start, "--from"),
        end=parse_time(end, "--to"),
        every=parse_every(every),
    )
    published = sum(origin.published for origin in origins)
    if not published:
        return Told(record=origins, sentence=describe_none(origins), refused=True)
    sentence = f"{published} of {len(origins)} origins have a published batch"
    return Told(record=origins, sentence=sentence)


main = main_of("backfill", _job)

if __name__ == "__main__":
    run_stage("backfill")
