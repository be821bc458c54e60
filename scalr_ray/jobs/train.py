"""Training: events as of T become a versioned translator, its strength, and its trial."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scalr_ray.core.clock import floor_day, from_micros
from scalr_ray.core.damage import refusing_damage
from scalr_ray.core.errors import DataError, RetryLater
from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.jobs import metrics, open_lineage
from scalr_ray.jobs.arms import best_prior_weight
from scalr_ray.jobs.drawing import thin_to_budget
from scalr_ray.jobs.entry import Told, main_of, run_stage
from scalr_ray.jobs.fitting import Fitted, fit
from scalr_ray.jobs.measuring import measured
from scalr_ray.jobs.surroundings import Surroundings
from scalr_ray.jobs.trial import Stage, Trial, run_trial, trainings
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.learn import Calibration, TrainingEvents
from scalr_ray.ledger import TranslatorRecord
from scalr_ray.translator import save_translator

TRIAL_NAME = "trial.json"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A translator that is on disk and in the ledger.

    Attributes:
        record: its row in the ledger.
        fitted: the translator and what validation measured.
        trial: the downstream trial; None when nothing transfers and there was nothing to try.
    """

    record: TranslatorRecord
    fitted: Fitted
    trial: Trial | None


def train(
    workspace: Workspace, *, as_of: datetime, validation_cut: datetime | None = None
) -> Trained:
    """Fit on what was visible as of `as_of`, try the result, and save both.

    The version is a fingerprint of configuration, data and cuts, so the same call gives the same
    version.

    Args:
        workspace: an opened repository.
        as_of: the train cutoff.
        validation_cut: start of the validation window; None takes the configured quantile of the
            visible target events.

    Raises:
        RetryLater: users were erased at the same time.
    """
    config, progress = workspace.config, workspace.progress
    # The run is recorded once there is something to train on.
    erased = workspace.erased.subjects
    with progress.stage("Pull translator training data through Feast"):
        events = workspace.training_events(as_of)
    with measured(workspace), workspace.run("train") as run:
        _refuse_erased_since(workspace, erased)
        cut = validation_cut or default_validation_cut(workspace, events)
        progress.note(
            f"{len(events.source):,} source and {len(events.target):,} target events of "
            f"{len(events.users):,} users; validation from {cut:%Y-%m-%d} to {as_of:%Y-%m-%d}"
        )
        stage = Stage.of(events, validation_cut=cut, cutoff=as_of, seed=config.seed)
        fitted = fit(workspace, stage)
        progress.note(describe_fit(fitted))
        progress.note(describe_calibration(fitted.calibration))
        with progress.stage("Settle the downstream model by real events alone"):
            prior_weight = best_prior_weight(stage.visible, stage.test, cut, fitted.prior)
        trial = _trial(workspace, stage, fitted) if fitted.transfers else None
        data = data_fingerprint(events)
        kind = fitted.translator.kind
        version = f"{kind}-{fingerprint([config.fingerprint, data, as_of, cut], 16)}"
        folder = workspace.layout.translators / version
        save_translator(fitted.translator, folder, without=sorted(erased))
        if trial is not None:
            text = json.dumps(trial.to_json(), indent=2)
            (folder / TRIAL_NAME).write_text(text, encoding="utf-8")
        record = workspace.ledger.add_translator(
            version=version,
            run_id=run.run_id,
            kind=kind,
            train_cutoff=as_of,
            config_fingerprint=config.fingerprint,
            data_fingerprint=data,
            metrics={**_metrics(fitted, trial), "prior_weight": prior_weight},
            path=str(folder),
        )
        open_lineage.reads(*workspace.event_folders())
        open_lineage.writes(open_lineage.folder(folder))
        rows = {"source": len(events.source), "target": len(events.target)}
        metrics.record_rows("train", rows, config.project)
        gain = fitted.chosen.gain
        metrics.record(metrics.GAIN_NATS, gain, project=config.project, translator=kind)
    return Trained(record=record, fitted=fitted, trial=trial)


def _refuse_erased_since(workspace: Workspace, erased: frozenset[str]) -> None:
    """Whoever erases users waits for runs that are under way, but knew nothing of this one."""
    if workspace.erased.subjects != erased:
        raise RetryLater("users were erased while their events were pulled; train again")


def load_trial(folder: Path) -> Trial | None:
    """The trial that was saved with a translator; None when there was none."""
    path = folder / TRIAL_NAME
    if not path.exists():
        return None
    with refusing_damage(f"the trial {path}", "run `scalr train` again"):
        return Trial.from_json(json.loads(path.read_text(encoding="utf-8")))


def default_validation_cut(workspace: Workspace, events: TrainingEvents) -> datetime:
    """The configured quantile among the visible target events, floored to the day."""
    evaluation = workspace.config.evaluation
    share = evaluation.validation_quantile / evaluation.test_quantile
    return floor_day(from_micros(int(np.quantile(events.target.times, share))))


def data_fingerprint(events: TrainingEvents) -> str:
    """sha256 over all that a training reads of the events, whatever order they came in."""
    digest = hashlib.sha256()
    for ids in (events.users, events.source_items, events.target_items, events.event_types):
        digest.update(_bytes_of(ids.ids))
    # Codes follow from the ids, and the order from times and event ids.
    for log in (events.source_log, events.target_log):
        for column in (log.users, log.items, log.types, log.times, log.known_from, log.values):
            digest.update(column.tobytes())
        digest.update(_bytes_of(log.event_ids))
    return digest.hexdigest()


def _bytes_of(ids: pa.Array) -> pa.Buffer:
    """Type, length and values, however memory holds them."""
    return pa.record_batch([ids], names=["ids"]).serialize()


def describe_fit(fitted: Fitted) -> str:
    """One line on what validation said."""
    chosen = fitted.chosen
    if not chosen.transfers:
        return (
            f"nothing transfers: the evidence gains {chosen.gain:+.4f} nats per event over "
            f"{chosen.over} (z = {chosen.z:.1f}) on {chosen.users} users it was not chosen on, so "
            "alpha is 0"
        )
    return (
        f"{fitted.translator.kind}, alpha {fitted.translator.alpha:g}: the evidence gains "
        f"{chosen.gain:+.4f} nats per event over {chosen.over} (z = {chosen.z:.1f}) on "
        f"{chosen.users} users it was not chosen on"
    )


def describe_calibration(calibration: Calibration) -> str:
    """One line on how right the likelihoods are."""
    return (
        f"likelihoods by temperature: calibration error {calibration.ece_before:.2f} to "
        f"{calibration.ece:.2f}, normalised entropy {calibration.normalised_entropy_before:.3f} to "
        f"{calibration.normalised_entropy:.3f}"
    )


def _trial(workspace: Workspace, stage: Stage, fitted: Fitted) -> Trial:
    title = "Try the events on a downstream model, on the validation window"
    with workspace.progress.stage(title, total=trainings(workspace.config)) as advance:
        trial = run_trial(
            stage,
            fitted.on_stage,
            workspace.config,
            around=_surroundings_then(workspace, stage, fitted),
            thin=thin_to_budget(workspace.config, stage.events, stage.cutoff),
            features=workspace.features_for(fitted.translator.kind, "user_id"),
            advance=advance,
        )
    workspace.progress.note(f"weight {trial.weight_scale:g}; {trial.sentence}")
    return trial


def _surroundings_then(workspace: Workspace, stage: Stage, fitted: Fitted) -> Surroundings:
    """What was known of items and users as of the validation cut, if anything was by then."""
    try:
        return Surroundings.of(workspace, fitted.on_stage, stage.validation_cut)
    except DataError as error:
        workspace.progress.note(f"the trial goes without restrictions: {error.message}")
        return Surroundings.none(fitted.on_stage)


def _metrics(fitted: Fitted, trial: Trial | None) -> dict[str, Any]:
    chosen = fitted.chosen
    return {
        "alpha": fitted.translator.alpha,
        "temperature": fitted.translator.temperature,
        "prior_windows_days": list(fitted.prior.windows_days),
        "prior_weights": list(fitted.prior.weights),
        "gain_nats": chosen.gain,
        "gain_over": chosen.over,
        "z": chosen.z,
        "transfers": chosen.transfers,
        "likelihood_nats": chosen.likelihood,
        "weight_scale": None if trial is None else trial.weight_scale,
        "calibration": asdict(fitted.calibration),
        **fitted.measured,
    }


def _job(workspace: Workspace, as_of: str | None) -> Told:
    """Train a translator, choose its strength, and try it on a downstream model."""
    trained = train(workspace, as_of=workspace.cut(as_of))
    sentence = f"{trained.record.version}: {describe_fit(trained.fitted)}"
    return Told(record=trained.record, sentence=sentence)


main = main_of("train", _job)

if __name__ == "__main__":
    run_stage("train")
