"""Release: audit a staged batch, and publish an accepted one in a single commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.errors import GateRefused, UsageError
from scalr_ray.gate import Check, Observed, audit, first_failure
from scalr_ray.generate.refining.report import RefinementReport
from scalr_ray.jobs import open_lineage
from scalr_ray.jobs.force import describe_refused, forcible, overrule, reason_of
from scalr_ray.jobs.generate import ANOTHER_BATCH
from scalr_ray.jobs.mass import events_beside, published_mass
from scalr_ray.jobs.measuring import record_checks
from scalr_ray.jobs.metrics import record_rows
from scalr_ray.jobs.train import load_trial
from scalr_ray.jobs.translators import TranslatorThen
from scalr_ray.jobs.trial import Gain
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.lake import PublishedBatch
from scalr_ray.ledger import FORCED, BatchRecord, BatchState, Finding, TranslatorRecord

_NEXT_STEP = {
    BatchState.STAGED: "run `scalr gate` first",
    BatchState.ACCEPTED: "run `scalr publish`",
}


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What the gate said.

    Attributes:
        record: the batch after the decision: accepted or rejected.
        checks: every answer, in order.
    """

    record: BatchRecord
    checks: list[Check]

    @property
    def accepted(self) -> bool:
        """Whether the batch may be published."""
        return self.record.state is BatchState.ACCEPTED


def gate(workspace: Workspace, *, batch_id: str | None = None) -> Audited:
    """Audit a staged batch and move it to accepted or rejected; both are recorded with reasons.

    Raises:
        GateRefused: it was rejected before.
        UsageError: there is no such batch, or it has been accepted before.
    """
    with workspace.run("gate"):
        batch = find_batch(workspace, batch_id, BatchState.STAGED)
        translator = workspace.ledger.translator(batch.translator_version)
        with workspace.progress.stage("Audit the staged batch"):
            checks = _checks(workspace, batch, translator)
        failure = first_failure(checks)
        record = workspace.ledger.judge_batch(
            batch.batch_id,
            findings=[
                Finding(
                    check=check.name,
                    passed=check.passed,
                    value=check.value,
                    threshold=check.threshold,
                    detail=check.detail,
                )
                for check in checks
            ],
            to=BatchState.REJECTED if failure else BatchState.ACCEPTED,
            reason=f"{failure.name}: {failure.detail}" if failure else None,
        )
        project = workspace.config.project
        open_lineage.reads(open_lineage.batch(project, batch.batch_id, checks=checks))
        record_checks(checks, project, accepted=failure is None)
    return Audited(record=record, checks=checks)


def publish(
    workspace: Workspace, *, batch_id: str | None = None, force: bool = False, why: str = ""
) -> PublishedBatch:
    """Make an accepted batch visible to Feast in one commit; repeating it changes nothing.

    The batches that it takes the place of are retired afterwards.

    Args:
        workspace: an opened repository.
        batch_id: the batch; None takes the newest, unless it is to be forced.
        force: overrule a gate that refused it for what its events are worth.
        why: it is overruled, for the ledger.

    Raises:
        GateRefused: the batch was rejected, and is not to be forced or cannot be.
        UsageError: there is no such batch, it has not been through the gate, or it is to be forced
            and was not refused, or for no reason.
        RetryLater: it is to be forced while `scalr gc` is under way.
    """
    _refuse_idle_reason(force=force, why=why)
    with workspace.run("publish") as run:
        if force:
            batch = overrule(workspace, batch_id, why, run.run_id)
            run.metrics[FORCED] = {"batch": batch.batch_id, "why": batch.reason}
        else:
            batch = find_batch(workspace, batch_id, BatchState.ACCEPTED)
        with workspace.progress.stage("Publish in one Iceberg commit"):
            published = workspace.lake.publish(batch.batch_id)
            if batch.state is BatchState.ACCEPTED:
                workspace.ledger.move_batch(
                    batch.batch_id,
                    expected=BatchState.ACCEPTED,
                    to=BatchState.PUBLISHED,
                    reason=reason_of(workspace, batch.batch_id),
                    snapshot_id=published.snapshot_id,
                )
        retire_replaced(workspace, batch.batch_id)
        project = workspace.config.project
        table = open_lineage.table(workspace.layout, workspace.schema, rows=published.rows)
        open_lineage.reads(open_lineage.batch(project, batch.batch_id))
        open_lineage.writes(table)
        record_rows("publish", {"events": published.rows}, project)
    return published


def preview(
    workspace: Workspace, *, batch_id: str | None = None, force: bool = False, why: str = ""
) -> dict[str, Any]:
    """What `publish` would do, found out without changing anything.

    Returns:
        What the lake would show (`SyntheticEventLake.publish_preview`), the batches that would
        be retired, and of one that is to be forced what the ledger would say of it.

    Raises:
        GateRefused, UsageError: as `publish`.
    """
    _refuse_idle_reason(force=force, why=why)
    told: dict[str, Any] = {}
    if force:
        batch, told["forced"] = forcible(workspace, batch_id, why)
    else:
        batch = find_batch(workspace, batch_id, BatchState.ACCEPTED)
    replaced = workspace.ledger.replaced_by(batch.batch_id)
    retired = [other.batch_id for other in replaced if other.state is BatchState.PUBLISHED]
    return {**workspace.lake.publish_preview(batch.batch_id), "retires": retired, **told}


def retire_replaced(workspace: Workspace, batch_id: str) -> None:
    """Retire the published batches that a published batch takes the place of.

    Each is taken out of the table first and then noted in the ledger, so that a crash in between
    leaves something to be repeated here, and a crash before leaves too many events, never too few.
    """
    for batch in workspace.ledger.replaced_by(batch_id):
        if batch.state is not BatchState.PUBLISHED:
            continue
        with workspace.progress.stage(f"Retire {batch.batch_id}, which {batch_id} replaces"):
            if batch.batch_id in workspace.lake.published_batches():
                workspace.lake.retire(batch.batch_id)
            workspace.ledger.move_batch(
                batch.batch_id,
                expected=BatchState.PUBLISHED,
                to=BatchState.RETIRED,
                reason=f"replaced by {batch_id}",
            )


def find_batch(workspace: Workspace, batch_id: str | None, state: BatchState) -> BatchRecord:
    """The batch of that id, or the newest; it must be in `state`, or for publishing be published.

    Raises:
        GateRefused: it was rejected.
        UsageError: there is none, or it is in another state.
    """
    ledger = workspace.ledger
    batch = ledger.latest_batch() if batch_id is None else ledger.batch(batch_id)
    if batch is None:
        raise UsageError("there is no batch yet; run `scalr generate` first")
    done = state is BatchState.ACCEPTED and batch.state is BatchState.PUBLISHED
    if batch.state is state or done:
        return batch
    if batch.state is BatchState.REJECTED:
        raise GateRefused(describe_refused(workspace, batch))
    step = _NEXT_STEP.get(batch.state, ANOTHER_BATCH)
    raise UsageError(f"{batch.batch_id} is {batch.state.value}, not {state.value}; {step}")


def _refuse_idle_reason(*, force: bool, why: str) -> None:
    if why and not force:
        raise UsageError("--why says why the gate is overruled: it goes with --force")


def _checks(workspace: Workspace, batch: BatchRecord, translator: TranslatorRecord) -> list[Check]:
    settings = workspace.config.gate
    then = TranslatorThen.of(workspace, translator, batch.as_of)
    model = then.translator
    adds = workspace.ledger.run(batch.run_id).metrics.get("adds", False)
    observed = Observed(
        as_of=batch.as_of,
        source=workspace.source_events(batch.as_of),
        target=workspace.target_events(batch.as_of),
        item_ids=model.target_items.ids,
        prior=np.exp(model.log_prior.astype(np.float64)),
        first_known=then.first_known,
        published=(
            events_beside(workspace, batch.batch_id, batch.as_of, ("user_id", "item_id"))
            if adds
            else None
        ),
    )
    staged = (
        workspace.lake.read_staged(batch.batch_id) if batch.rows else workspace.schema.empty_table()
    )
    checks = audit(
        staged,
        observed,
        batch_id=batch.batch_id,
        max_psi=settings.max_psi,
        max_mass_frac=settings.max_mass_frac,
        published_mass=published_mass(workspace, batch.batch_id, batch.as_of),
        refinement=_refinement(workspace, batch),
    )
    checks.append(_erased_check(workspace, staged))
    if settings.require_lift:
        checks += _lift_checks(translator, settings.min_gain_nats)
    return checks


def _erased_check(workspace: Workspace, staged: pa.Table) -> Check:
    """No row may be of a user who was erased, say by a generation that was under way then."""
    marked = pc.sum(workspace.erased.marks(staged["user_id"])).as_py() or 0
    return Check(
        name="erased",
        passed=not marked,
        value=float(marked),
        threshold=0.0,
        detail=f"{marked:,} rows of users who were erased",
    )


def _refinement(workspace: Workspace, batch: BatchRecord) -> RefinementReport | None:
    """What was found when the batch was refined; None where it was not, or not recorded."""
    saved = workspace.ledger.run(batch.run_id).metrics.get("refinement")
    return None if saved is None else RefinementReport.from_json(saved)


def _lift_checks(translator: TranslatorRecord, least_gain: float) -> list[Check]:
    """Does the evidence transfer, and does the trial speak for the events?"""
    gain, z = float(translator.metrics["gain_nats"]), float(translator.metrics["z"])
    over = translator.metrics.get("gain_over", "the prior")
    transfers = bool(translator.metrics["transfers"])
    checks = [
        Check(
            name="transfer",
            passed=transfers,
            value=z,
            threshold=1.96,
            detail=f"the evidence gains {gain:+.4f} nats per held-out event over {over} "
            f"(z = {z:.1f})"
            + ("" if transfers else f"; nothing transfers{_by_kind(translator.kind)}"),
        )
    ]
    trial = load_trial(Path(translator.path))
    if trial is None:
        return checks
    focus = trial.focus
    if focus not in trial.over_real:
        few = "the trial has too few users to tell; import more events or move the cuts"
        return [*checks, Check(name="trial_gain", passed=False, detail=few)]
    harmed = [name for name, gain in trial.over_real.items() if gain.high < 0]
    return [
        *checks,
        _gain_check("trial_gain", trial.over_real[focus], f"{focus} users, over real events alone"),
        Check(
            name="trial_size",
            passed=trial.over_real[focus].estimate >= least_gain,
            value=trial.over_real[focus].estimate,
            threshold=least_gain,
            detail=f"{focus} users gain {trial.over_real[focus].estimate:+.3f} nats per event; a "
            "smaller gain than the threshold does not reach the top of a ranking",
        ),
        _gain_check("trial_placebo", trial.over_placebo[focus], f"{focus} users, over a placebo"),
        Check(
            name="trial_harm",
            passed=not harmed,
            detail=f"the downstream model loses for {', '.join(harmed)} users"
            if harmed
            else f"no segment of users surely loses{trial.cost_to_warm}",
        ),
    ]


def _by_kind(kind: str) -> str:
    """What else to try, as the end of a sentence; on real logs a network found more than counts."""
    if kind != "frequency":
        return ""
    return " by counts of pairs; a network may see more: train with `--translator neural`"


def _gain_check(name: str, gain: Gain, what: str) -> Check:
    return Check(
        name=name,
        passed=gain.low > 0,
        value=gain.low,
        threshold=0.0,
        detail=f"{what}: {gain}",
    )
