"""A torch ranker on Ray Train: each worker holds the rows, and does its part of every batch.

Gradients are summed, so that one worker gives what the ranker gives by itself, and more of them the
same but for rounding. After each epoch the first worker's state is the checkpoint; when a worker
dies, all go on from the last one.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import ray
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from scalr_ray.core.errors import ScalrError
from scalr_ray.offline_store.cluster import ray_session
from training.models import Interactions
from training.models.base import Iterative
from training.models.neural import Share
from training.models.state import State

_FILE = "ranker.safetensors"
_MOST_FAILURES = 3


def train_on_workers(
    model: str, settings: object, interactions: Interactions, *, seed: int, workers: int
) -> State:
    """Train on `workers` workers of the cluster that is there, or of a local one.

    Checkpoints lie in a folder of this machine while it trains: the workers are to reach it.

    Raises:
        DataError, TrainingDiverged: as the ranker's `fit`.
    """
    # Ray Train looks after its workers every two seconds, and every checkpoint would wait for that.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    with ray_session(workers + 1), TemporaryDirectory(prefix="scalr-train") as storage:
        job = {
            "model": model,
            "settings": settings,
            "rows": ray.put(interactions),
            "seed": seed,
        }
        result = TorchTrainer(
            _work,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(
                name=model,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=_MOST_FAILURES),
            ),
        ).fit()
        if isinstance(result.return_value, ScalrError):
            raise result.return_value
        assert result.checkpoint is not None
        with result.checkpoint.as_directory() as folder:
            return State.read(Path(folder) / _FILE)


def _work(config: dict[str, Any]) -> ScalrError | None:
    """What each worker does; a named error is a result, because trying again would not help."""
    from training.train import new_ranker

    job, context = config["job"], ray.train.get_context()
    rank = context.get_world_rank()
    share = Share(rank=rank, world=context.get_world_size())
    ranker = cast(Iterative, new_ranker(job["model"], job["settings"], share))
    interactions = ray.get(job["rows"])

    def keep(state: State) -> None:
        if rank:
            ray.train.report({})
            return
        with TemporaryDirectory() as folder:
            state.write(Path(folder) / _FILE)
            ray.train.report({}, checkpoint=Checkpoint.from_directory(folder))

    try:
        if before := ray.train.get_checkpoint():
            with before.as_directory() as folder:
                ranker.restore(State.read(Path(folder) / _FILE))
            ranker.resume(interactions, checkpoint=keep)
        else:
            ranker.fit(interactions, seed=job["seed"], checkpoint=keep)
    except ScalrError as error:
        return error
    return None
