"""Training on a cluster: Ray Train around the loop of one device.

```
distributed.py   starts the workers and waits for them
  feed.py          which rows each of them gets, and when
  worker.py        what each of them runs
    sharding.py      one net on many workers
    checkpoints.py   where training stands
    validation.py    how well the net predicts other rows
  pace.py          how far they are
  progress.py      how they tell it
```

The same (storage, name) goes on where the last run stood, with any number of workers; a finished
run does nothing. A worker that dies is replaced and all go on from the last checkpoint. Before a
node is taken away, Ray tells and a checkpoint is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    Result,
    RunConfig,
    ScalingConfig,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from scalr_ray.core.errors import ConfigError, RetryLater, ScalrError
from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.learn.neural.checkpoints import Standing, best_weights
from scalr_ray.learn.neural.feed import shared_feed
from scalr_ray.learn.neural.pace import Progress
from scalr_ray.learn.neural.progress import News, board, tensorboard
from scalr_ray.learn.neural.sharding import SHARDED_FROM_ROWS, backend
from scalr_ray.learn.neural.task import OnEpoch, TrainedNet, TrainingTask
from scalr_ray.learn.neural.worker import Job, train_worker

# Ray Train looks after its workers every two seconds, and every checkpoint would wait for that.
_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
_MOST_FAILURES = 3


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a run takes of the cluster, and where it is kept.

    Attributes:
        storage: a folder that every node reaches, or an address in S3.
        name: of the runs in there; the same name goes on with the same run.
        workers: how many, or between how many (as many as there is room for).
        cpus_per_worker: of each worker; where the cluster has a GPU for every worker, each also
            gets one.
        shard_from_rows: embedding tables with as many rows are sharded over the workers.
        save_every_s: a checkpoint is written after so long, beside those after epochs.
    """

    storage: str | Path
    name: str
    workers: int | tuple[int, int] = 1
    cpus_per_worker: int = 1
    shard_from_rows: int = SHARDED_FROM_ROWS
    save_every_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class TrainedRun(TrainedNet):
    """What a run came to.

    Attributes:
        workers: how many there were at the end.
        peak_memory_bytes: of the worker that took most.
    """

    workers: int
    peak_memory_bytes: int

    @property
    def metrics(self) -> dict[str, Any]:
        """What the ledger keeps of the run."""
        took = {"workers": self.workers, "peak_memory_bytes": self.peak_memory_bytes}
        return super().metrics | took


def train_distributed(
    task: TrainingTask,
    on_epoch: OnEpoch = lambda _, __: None,
    *,
    cluster: Cluster,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TrainedRun:
    """Train a net on a Ray cluster, within a session of Ray.

    Every global batch holds the same rows whatever the number of workers; with one worker on CPUs
    the trajectory is that of `train_loop` on `table_feed(rows)`, bit for bit.

    Args:
        task: what to train; the run is named after it and the cluster.
        on_epoch: called with the name of the task and the report of each epoch, from another
            thread.
        cluster: on what, and where the run is kept. TensorBoard files are written beside it.
        on_progress: called from that thread too, about twice a second.

    Returns:
        The weights that validated best and what is known of the run.

    Raises:
        ConfigError: the workers would leave no CPU to Ray Data, a batch cannot be dealt to so many
            workers, or a run of this name has other settings.
        DataError: there is nothing to learn from.
        TrainingDiverged: the loss is no longer finite.
        RetryLater: workers died again and again.
    """
    settings = task.settings
    scaling = _scaling(cluster)
    dealt = partial(shared_feed, batch_rows=settings.batch_rows, seed=settings.seed)
    feed = dealt(task.rows)
    checked = None if task.validation is None else dealt(task.validation)
    if scaling.max_workers > feed.lanes:
        raise ConfigError(
            f"batches of {settings.batch_rows} rows can be dealt to at most {feed.lanes} workers, "
            f"not {scaling.max_workers}; let batch_rows be a multiple of the number of workers"
        )
    identity = {
        "shape": task.shape.to_json(),
        "settings": asdict(settings),
        "rows": feed.rows,
        "validation": None if checked is None else checked.rows,
        "items": len(task.catalogue),
    }
    run = f"{cluster.name}-{task.name}"

    told: set[int] = set()

    def tell(news: News) -> None:
        write(news)
        if isinstance(news, Progress):
            on_progress(news)
        elif news.epoch not in told:  # after a loss, epochs since the last checkpoint come again
            told.add(news.epoch)
            on_epoch(task.name, news)

    with tensorboard(f"{cluster.storage}/{run}/tensorboard") as write, board(tell) as news:
        job = Job(
            shape=task.shape,
            settings=settings,
            feed=feed,
            validation=checked,
            catalogue=ray.put(task.catalogue),
            threads=cluster.cpus_per_worker,
            shard_from_rows=cluster.shard_from_rows,
            save_every_s=cluster.save_every_s,
            fingerprint=fingerprint(identity),
            board=news,
        )
        return _finished(job, cluster.storage, run) or _fit(job, scaling, cluster.storage, run)


def _scaling(cluster: Cluster) -> ScalingConfig:
    """How many workers, each with what, so that a CPU is left to Ray Data.

    Ray Data prepares the rows, and recomputes those that were on a lost node. While the workers
    hold every CPU it could do neither, and all would wait for ever.
    """
    few, many = (
        (cluster.workers, cluster.workers) if isinstance(cluster.workers, int) else cluster.workers
    )
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    room = (cpus - 1) // cluster.cpus_per_worker
    if few > room:
        raise ConfigError(
            f"{few} workers with {cluster.cpus_per_worker} CPU each leave none of the {cpus} CPUs "
            f"of the cluster to Ray Data, which would starve; ask for at most {room} workers or "
            "add CPUs"
        )
    use_gpu = gpus >= few
    most = min(many, room, gpus) if use_gpu else min(many, room)
    per_worker = {"CPU": cluster.cpus_per_worker} | ({"GPU": 1} if use_gpu else {})
    return ScalingConfig(
        num_workers=few if isinstance(cluster.workers, int) else (few, most),
        use_gpu=use_gpu,
        resources_per_worker=per_worker,
    )


def _fit(job: Job, scaling: ScalingConfig, storage: str | Path, run: str) -> TrainedRun:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=scaling,
        torch_config=TorchConfig(backend=backend(use_gpu=scaling.use_gpu)),
        run_config=RunConfig(
            name=run,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=_MOST_FAILURES),
            # Each checkpoint also holds the best weights so far.
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result = trainer.fit()
    except WorkerGroupError as error:
        causes = error.worker_failures.values()
        if all(isinstance(cause, RayError) for cause in causes):
            raise RetryLater(
                f"workers of the run {run} died {_MOST_FAILURES + 1} times; give them "
                "more memory, then run again with the same name to go on from the last checkpoint"
            ) from error
        raise
    if isinstance(result.return_value, ScalrError):
        raise result.return_value
    return _trained(result)


def _finished(job: Job, storage: str | Path, run: str) -> TrainedRun | None:
    """The run of this name, if there is nothing left to do for it."""
    try:
        before = Result.from_path(f"{storage}/{run}")
    except RuntimeError:  # Ray's word for: there is none
        return None
    if before.checkpoint is None:
        return None
    with before.checkpoint.as_directory() as folder:
        standing = Standing.read(Path(folder))
    same = standing.fingerprint == job.fingerprint
    return _trained(before) if same and standing.finished(job.settings) else None


def _trained(result: Result) -> TrainedRun:
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        standing = Standing.read(Path(folder))
        return TrainedRun(
            weights=best_weights(Path(folder)),
            reports=standing.reports,
            workers=standing.workers,
            peak_memory_bytes=standing.peak_memory_bytes,
        )
