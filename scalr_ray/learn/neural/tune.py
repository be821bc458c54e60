"""Searching settings with Ray Tune: many trials on one CPU each, the hopeless ones stopped early.

Each trial runs the loop of one device and reports its validation after every epoch; ASHA (Li et
al. 2020) lets only the better part of the trials go on at each rung.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler

from scalr_ray.core.errors import ConfigError, RetryLater
from scalr_ray.core.keyed import keyed_uniform, stream_seed
from scalr_ray.learn.neural.feed import table_feed
from scalr_ray.learn.neural.loop import EpochReport, LoopState, train_loop
from scalr_ray.learn.neural.task import TrainingTask, in_this_process, new_net, validation_of

# What is searched unless the caller says otherwise: what matters most, and by about how much.
DEFAULT_SPACE: Mapping[str, Sequence[float | int]] = {
    "learning_rate": (5e-4, 1e-3, 2e-3, 4e-3),
    "dropout": (0.1, 0.3, 0.5),
    "width": (32, 64, 128),
    "layers": (0, 1, 2),
    "drop_own": (0.25, 0.5, 0.75),
    "weight_decay": (0.0, 0.01, 0.1),
}
_OF_SHAPE = frozenset({"width", "layers", "heads", "dropout", "id_dropout"})
_OF_LOOP = frozenset({"learning_rate", "weight_decay", "drop_own", "batch_rows"})
_REDUCTION = 3


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice of settings and what came of it.

    Attributes:
        settings: the names of the space, with the values chosen.
        validation: the best of its epochs; higher is better.
        epochs: done before it ended or was stopped.
        seconds: of training.
    """

    settings: Mapping[str, float | int]
    validation: float
    epochs: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Search:
    """All trials, best first."""

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial that validated best."""
        return self.trials[0]

    def table(self) -> pa.Table:
        """One row per trial, best first: its settings, then `validation`, `epochs`, `seconds`."""
        return pa.Table.from_pylist(
            [
                dict(trial.settings)
                | {
                    "validation": trial.validation,
                    "epochs": trial.epochs,
                    "seconds": trial.seconds,
                }
                for trial in self.trials
            ]
        )


def tune(
    task: TrainingTask,
    *,
    trials: int = 20,
    space: Mapping[str, Sequence[float | int]] = DEFAULT_SPACE,
    storage: str,
    name: str = "tune",
) -> Search:
    """Try settings for `task` on a Ray cluster, within a session of Ray.

    The settings that are tried, and the trajectory of each, depend on the task's seed alone. Which
    trials are stopped early also depends on which were faster. The task's own settings are always
    among those tried.

    Args:
        task: what to train; its validation rows judge.
        trials: how many settings to try.
        space: the values to choose from, by name: fields of `NetShape` and `LoopSettings`.
        storage: a folder that every node reaches, or an address in S3.
        name: of the search in there.

    Raises:
        ConfigError: the space names what cannot be searched, or the task has no validation rows.
        RetryLater: no trial came to an end.
    """
    unknown = sorted(set(space) - _OF_SHAPE - _OF_LOOP)
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)} cannot be searched; the space may name "
            f"{', '.join(sorted(_OF_SHAPE | _OF_LOOP))}"
        )
    if task.validation is None:
        raise ConfigError("a search is judged by validation rows; give the task some")
    chosen = _choices(task, trials, space)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(ray_tune.with_parameters(_trial, base=task), {"cpu": 1}),
        param_space={"choice": ray_tune.grid_search(chosen)},
        tune_config=ray_tune.TuneConfig(
            metric="validation",
            mode="max",
            scheduler=ASHAScheduler(
                time_attr="epoch",
                max_t=task.settings.epochs,
                grace_period=min(2, task.settings.epochs),
                reduction_factor=_REDUCTION,
            ),
        ),
        run_config=ray_tune.RunConfig(name=name, storage_path=storage, verbose=0),
    )
    # Ray Tune tells of itself on standard output, where results belong.
    with redirect_stdout(sys.stderr):
        results = tuner.fit()
    found = [_of(result) for result in results if result.metrics and not result.error]
    if not found:
        raise RetryLater(f"no trial of {name} came to an end; look into {storage}/{name} and retry")
    return Search(trials=tuple(sorted(found, key=lambda trial: -trial.validation)))


def applied(task: TrainingTask, settings: Mapping[str, float | int]) -> TrainingTask:
    """The task with the settings of a trial."""
    of_shape = {key: value for key, value in settings.items() if key in _OF_SHAPE}
    of_loop = {key: value for key, value in settings.items() if key in _OF_LOOP}
    return replace(
        task,
        shape=replace(task.shape, **of_shape),  # type: ignore[arg-type]
        settings=replace(task.settings, **of_loop),  # type: ignore[arg-type]
    )


def _choices(
    task: TrainingTask, trials: int, space: Mapping[str, Sequence[float | int]]
) -> list[dict[str, float | int]]:
    """Distinct settings: the task's own, then others drawn from the space by the task's seed."""
    now = {**vars(task.shape), **vars(task.settings)}
    own = {key: now[key] for key in sorted(space)}
    chosen = [own]
    seed = stream_seed("tune", task.settings.seed)
    for number in range(100 * trials):  # a small space is exhausted before
        if len(chosen) == trials:
            break
        drawn = keyed_uniform(seed, number, range(len(own)))
        choice = {
            key: space[key][int(u * len(space[key]))] for key, u in zip(own, drawn, strict=True)
        }
        if choice not in chosen:
            chosen.append(choice)
    return chosen


def _trial(config: dict[str, Any], base: TrainingTask) -> None:
    task = applied(base, config["choice"])
    torch.set_num_threads(1)
    settings = task.settings
    rows = in_this_process(task.rows)
    feed = table_feed(rows, batch_rows=settings.batch_rows, seed=settings.seed)
    best = float("-inf")

    def on_epoch(_: LoopState, report: EpochReport) -> None:
        nonlocal best
        best = max(best, report.validation)
        ray_tune.report(
            {"validation": best, "epoch": report.epoch + 1, "trained_s": report.seconds}
        )

    train_loop(
        new_net(task),
        feed.batches,
        validation_of(task),
        settings,
        catalogue=task.catalogue,
        on_epoch=on_epoch,
    )


def _of(result: ray_tune.Result) -> Trial:
    metrics = result.metrics
    seconds = result.metrics_dataframe["trained_s"].sum()
    return Trial(
        settings=result.config["choice"],
        validation=float(metrics["validation"]),
        epochs=int(metrics["epoch"]),
        seconds=float(seconds),
    )
