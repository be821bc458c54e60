"""Training: events as of T become a versioned translator, its strength, and its trial."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from scalr_ray.core.clock import floor_day, from_micros
from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.jobs.trial import Trial, run_trial, trainings
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.learn import FittedTranslator, Grid, TrainingEvents, fit_translator
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
    fitted: FittedTranslator
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
    """
    config, progress = workspace.config, workspace.progress
    # The run is recorded once there is something to train on.
    with progress.stage("Pull translator training data through Feast"):
        events = workspace.training_events(as_of)
    with workspace.run("train") as run:
        cut = validation_cut or default_validation_cut(workspace, events)
        progress.note(
            f"{len(events.source):,} source and {len(events.target):,} target events of "
            f"{len(events.users):,} users; validation from {cut:%Y-%m-%d} to {as_of:%Y-%m-%d}"
        )
        with progress.stage("Fit the translator on the validation window"):
            fitted = fit_translator(
                events,
                validation_cut=cut,
                cutoff=as_of,
                grid=_grid(workspace),
                seed=config.seed,
            )
        progress.note(describe_fit(fitted))
        trial = _trial(workspace, events, fitted, cut, as_of) if fitted.transfers else None
        data = data_fingerprint(events)
        version = f"frequency-{fingerprint([config.fingerprint, data, as_of, cut], 16)}"
        folder = workspace.layout.translators / version
        save_translator(fitted.translator, folder)
        if trial is not None:
            text = json.dumps(trial.to_json(), indent=2)
            (folder / TRIAL_NAME).write_text(text, encoding="utf-8")
        record = workspace.ledger.add_translator(
            version=version,
            run_id=run.run_id,
            kind="frequency",
            train_cutoff=as_of,
            config_fingerprint=config.fingerprint,
            data_fingerprint=data,
            metrics=_metrics(fitted, trial),
            path=str(folder),
        )
    return Trained(record=record, fitted=fitted, trial=trial)


def load_trial(folder: Path) -> Trial | None:
    """The trial that was saved with a translator; None when there was none."""
    path = folder / TRIAL_NAME
    if not path.exists():
        return None
    return Trial.from_json(json.loads(path.read_text(encoding="utf-8")))


def default_validation_cut(workspace: Workspace, events: TrainingEvents) -> datetime:
    """The configured quantile among the visible target events, floored to the day."""
    evaluation = workspace.config.evaluation
    share = evaluation.validation_quantile / evaluation.test_quantile
    return floor_day(from_micros(int(np.quantile(events.target.times, share))))


def data_fingerprint(events: TrainingEvents) -> str:
    """sha256 over the ids of all events, in order."""
    digest = hashlib.sha256()
    for side in (events.source, events.target):
        for event_id in sorted(side.event_ids.to_pylist()):
            digest.update(f"{event_id}\n".encode())
    return digest.hexdigest()


def describe_fit(fitted: FittedTranslator) -> str:
    """One line on what validation said."""
    if not fitted.transfers:
        return (
            f"nothing transfers: the evidence gains {fitted.gain:+.4f} nats per event (z = "
            f"{fitted.z:.1f}) on {fitted.users} users it was not chosen on, so alpha is 0"
        )
    strength = fitted.translator.strength
    return (
        f"alpha {strength.alpha:g}, shrinkage {strength.shrinkage:g}: the evidence gains "
        f"{fitted.gain:+.4f} nats per event (z = {fitted.z:.1f}) on {fitted.users} users "
        "it was not chosen on"
    )


def _grid(workspace: Workspace) -> Grid:
    config = workspace.config
    return Grid(
        shrinkages=config.translator.shrinkages,
        alphas=config.translator.alphas,
        window_days=config.prior.window_days,
        background=config.prior.background,
    )


def _trial(
    workspace: Workspace,
    events: TrainingEvents,
    fitted: FittedTranslator,
    cut: datetime,
    as_of: datetime,
) -> Trial:
    title = "Try the events on a downstream model, on the validation window"
    with workspace.progress.stage(title, total=trainings(workspace.config)) as advance:
        trial = run_trial(
            events,
            fitted.translator.strength,
            workspace.config,
            validation_cut=cut,
            cutoff=as_of,
            advance=advance,
        )
    workspace.progress.note(f"weight {trial.weight_scale:g}; {trial.sentence}")
    return trial


def _metrics(fitted: FittedTranslator, trial: Trial | None) -> dict[str, Any]:
    strength = fitted.translator.strength
    return {
        "alpha": strength.alpha,
        "shrinkage": strength.shrinkage,
        "temperature": strength.temperature,
        "window_days": strength.window_days,
        "gain_nats": fitted.gain,
        "z": fitted.z,
        "transfers": fitted.transfers,
        "weight_scale": None if trial is None else trial.weight_scale,
    }
