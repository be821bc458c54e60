"""Generation: the newest or a named translator draws a batch into the staging area."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from scalr_ray.core.clock import EPOCH, from_micros, to_micros
from scalr_ray.core.config import ScalrConfig
from scalr_ray.core.duck import duck, quote_text
from scalr_ray.core.errors import GateRefused, UsageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP
from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.generate import (
    AboutUsers,
    BucketRules,
    Destination,
    DrawTask,
    GeneratedBatch,
    bucket_events,
    draw_batch,
    fit_refinement,
    known,
    refine_batch,
    wanted_rows,
    work_folder,
)
from scalr_ray.jobs import metrics, open_lineage
from scalr_ray.jobs.drawing import (
    decays,
    draw_settings,
    observed_target,
    plan_rules,
    refine_settings,
)
from scalr_ray.jobs.entry import Told, main_of, run_stage
from scalr_ray.jobs.mass import published_mass, refuse_without_room
from scalr_ray.jobs.measuring import measured
from scalr_ray.jobs.surroundings import Surroundings, served_features
from scalr_ray.jobs.train import load_trial
from scalr_ray.jobs.translators import TranslatorThen
from scalr_ray.jobs.vanished import vanished_items
from scalr_ray.jobs.workspace import SOURCE_VIEW, SYNTHETIC_VIEW, TARGET_VIEW, Workspace
from scalr_ray.ledger import BatchRecord, BatchState, TranslatorRecord
from scalr_ray.offline_store.cluster import ray_session
from scalr_ray.offline_store.event_stream import EventStream, query
from scalr_ray.translator import Translator

if TYPE_CHECKING:  # that one loads torch
    from scalr_ray.translator.neural.index import ItemIndex

_RECALL_USERS = 200

ANOTHER_BATCH = (
    "import newer events and train again, or change the configuration, to get another batch"
)


@dataclass(frozen=True, kw_only=True)
class Increment:
    """What a batch adds to those before it.

    Attributes:
        as_of: the generation time, at or after the train cutoff of the translator.
        since: watermark by source domain; only events that appeared later trigger anything. All
            events of a domain that is not named do.
    """

    as_of: datetime
    since: Mapping[str, datetime]


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A staged batch.

    Attributes:
        record: its row in the ledger.
        counts: users, events and refusals.
    """

    record: BatchRecord
    counts: GeneratedBatch


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Which batch is drawn: everything that its id follows from.

    Attributes:
        record: the translator that draws it.
        as_of: the generation time.
        since: watermarks, where it adds to others.
        scale: weight of an event of a user without target history.
        decay_events: how fast the weight falls with history.
        batch_id: the same for the same translator, configuration, time and watermarks.
    """

    record: TranslatorRecord
    as_of: datetime
    since: Mapping[str, datetime] | None
    scale: float
    decay_events: float
    batch_id: str

    @classmethod
    def of(
        cls, workspace: Workspace, record: TranslatorRecord, increment: Increment | None
    ) -> _Batch:
        config, trial = workspace.config, load_trial(Path(record.path))
        identity: list[object] = [record.version, config.fingerprint]
        as_of, since = record.train_cutoff, None
        if increment is not None:
            as_of, since = increment.as_of, dict(increment.since)
            identity += [as_of, sorted(since.items())]
        if as_of < record.train_cutoff:
            raise UsageError(
                f"{record.version} was trained as of {record.train_cutoff}, after {as_of}; "
                "generate as of then or later"
            )
        return cls(
            record=record,
            as_of=as_of,
            since=since,
            scale=min(config.weights.scales) if trial is None else trial.weight_scale,
            decay_events=min(decays(config)) if trial is None else trial.decay_events,
            batch_id=f"batch-{fingerprint(identity, 16)}",
        )


def generate(
    workspace: Workspace,
    *,
    translator: str | None = None,
    increment: Increment | None = None,
    replaces: Sequence[str] = (),
) -> Generated:
    """Draw synthetic events as of the translator's train cutoff, or an increment, and stage them.

    The batch id follows from the translator, the configuration and the increment: the same call
    draws the same events into the same batch. Under `weights.mass_frac` they weigh what the
    published ones leave them.

    Args:
        workspace: an opened repository.
        translator: a version; None: the newest that may be used.
        increment: what the batch adds to others; None: it is for everybody.
        replaces: all published batches, where it will take their place: neither their mass counts
            nor what they proposed.

    Raises:
        UsageError: there is no such translator, or its batch has been accepted already.
        MassReached: the published events weigh as much as all may.
        GateRefused: its batch was rejected.
    """
    progress = workspace.progress
    started = time.perf_counter()
    with measured(workspace), workspace.run("generate") as run:
        record = find_translator(workspace, translator)
        batch = _Batch.of(workspace, record, increment)
        _refuse_decided(workspace, batch.batch_id)
        published = _mass_there(workspace, batch, replaces)
        beside = batch.since is not None and not replaces
        drawn = _draw(workspace, batch, published, beside=beside)
        run.metrics.update(drawn.report)
        counts = drawn.counts
        refused = "".join(f"; {rows:,} refused: {why}" for why, rows in counts.refused.items())
        progress.note(f"{counts.events:,} events for {counts.users:,} users{refused}")
        staged = workspace.ledger.add_batch(
            batch_id=batch.batch_id,
            run_id=run.run_id,
            translator_version=record.version,
            as_of=batch.as_of,
            rows=counts.events,
        )
        workspace.ledger.set_watermarks(batch.batch_id, drawn.watermarks)
        shutil.rmtree(workspace.layout.generation / batch.batch_id)
        _record(workspace, batch, drawn, time.perf_counter() - started)
    return Generated(record=staged, counts=counts)


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """What became of a batch: its counts, how far it saw each source domain, what was found."""

    counts: GeneratedBatch
    watermarks: Mapping[str, datetime]
    report: Mapping[str, Any]


def _record(workspace: Workspace, batch: _Batch, drawn: _Drawn, seconds: float) -> None:
    """Tell OpenLineage and Prometheus of a staged batch."""
    project, counts, likelihood = workspace.config.project, drawn.counts, drawn.report["likelihood"]
    open_lineage.reads(*workspace.event_folders(), open_lineage.folder(batch.record.path))
    open_lineage.writes(open_lineage.batch(project, batch.batch_id, rows=counts.events))
    refused = sum(counts.refused.values())
    made = {"events": counts.events, "users": counts.users, "refused": refused}
    metrics.record_rows("generate", made, project)
    rate = counts.events / seconds
    metrics.record(metrics.ROWS_PER_SECOND, rate, project=project, stage="generate")
    if likelihood is not None:
        metrics.record(metrics.LIKELIHOOD, likelihood, project=project)


def _mass_there(workspace: Workspace, batch: _Batch, replaces: Sequence[str]) -> float:
    """How much the published events weigh that the batch comes beside; 0 where no bound asks."""
    mass_frac = workspace.config.weights.mass_frac
    if mass_frac is None:
        return 0.0
    published = published_mass(workspace, batch.batch_id, batch.as_of, replaces=replaces)
    if published:
        real = _first_of_pairs(workspace.target_events(batch.as_of)).num_rows
        refuse_without_room(published, real_events=real, mass_frac=mass_frac)
    return published


def _first_of_pairs(target: pa.Table) -> pa.Table:
    """The first event of each user and item."""
    pairs = target.group_by(["user_id", "item_id"]).aggregate([(EVENT_TIMESTAMP, "min")])
    return pairs.rename_columns(["user_id", "item_id", EVENT_TIMESTAMP])


def _draw(workspace: Workspace, batch: _Batch, published: float, *, beside: bool) -> _Drawn:
    """Bucket the users, draw for them, refine what was drawn, and stage it."""
    config, progress = workspace.config, workspace.progress
    then = TranslatorThen.of(workspace, batch.record, batch.as_of)
    model = then.translator
    source, target = (workspace.stream(view, batch.as_of) for view in (SOURCE_VIEW, TARGET_VIEW))
    around = Surroundings.of(workspace, model, batch.as_of)
    taken = None
    if beside:
        taken = workspace.stream(SYNTHETIC_VIEW, batch.as_of)
    with ray_session(config.resources.cpus):
        with progress.stage("Bring the events of each user together"):
            seen = _contents(source, config.domains.source)
            gone = vanished_items(source, target, model, config.domains.target, new=then.new)
            # What an earlier try left is used if it was made of the same events.
            others = [_contents(side, ()) for side in (target, taken) if side is not None]
            parts = [batch.batch_id, repr(seen), repr(others)]
            if then.new.any():  # codes that were drawn mean nothing under other items
                parts.append(model.target_items.fingerprint)
            identity = fingerprint(parts, 16)
            work = work_folder(workspace.layout.generation / batch.batch_id, identity)
            buckets = bucket_events(
                source,
                target,
                BucketRules(
                    ids=config.ids,
                    as_of=batch.as_of,
                    source_domains=config.domains.source,
                    target_domain=config.domains.target,
                    history_events=config.generation.history_events,
                    users_per_bucket=config.generation.users_per_task,
                ),
                work / "buckets",
                taken=taken,
                about=_about(workspace, around, batch),
            )
        progress.note(
            f"{buckets.counts.users:,} users with {buckets.counts.source_events:,} source events"
        )
        if gone.any():
            progress.note(f"{int(gone.sum()):,} items have no event any more and are not proposed")
        if buckets.counts.left_out:
            progress.note(
                f"{buckets.counts.left_out:,} events left out, of users with more than "
                f"{config.generation.history_events:,} newer ones in a domain"
            )
        task = DrawTask(
            buckets=buckets,
            translator=model,
            rules=plan_rules(
                config,
                batch.as_of,
                decay_events=batch.decay_events,
                since=None if batch.since is None else _micros(batch.since),
            ),
            settings=draw_settings(
                config,
                batch_id=batch.batch_id,
                version=batch.record.version,
                as_of=batch.as_of,
                label="generate",
            ),
            schema=workspace.schema,
            catalogue=around.catalogue.without(gone),
            index=_index(config, model),
        )
        return _draw_and_refine(workspace, batch, task, around, work, seen, published)


def _draw_and_refine(
    workspace: Workspace,
    batch: _Batch,
    task: DrawTask,
    around: Surroundings,
    work: Path,
    seen: Mapping[str, _Content],
    published: float,
) -> _Drawn:
    config, progress, users = workspace.config, workspace.progress, task.buckets.counts.users
    if config.generation.budget is not None:
        with progress.stage("Count what users would get, to keep to the budget"):
            thin = min(1.0, config.generation.budget / max(wanted_rows(task), 1))
        task = replace(task, rules=replace(task.rules, thin=thin))
    destination = Destination(
        staged=work / "staged",
        refused=workspace.layout.rejected / batch.batch_id,
    )
    report: dict[str, Any] = {"adds": batch.since is not None}
    if task.index is not None:
        with progress.stage("Hold the index of items against a look at all"):
            report["index_recall"] = _recall(task, task.index)
        progress.note(f"the index finds {report['index_recall']:.1%} of the likeliest items")
    with progress.stage("Generate synthetic events with Ray Data", total=users) as advance:
        drawn = draw_batch(
            task,
            work / "drawn",
            also_room_in=workspace.lake.local_folders,
            on_progress=advance,
        )
    with progress.stage("Hold them against the target domain"):
        real = _first_of_pairs(workspace.target_events(batch.as_of))
        refinement, found = fit_refinement(
            drawn.paths,
            observed_target(
                real,
                task.translator,
                around.item_values,
                served_features(workspace, batch.record.kind),
            ),
            refine_settings(config, as_of=batch.as_of, scale=batch.scale, published_mass=published),
        )
    for sentence in found.sentences:
        progress.note(sentence)
    with progress.stage("Weigh and stage them", total=users) as advance:
        counts = refine_batch(
            drawn, refinement, workspace.schema, to=destination, on_progress=advance
        )
        report["likelihood"] = _mean_likelihood(destination.staged)
        workspace.lake.stage(batch.batch_id, destination.staged)
    return _Drawn(
        counts=counts,
        watermarks={domain: content.appeared for domain, content in seen.items()},
        report={**report, "refinement": found.to_json(), **asdict(counts)},
    )


def _mean_likelihood(staged: Path) -> float | None:
    """Over the events of a folder of Parquet files, negatives apart; None where there are none."""
    if not any(staged.glob("*.parquet")):
        return None
    files = quote_text(f"{staged}/*.parquet")
    query_text = f"SELECT avg(likelihood) FROM read_parquet({files}) WHERE label > 0"
    with duck() as session:
        found = session.execute(query_text).fetchone()
    return None if found is None else found[0]


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What a domain of an event view holds.

    Attributes:
        events: how many are visible.
        digest: of their ids and times.
        appeared: the largest time from which one of them is visible.
    """

    events: int
    digest: int
    appeared: datetime


def _contents(stream: EventStream, domains: Sequence[str]) -> dict[str, _Content]:
    """What is in the domains, or in all that there are, by domain."""
    counted = query(
        stream,
        f"""
        SELECT domain, count(*) AS events,
            bit_xor(hash(event_id, {EVENT_TIMESTAMP}, {AVAILABLE_AT})) AS digest,
            max(greatest(epoch_us({EVENT_TIMESTAMP}) + 1, epoch_us({AVAILABLE_AT}))) AS appeared
        FROM {{events}} GROUP BY domain ORDER BY domain
        """,
    )
    found: dict[str, _Content] = {}
    for row in counted.to_pylist():
        if domains and row["domain"] not in domains:
            continue
        # On a cluster each piece tells of its own rows.
        before = found.get(row["domain"])
        found[row["domain"]] = _Content(
            events=row["events"] + (before.events if before else 0),
            digest=row["digest"] ^ (before.digest if before else 0),
            appeared=max(from_micros(row["appeared"]), before.appeared if before else EPOCH),
        )
    return found


def _about(workspace: Workspace, around: Surroundings, batch: _Batch) -> AboutUsers | None:
    """What is asked of users beside their events; None where that is nothing."""
    features = workspace.features_for(batch.record.kind, "user_id")
    if features is None and not around.asks_users:
        return None

    def about(users: pa.Array) -> pa.Table:
        times = np.full(len(users), to_micros(batch.as_of))
        told: dict[str, pa.Array] = {}
        if around.asks_users:
            groups, consents = around.about(users, times)
            told |= {"group": pa.array(groups), "consent": pa.array(consents)}
        if features is not None:
            served = features(users, times).to_struct_array()
            told["features"] = (
                served.combine_chunks() if isinstance(served, pa.ChunkedArray) else served
            )
        return pa.table(told)

    return about


def _index(config: ScalrConfig, translator: Translator) -> ItemIndex | None:
    if config.generation.index == "exact":
        return None
    from scalr_ray.translator.neural.index import ItemIndex

    return ItemIndex.of(translator)


def _recall(task: DrawTask, index: ItemIndex) -> float:
    """The share of the likeliest items that the index finds, over some users of the batch."""
    for bucket in range(task.buckets.counts.buckets):
        plan = task.plan(bucket).plan.slice(0, _RECALL_USERS)
        if plan.num_rows:
            return index.recall(known(plan, task.settings.as_of), task.settings.candidates)
    return 1.0


def _micros(since: Mapping[str, datetime]) -> dict[str, int]:
    return {domain: to_micros(moment) for domain, moment in since.items()}


def find_translator(workspace: Workspace, version: str | None) -> TranslatorRecord:
    """The translator of that version, or the newest that may be used.

    Raises:
        UsageError: there is none, or it must be trained again first.
    """
    if version is not None:
        named = workspace.ledger.translator(version)
        if named.flagged is not None:
            raise UsageError(f"{version} may not be used: {named.flagged}; run `scalr train`")
        return named
    records = workspace.ledger.translators()
    if not records:
        raise UsageError("there is no translator yet; run `scalr train` first")
    for record in records:
        if record.flagged is None:
            return record
    raise UsageError(f"no translator may be used: {records[0].flagged}; run `scalr train`")


def describe_refusal(batch: BatchRecord) -> str:
    """Why a rejected batch was rejected, and what to do."""
    return f"{batch.batch_id} was refused by the gate ({batch.reason}); {ANOTHER_BATCH}"


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


def _job(workspace: Workspace, translator: str | None) -> Told:
    """Draw a batch of synthetic events and stage it, invisible to Feast."""
    batch = generate(workspace, translator=translator).record
    sentence = f"{batch.batch_id} is staged: {batch.rows:,} synthetic events"
    return Told(record=batch, sentence=sentence)


main = main_of("generate", _job)

if __name__ == "__main__":
    run_stage("generate")
