"""A small training task, alone and on a cluster, and what befalls its workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import planted_rows
import psutil
import ray
import torch
from ray_processes import ray_workers

from scalr_ray.learn.neural.feed import table_feed
from scalr_ray.learn.neural.loop import LoopSettings, LoopState, train_loop
from scalr_ray.learn.neural.peers import Alone
from scalr_ray.learn.neural.task import TrainingTask, new_net
from scalr_ray.learn.neural.validation import shared_validation

# Workers cannot import what stands here: it travels whole.
ray.cloudpickle.register_pickle_by_value(planted_rows)

_ITEMS = 60


def training_task(*, users: int, **settings: Any) -> TrainingTask:
    """`users` rows; a multiple of 64 is cut into the same blocks wherever they lie."""
    shape = {"tokens": 12, "queries": 3, "items": _ITEMS}
    return TrainingTask(
        name="task",
        shape=planted_rows.small_shape(_ITEMS),
        settings=LoopSettings(
            **{"epochs": 4, "batch_rows": 64, "warmup_steps": 5, "learning_rate": 0.01} | settings
        ),
        catalogue=planted_rows.flat_catalogue(_ITEMS),
        rows=planted_rows.planted_rows(users=users, seed=0, **shape),
        validation=planted_rows.planted_rows(users=128, seed=9, **shape),
    )


def trained_alone(task: TrainingTask) -> LoopState:
    """The loop, without Ray, on one thread."""
    settings, threads = task.settings, torch.get_num_threads()
    feed, checked = (
        table_feed(rows, batch_rows=settings.batch_rows, seed=settings.seed)
        for rows in (task.rows, task.validation)
    )
    validate = shared_validation(checked, task.catalogue, Alone())
    torch.set_num_threads(1)
    try:
        return train_loop(new_net(task), feed.batches, validate, settings, catalogue=task.catalogue)
    finally:
        torch.set_num_threads(threads)


def losses(state: Any) -> list[tuple[float, float]]:
    """Loss and validation of each epoch."""
    return [(report.loss, report.validation) for report in state.reports]


def assert_agrees(run: Any, alone: LoopState) -> None:
    """The same trajectory and weights, but for rounding."""
    np.testing.assert_allclose(losses(run), losses(alone), rtol=1e-4)
    for name, weight in alone.best.items():
        if not name.startswith("age."):  # all are of one age: its gradient is rounding
            torch.testing.assert_close(run.weights[name], weight, rtol=0.02, atol=2e-3)


def training_workers() -> list[psutil.Process]:
    """The workers of Ray Train that this process started."""
    return ray_workers("RayTrainWorker")
