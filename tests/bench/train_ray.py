"""Steady-state examples/s through Ray Train against the same loop without Ray, in turns.

```
python tests/bench/train_ray.py              # one worker, five turns each
python tests/bench/train_ray.py --turns 3 --users 20000
```

Both train on the same rows in the same order, on one thread, in a process of their own each: Ray
Train its worker, the loop alone a task of the same Ray. Reported are medians of the speed of all
epochs but the first of each turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import ray
import torch

sys.path.append(str(Path(__file__).parents[1] / "support"))

import ray_training
from local_ray import local_ray
from ray_training import trained_alone, training_task

from scalr_ray.learn.neural.distributed import Cluster, train_distributed
from scalr_ray.learn.neural.loop import EpochReport
from scalr_ray.learn.neural.task import TrainingTask

# Workers cannot import what stands beside the tests: it travels whole.
ray.cloudpickle.register_pickle_by_value(ray_training)


def main() -> None:
    """Print the comparison as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--users", type=int, default=64_000)
    arguments = parser.parse_args()
    task = training_task(users=arguments.users, epochs=4, patience=4, batch_rows=256)
    alone: list[float] = []
    through_ray: list[float] = []
    with tempfile.TemporaryDirectory() as storage, local_ray(cpus=2):
        for turn in range(arguments.turns):
            reports = ray.get(ray.remote(_alone).remote(task))
            alone += _speeds(reports)
            where = Cluster(storage=storage, name=f"turn-{turn}")
            through_ray += _speeds(train_distributed(task, cluster=where).reports)
    without, with_ray = statistics.median(alone), statistics.median(through_ray)
    sys.stdout.write(
        "| | examples/s, median | ratio |\n|---|---|---|\n"
        f"| the loop alone | {without:,.0f} | 1 |\n"
        f"| through Ray Train | {with_ray:,.0f} | {with_ray / without:.2f} |\n"
    )


def _alone(task: TrainingTask) -> list[EpochReport]:
    torch.set_num_threads(1)
    return trained_alone(task).reports


def _speeds(reports: list[EpochReport]) -> list[float]:
    return [report.examples / report.seconds for report in reports[1:]]


if __name__ == "__main__":
    main()
