"""Generation: the newest or a named translator draws a batch into the staging area."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scalr_ray.core.errors import GateRefused, UsageError
from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.core.keyed import stream_seed
from scalr_ray.generate import DrawSettings, GeneratedBatch, generate_batch, plan_users
from scalr_ray.generate.pipeline import Destination
from scalr_ray.jobs.train import load_trial
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchRecord, BatchState, TranslatorRecord
from scalr_ray.offline_store.cluster import ray_session
from scalr_ray.translator import load_translator

ANOTHER_BATCH = (
    "import newer events and train again, or change the configuration, to get another batch"
)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A staged batch.

    Attributes:
        record: its row in the ledger.
        counts: users, events and refusals.
    """

    record: BatchRecord
    counts: GeneratedBatch


def generate(workspace: Workspace, *, translator: str | None = None) -> Generated:
    """Draw synthetic events as of the translator's train cutoff and stage them.

    The batch id follows from the translator and the configuration: the same call draws the same
    events into the same batch.

    Raises:
        UsageError: there is no such translator, or its batch has been accepted already.
        GateRefused: its batch was rejected.
    """
    config, progress = workspace.config, workspace.progress
    with workspace.run("generate") as run:
        record = find_translator(workspace, translator)
        model = load_translator(Path(record.path))
        settings = draw_settings(workspace, record)
        _refuse_decided(workspace, settings.batch_id)
        with progress.stage("Pull users and their source events through Feast"):
            events = workspace.training_events(record.train_cutoff)
            plan = plan_users(
                events,
                record.train_cutoff,
                decay_events=config.weights.decay_events,
                features=workspace.features_for(record.kind, "user_id"),
            )
        destination = Destination(
            staged=workspace.lake.staging_dir(settings.batch_id),
            refused=workspace.layout.rejected / settings.batch_id,
        )
        title = "Generate synthetic events with Ray Data"
        with (
            progress.stage(title, total=plan.num_rows) as advance,
            ray_session(config.resources.cpus),
        ):
            counts = generate_batch(
                plan,
                model,
                settings,
                workspace.schema,
                to=destination,
                users_per_task=config.generation.users_per_task,
                on_progress=advance,
            )
        refused = "".join(f"; {rows:,} refused: {why}" for why, rows in counts.refused.items())
        progress.note(f"{counts.events:,} events for {counts.users:,} users{refused}")
        batch = workspace.ledger.add_batch(
            batch_id=settings.batch_id,
            run_id=run.run_id,
            translator_version=record.version,
            as_of=record.train_cutoff,
            rows=counts.events,
        )
    return Generated(record=batch, counts=counts)


def find_translator(workspace: Workspace, version: str | None) -> TranslatorRecord:
    """The translator of that version, or the newest."""
    if version is not None:
        return workspace.ledger.translator(version)
    newest = workspace.ledger.latest_translator()
    if newest is None:
        raise UsageError("there is no translator yet; run `scalr train` first")
    return newest


def describe_refusal(batch: BatchRecord) -> str:
    """Why a rejected batch was rejected, and what to do."""
    return f"{batch.batch_id} was refused by the gate ({batch.reason}); {ANOTHER_BATCH}"


def draw_settings(workspace: Workspace, record: TranslatorRecord) -> DrawSettings:
    """How a translator draws under this configuration, with the weight its trial chose."""
    config = workspace.config
    trial = load_trial(Path(record.path))
    scale = config.weights.scales[0] if trial is None else trial.weight_scale
    identity = [record.version, config.fingerprint]
    return DrawSettings(
        batch_id=f"batch-{fingerprint(identity, 16)}",
        translator_version=record.version,
        domain=config.domains.target,
        as_of=record.train_cutoff,
        per_user=config.generation.per_user,
        temperature=config.generation.temperature,
        evidence=config.generation.evidence,
        likelihood_floor=config.generation.likelihood_floor,
        weight_scale=scale,
        seed=stream_seed("generate", config.seed),
    )


def _refuse_decided(workspace: Workspace, batch_id: str) -> None:
    """What the gate has judged stays as it was judged."""
    known = {batch.batch_id: batch for batch in workspace.ledger.batches()}
    batch = known.get(batch_id)
    if batch is None or batch.state is BatchState.STAGED:
        return
    if batch.state is BatchState.ACCEPTED:
        raise UsageError(f"{batch_id} holds these events and was accepted; run `scalr publish`")
    if batch.state is BatchState.REJECTED:
        raise GateRefused(describe_refusal(batch))
    raise UsageError(f"{batch_id} has been published already with these events; {ANOTHER_BATCH}")
