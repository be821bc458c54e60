"""From events to a fitted translator of the configured kind.

Every kind starts from the same prior and is judged on the same users of the validation window. The
trial afterwards needs a translator that never saw what the stripped users did: a table is recounted
without them; a network, which takes long to train, learns without them from the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.jobs.counting import counting_of
from scalr_ray.jobs.progress import Tell
from scalr_ray.jobs.trial import Stage
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.learn import (
    Calibration,
    Chosen,
    Grid,
    calibration,
    fit_prior,
    fit_translator,
    mean_likelihood,
    translator_as_of,
    validation_window,
)
from scalr_ray.offline_store.cluster import ray_session
from scalr_ray.offline_store.store import engine_of
from scalr_ray.translator import Translator
from scalr_ray.translator.prior_mix import PriorMix

if TYPE_CHECKING:
    from scalr_ray.learn.neural.fit import NeuralFit
    from scalr_ray.learn.neural.loop import EpochReport
    from scalr_ray.learn.neural.pace import Progress
    from scalr_ray.learn.neural.task import OnEpoch, TrainedNet, TrainingTask


@dataclass(frozen=True, kw_only=True)
class _FittedKind:
    """A translator of one kind, and what validation measured.

    Attributes:
        translator: up to the train cutoff, at the chosen strength.
        on_stage: as of the validation cut, from what the trial's stage leaves visible.
        chosen: what the validation window said.
        prior: what it starts from.
        measured: more for the ledger, by name.
    """

    translator: Translator
    on_stage: Translator
    chosen: Chosen[Any]
    prior: PriorMix
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def transfers(self) -> bool:
        """Whether the evidence helps on users it was not chosen on, at 95 %."""
        return self.chosen.transfers


@dataclass(frozen=True, kw_only=True)
class Fitted(_FittedKind):
    """The translator that is used.

    Attributes:
        calibration: how right its likelihoods are on the validation window.
    """

    calibration: Calibration


def fit(workspace: Workspace, stage: Stage) -> Fitted:
    """Choose the prior, and fit a translator of the configured kind on top of it."""
    with workspace.progress.stage("Weigh the look-backs of the prior"):
        prior = prior_of(workspace, stage)
    kind = workspace.config.translator.kind
    kinds = {"frequency": _frequency, "neural": _neural}
    wanted = kinds.values() if kind == "auto" else [kinds[kind]]
    tried = [fit_kind(workspace, stage, prior) for fit_kind in wanted]
    # All on the same users, of whom the same is known.
    window = validation_window(
        stage.events,
        stage.validation_cut,
        stage.cutoff,
        workspace.config.seed,
        known=stage.visible,
        features=workspace.features_for(tried[-1].translator.kind, "user_id"),
    )
    best = max(tried, key=lambda fitted: mean_likelihood(fitted.on_stage, window))
    return Fitted(**vars(best), calibration=calibration(best.on_stage, window))


def prior_of(workspace: Workspace, stage: Stage) -> PriorMix:
    """The configured prior, or the one that predicts the validation window best."""
    settings = workspace.config.prior
    if settings.window_days != "auto":
        return PriorMix.recent(window_days=settings.window_days, background=settings.background)
    return fit_prior(stage.events, stage.validation_cut, stage.cutoff)


def _frequency(workspace: Workspace, stage: Stage, prior: PriorMix) -> _FittedKind:
    config, counting = workspace.config, counting_of(workspace, stage.cutoff)
    with workspace.progress.stage("Fit the frequency translator on the validation window"):
        fitted = fit_translator(
            stage.events,
            validation_cut=stage.validation_cut,
            cutoff=stage.cutoff,
            grid=Grid(
                shrinkages=config.translator.shrinkages,
                alphas=config.translator.alphas,
                counting=counting,
            ),
            mix=prior,
            seed=config.seed,
        )
        strength = fitted.translator.strength
        on_stage = translator_as_of(
            stage.visible,
            stage.validation_cut,
            strength=strength,
            mix=prior,
            counting=counting,
        )
    return _FittedKind(
        translator=fitted.translator,
        on_stage=on_stage,
        chosen=fitted.chosen,
        prior=prior,
        measured={"shrinkage": strength.shrinkage},
    )


def neural_fit(workspace: Workspace, prior: PriorMix) -> NeuralFit:
    """What a neural fit is told under the configuration."""
    from scalr_ray.learn.neural.fit import NeuralFit

    config = workspace.config
    return NeuralFit(
        mix=prior,
        alphas=config.translator.alphas,
        settings=config.translator.neural,
        seed=config.seed,
        user_features=workspace.features_for("neural", "user_id"),
        item_features=workspace.features_for("neural", "item_id"),
    )


def ray_fit(workspace: Workspace, prior: PriorMix) -> NeuralFit:
    """The same for nets that Ray Train trains, if any: their rows may be made on a cluster."""
    how, workers = neural_fit(workspace, prior), workspace.config.translator.neural.workers
    return how if workers == 0 else replace(how, engine=engine_of(workspace.store.config))


def _neural(workspace: Workspace, stage: Stage, prior: PriorMix) -> _FittedKind:
    from scalr_ray.learn.neural.fit import fit_neural

    trainings, how = _Trainings(workspace, prior), ray_fit(workspace, prior)
    session: AbstractContextManager[None] = nullcontext()
    if how.engine is not None and how.engine.takes_cluster(stage.events.count):
        # The rows of a training stay in the session in which they were made.
        session = ray_session(workspace.config.resources.cpus)
    with session:
        fitted = fit_neural(
            stage.events,
            validation_cut=stage.validation_cut,
            cutoff=stage.cutoff,
            how=how,
            hidden=stage.hidden,
            train=trainings.train,
            on_epoch=partial(_note_epoch, workspace),
        )
    return _FittedKind(
        translator=fitted.translator,
        on_stage=fitted.at_validation,
        chosen=fitted.chosen,
        prior=prior,
        measured={"trainings": trainings.measured},
    )


class _Trainings:
    """Trains the nets of a fit where the configuration says, and tells of it.

    Attributes:
        measured: what each training took, by its name.
    """

    def __init__(self, workspace: Workspace, prior: PriorMix) -> None:
        self.measured: dict[str, Any] = {}
        self._workspace, self._prior = workspace, prior
        self._told: set[str] = set()

    def train(self, task: TrainingTask, on_epoch: OnEpoch) -> TrainedNet:
        """Train; what it took is kept."""
        progress = self._workspace.progress
        for line in task.shape.left_out:
            if line not in self._told:
                self._told.add(line)
                progress.note(line)
        title = f"Train the neural translator ({task.name})"
        with progress.stage(title, total=task.settings.epochs * task.queries) as tell:
            trained = self._train(task, on_epoch, Shown(tell, task.queries))
        measured = trained.metrics
        if task.validation is None:  # it was trained for as long as it was told
            measured = {key: value for key, value in measured.items() if "validation" not in key}
        self.measured[task.name] = measured
        return trained

    def _train(self, task: TrainingTask, on_epoch: OnEpoch, shown: Shown) -> TrainedNet:
        """On Ray, or in this process where no workers are wanted."""
        from scalr_ray.learn.neural.task import train_here

        config = self._workspace.config
        workers = config.translator.neural.workers
        if workers == 0:
            return train_here(task, on_epoch, on_progress=shown)
        from scalr_ray.learn.neural.distributed import Cluster, train_distributed

        # A training that stopped half-way goes on if everything it is made from is the same.
        identity = [config.fingerprint, asdict(self._prior), task.fingerprint]
        cluster = Cluster(
            storage=self._workspace.layout.training,
            name=fingerprint(identity, 16),
            workers=workers,
        )
        with ray_session(config.resources.cpus):
            return train_distributed(task, on_epoch, cluster=cluster, on_progress=shown)


class Shown:
    """Puts the progress of a training on its stage, counted in queries.

    Args:
        tell: of the stage.
        queries: of an epoch.
    """

    def __init__(self, tell: Tell, queries: int) -> None:
        self._tell, self._queries, self._done = tell, queries, 0

    def __call__(self, progress: Progress) -> None:
        """Show how far it is."""
        epochs = progress.epoch + progress.step / progress.steps
        # After the loss of a worker less is done than there was.
        done = max(self._done, round(epochs * self._queries))
        said = f"epoch {progress.epoch + 1} of {progress.epochs}, loss {progress.loss:.4f}"
        self._tell(done - self._done, said)
        self._done = done


def _note_epoch(workspace: Workspace, training: str, report: EpochReport) -> None:
    validation = f"validation {report.validation:.4f}, " if training == "validation" else ""
    workspace.progress.note(
        f"{training}, epoch {report.epoch + 1}: loss {report.loss:.4f}, {validation}"
        f"{report.examples / report.seconds:,.0f} examples/s"
    )
