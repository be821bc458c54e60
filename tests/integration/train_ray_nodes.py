"""Training through the loss and the drain of nodes, and by four workers: minutes, so not in CI.

```
python -m pytest tests/integration/train_ray_nodes.py
```
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from local_ray import local_ray
from ray_training import assert_agrees, trained_alone, training_task, training_workers
from three_nodes import three_nodes

from scalr_ray.learn.neural.distributed import Cluster, train_distributed

pytestmark = [
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]


def _node_of_a_worker(nodes: Any) -> Any:
    """A node other than the head that runs a worker."""
    parents = {worker.ppid() for worker in training_workers()}
    return next(
        node
        for node in nodes.worker_nodes
        if node.all_processes["raylet"][0].process.pid in parents
    )


def test_a_lost_node_is_survived(tmp_path):
    task = training_task(users=6400)
    lost: list[Any] = []
    with three_nodes() as nodes:

        def on_epoch(*_):
            if not lost:
                lost.append(_node_of_a_worker(nodes))
                nodes.remove_node(lost[0], allow_graceful=False)

        where = Cluster(storage=tmp_path, name="lost", workers=(1, 2), shard_from_rows=10)
        run = train_distributed(task, on_epoch, cluster=where)
    assert len(lost) == 1
    assert_agrees(run, trained_alone(task))


def test_a_drained_node_has_a_checkpoint_written_before_it_goes(tmp_path):
    task = training_task(users=64000, epochs=1)
    steps: list[int] = []
    workers: list[set[int]] = []
    goes = threading.Event()
    with three_nodes() as nodes:

        def drain() -> None:
            goes.wait()
            node = _node_of_a_worker(nodes)
            command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
            command += ["--address", nodes.address, "--node-id", node.node_id]
            command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
            command += ["--deadline-remaining-seconds", "60"]
            subprocess.run(command, check=True)
            time.sleep(4)  # Ray is asked every second
            nodes.remove_node(node, allow_graceful=False)

        thread = threading.Thread(target=drain)
        thread.start()

        def on_progress(progress) -> None:
            steps.append(progress.step)
            workers.append({worker.pid for worker in training_workers()})
            goes.set()

        where = Cluster(storage=tmp_path, name="drained", workers=(1, 2))
        run = train_distributed(task, cluster=where, on_progress=on_progress)
        thread.join()
    assert workers[0].isdisjoint(workers[-1])  # the workers were replaced
    assert min(steps[1:]) >= steps[0]  # and did not begin anew
    assert_agrees(run, trained_alone(task))


def test_four_workers_agree_with_the_loop(tmp_path):
    task = training_task(users=1280)
    with local_ray(cpus=5):
        where = Cluster(storage=tmp_path, name="four", workers=4, shard_from_rows=10)
        run = train_distributed(task, cluster=where)
    assert run.workers == 4
    assert_agrees(run, trained_alone(task))
