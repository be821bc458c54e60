"""Ray Train gives what the loop gives without it, whatever happens to its workers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from local_ray import local_ray
from ray_training import (
    assert_agrees,
    losses,
    trained_alone,
    training_task,
    training_workers,
)
from tensorboard_events import scalars

from scalr_ray.core.errors import ConfigError, TrainingDiverged
from scalr_ray.learn.neural.distributed import Cluster, train_distributed
from scalr_ray.learn.neural.examples_ray import RowsOnCluster

pytestmark = [
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
    # Ray reads what it wrote of an earlier run with a deprecated call of pydantic.
    pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated"),
]


@pytest.fixture(scope="module", autouse=True)
def session():
    with local_ray(cpus=3):
        yield


def test_one_worker_that_is_killed_gives_bit_for_bit_what_the_loop_gives_alone(tmp_path):
    task = training_task(users=6400)
    alone = trained_alone(task)
    told, progress, killed = [], [], []

    def on_epoch(*news):
        told.append(news)
        if not killed:  # by now the second epoch runs
            killed.extend(training_workers())
            killed[-1].kill()

    where = Cluster(storage=tmp_path, name="one")
    run = train_distributed(task, on_epoch, cluster=where, on_progress=progress.append)

    assert len(killed) == 1
    assert losses(run) == losses(alone)
    assert run.weights.keys() == alone.best.keys()
    assert all(torch.equal(run.weights[name], weight) for name, weight in alone.best.items())

    # An epoch that was done twice took another time, and gave the same.
    assert [(name, replace(report, seconds=0.0)) for name, report in told] == [
        ("task", replace(report, seconds=0.0)) for report in run.reports
    ]
    assert run.metrics["loss"] == [report.loss for report in alone.reports]
    assert run.metrics["workers"] == 1
    assert run.metrics["peak_memory_bytes"] > 2**20
    last = progress[-1]
    assert (last.steps, last.epochs) == (100, 4)
    assert last.examples_per_s > 0
    assert last.eta_s >= 0
    written = scalars(tmp_path / "one-task" / "tensorboard")
    assert written["epoch/loss"] == pytest.approx(
        {report.epoch: report.loss for report in run.reports}
    )
    assert written["epoch/examples_per_s"].keys() == written["epoch/loss"].keys()
    assert min(written["epoch/examples_per_s"].values()) > 0
    pickled = [path for path in tmp_path.rglob("*") if path.suffix in {".pt", ".distcp", ".pkl"}]
    assert pickled == []

    # It is finished: nothing is left to do, and no worker starts to find that out.
    again = train_distributed(task, cluster=where)
    assert again.reports == run.reports
    assert all(torch.equal(again.weights[name], run.weights[name]) for name in run.weights)
    assert training_workers() == []
    other = replace(task, settings=replace(task.settings, learning_rate=0.02))
    with pytest.raises(ConfigError, match="choose another name"):
        train_distributed(other, cluster=where)


def test_as_many_workers_as_there_is_room_for_with_sharded_tables_agree_with_the_loop(tmp_path):
    task = training_task(users=1280)
    alone = trained_alone(task)
    shuffled = RowsOnCluster(
        dataset=ray.data.from_arrow(task.rows.take(np.random.default_rng(0).permutation(1280))),
        num_rows=1280,
        queries=task.queries,
        fingerprint="shuffled",
    )
    where = Cluster(storage=tmp_path, name="two", workers=(1, 8), shard_from_rows=10)
    run = train_distributed(replace(task, rows=shuffled), cluster=where)
    assert run.workers == 2
    assert_agrees(run, alone)


def test_workers_that_would_starve_ray_data_are_refused(tmp_path):
    task = training_task(users=64)
    with pytest.raises(ConfigError, match="none of the 3 CPUs of the cluster to Ray Data"):
        train_distributed(task, cluster=Cluster(storage=tmp_path, name="all", workers=3))
    with pytest.raises(ConfigError, match="at most 1 workers"):
        train_distributed(
            task, cluster=Cluster(storage=tmp_path, name="x", workers=(2, 3), cpus_per_worker=2)
        )


def test_a_batch_that_cannot_be_dealt_to_so_many_workers_is_refused(tmp_path):
    task = training_task(users=64, batch_rows=9)
    with pytest.raises(ConfigError, match="at most 1 workers, not 2"):
        train_distributed(task, cluster=Cluster(storage=tmp_path, name="odd", workers=2))


def test_a_diverged_training_is_a_named_error_and_is_not_tried_again(tmp_path):
    task = training_task(users=64, learning_rate=1e30, warmup_steps=1)
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        train_distributed(task, cluster=Cluster(storage=tmp_path, name="far"))
