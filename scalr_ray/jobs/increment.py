"""The scheduled run: what is new since the last published batch, and nothing twice.

What is new is decided by when an event appeared (`news.py`), for each source domain against its own
watermark: one that is loaded weekly is not skipped over by one that is loaded hourly. Only
published batches move a watermark. What the gate refused is tried again once something else has
appeared; until then it would be refused again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from scalr_ray.core.errors import GateRefused
from scalr_ray.core.fingerprint import canonical_json
from scalr_ray.gate import Check
from scalr_ray.jobs.generate import Increment, describe_refusal, generate
from scalr_ray.jobs.measuring import measured
from scalr_ray.jobs.news import (
    count_news,
    describe_watermarks,
    has_changed,
    published_as_of,
    watermarks,
)
from scalr_ray.jobs.release import gate, publish, retire_replaced
from scalr_ray.jobs.train import train
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchRecord, BatchState, TranslatorRecord

NOTHING_CAME = "no synthetic event came of what is new"

# A translator can go on being used while these are as they were when it was trained.
_TRAINED_WITH = ("seed", "ids", "domains", "prior", "translator", "weights")


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a run did.

    Attributes:
        sentence: one line for a reader.
        record: the batch as it stands now; None where nothing was new.
        checks: every answer of the gate, in order; none where nothing was new.
        retired: ids of the batches that it took the place of.
    """

    sentence: str
    record: BatchRecord | None = None
    checks: tuple[Check, ...] = ()
    retired: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether there was nothing that the gate refused."""
        return self.record is None or self.record.state is not BatchState.REJECTED


def run(workspace: Workspace, as_of: datetime) -> RunOutcome:
    """Generate, audit and publish what is new as of a time, training where that is due.

    Without a published batch everybody gets events; later only users with source events that
    appeared after the watermarks get more. The newest translator is used for
    `increment.retrain_days`, whoever trained it (`translator_in_use`); then one is trained. What
    becomes of the events of an older translator is `increment.stale`.

    Args:
        workspace: an opened repository.
        as_of: T; batches that were generated as of later count as not there.

    Raises:
        GateRefused: the newest batch was refused, and nothing has changed since.
    """
    with measured(workspace):
        return _run(workspace, as_of)


def _run(workspace: Workspace, as_of: datetime) -> RunOutcome:
    _finish_interrupted(workspace)
    published = published_as_of(workspace, as_of)
    if (unchanged := _refused_as_it_stands(workspace, as_of)) is not None:
        if unchanged.rows or not published:
            raise GateRefused(describe_refusal(unchanged))
        return RunOutcome(sentence=f"nothing new since {unchanged.as_of}")
    translator = translator_in_use(workspace, published, as_of)
    if not published:
        workspace.progress.note(
            f"no batch is published yet: generate for everybody, with {_named(translator)}"
        )
        return _for_everybody(workspace, as_of, translator, replaces=())
    known = {batch.translator_version for batch in published}
    is_new = translator is None or translator.version not in known
    if is_new and workspace.config.increment.stale == "replace":
        return _replace(workspace, published, as_of, translator)
    return _add(workspace, published, translator, as_of)


def generate_since(
    workspace: Workspace,
    translator: TranslatorRecord,
    *,
    as_of: datetime,
    since: Mapping[str, datetime],
) -> BatchRecord | None:
    """Stage what comes of the source events after the watermarks; None where that is nothing.

    A batch of nothing is no failure: say all that is new are repeats, or users who need no events.
    It is set aside with the reason, and its watermarks do not count.
    """
    increment = Increment(as_of=as_of, since=since)
    batch = generate(workspace, translator=translator.version, increment=increment).record
    if batch.rows:
        return batch
    workspace.ledger.move_batch(
        batch.batch_id, expected=BatchState.STAGED, to=BatchState.REJECTED, reason=NOTHING_CAME
    )
    return None


def _add(
    workspace: Workspace,
    published: Sequence[BatchRecord],
    translator: TranslatorRecord | None,
    as_of: datetime,
) -> RunOutcome:
    """Events for what is new, beside those that are there."""
    since = watermarks(workspace, published)
    found = count_news(workspace, as_of, since)
    if not found:
        return RunOutcome(sentence=f"nothing new since {describe_watermarks(since)}")
    workspace.progress.note(
        f"{found:,} source events are new since {describe_watermarks(since)}: generate for the "
        f"users who had them, with {_named(translator)}"
    )
    if translator is None:
        translator = train(workspace, as_of=as_of).record
    batch = generate_since(workspace, translator, as_of=as_of, since=since)
    if batch is None:
        return RunOutcome(sentence=f"{NOTHING_CAME} since {describe_watermarks(since)}")
    return _release(workspace, batch)


def _replace(
    workspace: Workspace,
    published: Sequence[BatchRecord],
    as_of: datetime,
    translator: TranslatorRecord | None,
) -> RunOutcome:
    """Events for everybody by a new translator, in the place of those that are there."""
    since, newest = watermarks(workspace, published), published[0].as_of
    if not has_changed(workspace, as_of, since=since, than=newest):
        return RunOutcome(sentence=f"nothing new since {describe_watermarks(since)}")
    workspace.progress.note(
        f"generate for everybody, with {_named(translator)}, and retire {len(published)} published "
        "batches"
    )
    replaces = tuple(batch.batch_id for batch in published)
    return _for_everybody(workspace, as_of, translator, replaces=replaces)


def _for_everybody(
    workspace: Workspace,
    as_of: datetime,
    translator: TranslatorRecord | None,
    *,
    replaces: tuple[str, ...],
) -> RunOutcome:
    if translator is None:
        translator = train(workspace, as_of=as_of).record
    later = translator.train_cutoff < as_of
    batch = generate(
        workspace,
        translator=translator.version,
        increment=Increment(as_of=as_of, since={}) if later else None,
        replaces=replaces,
    ).record
    others = [other for other in replaces if other != batch.batch_id]
    # Recorded before the batch can be published, so that whoever publishes it retires the others.
    workspace.ledger.replace_batches(batch.batch_id, others)
    return _release(workspace, batch)


def _release(workspace: Workspace, batch: BatchRecord) -> RunOutcome:
    """Audit a staged batch, and publish it if the gate accepts it."""
    audited = gate(workspace, batch_id=batch.batch_id)
    checks = tuple(audited.checks)
    if not audited.accepted:
        reason = f"the gate refused the batch: {audited.record.reason}"
        return RunOutcome(sentence=reason, record=audited.record, checks=checks)
    publish(workspace, batch_id=batch.batch_id)
    retired = tuple(other.batch_id for other in workspace.ledger.replaced_by(batch.batch_id))
    return RunOutcome(
        sentence=f"{batch.batch_id} is published: {batch.rows:,} synthetic events",
        record=workspace.ledger.batch(batch.batch_id),
        checks=checks,
        retired=retired,
    )


def _finish_interrupted(workspace: Workspace) -> None:
    """Publish what an earlier run accepted last and did not come to publish; retire likewise."""
    newest = workspace.ledger.latest_batch()
    if newest is not None and newest.state is BatchState.ACCEPTED:
        workspace.progress.note(f"publish {newest.batch_id}, which was accepted and left so")
        publish(workspace, batch_id=newest.batch_id)
    for batch in workspace.ledger.batches(BatchState.PUBLISHED):
        retire_replaced(workspace, batch.batch_id)


def _refused_as_it_stands(workspace: Workspace, as_of: datetime) -> BatchRecord | None:
    """The newest batch, if it was rejected and the same configuration and data would be again."""
    batch, ledger = workspace.ledger.latest_batch(), workspace.ledger
    if batch is None or batch.state is not BatchState.REJECTED or batch.as_of > as_of:
        return None
    cutoff = ledger.translator(batch.translator_version).train_cutoff
    same = ledger.run(batch.run_id).config_fingerprint == workspace.config.fingerprint
    if not same or _is_due(workspace, cutoff, as_of):
        return None
    since = ledger.batch_watermarks(batch.batch_id)
    changed = has_changed(workspace, as_of, since=since, than=batch.as_of)
    return None if changed else batch


def translator_in_use(
    workspace: Workspace, published: Sequence[BatchRecord], as_of: datetime
) -> TranslatorRecord | None:
    """The newest translator that may be used as of a time and is not due; None: train one.

    It is that of a published batch, while what it was trained with is in force; or one of this very
    configuration that was trained since, say by hand, and of which the gate has refused nothing.
    """
    ledger, now = workspace.ledger, workspace.config.fingerprint
    known = {batch.translator_version for batch in published}
    refused = {
        batch.translator_version
        for batch in ledger.batches(BatchState.REJECTED)
        if batch.reason != NOTHING_CAME
    }
    usable = [
        record
        for record in ledger.translators()
        if record.metrics["transfers"]
        and record.flagged is None
        and record.train_cutoff <= as_of
        and not _is_due(workspace, record.train_cutoff, as_of)
        and (
            _trained_with(workspace, record)
            if record.version in known
            else record.config_fingerprint == now and record.version not in refused
        )
    ]
    return max(usable, key=lambda record: (record.train_cutoff, record.created_at), default=None)


def _named(translator: TranslatorRecord | None) -> str:
    return "a new translator" if translator is None else translator.version


def _is_due(workspace: Workspace, train_cutoff: datetime, as_of: datetime) -> bool:
    return as_of - train_cutoff >= timedelta(days=workspace.config.increment.retrain_days)


def _trained_with(workspace: Workspace, record: TranslatorRecord) -> bool:
    """Whether a translator was trained with the settings that are now in force."""
    then = workspace.ledger.run(record.run_id).config
    now = workspace.config.model_dump(mode="json")
    return all(
        canonical_json(then.get(section)) == canonical_json(now[section])
        for section in _TRAINED_WITH
    )
