"""Buckets spread over the workers of a Ray session, with retries that end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray
from ray.data import Dataset
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.util.annotations import RayDeprecationWarning

from scalr_ray.core.errors import RetryLater

# Of a bucket whose worker dies, say because its node is taken away. Ray Data's default is to try
# for ever, which for a worker that dies each time, or lacks a module, is to hang.
TASK_RETRIES = 5
ACTOR_RESTARTS = 100
_MOST_BLOCKS = 10_000  # that a dataset has; with more buckets than that, several share one


class WorkersDied(RetryLater):
    """The workers of a task died each time that it was tried."""

    def __init__(self) -> None:
        super().__init__(
            f"{TASK_RETRIES + 1} Ray workers died at the same task; give them more memory or "
            "lower generation.users_per_task, and run it again"
        )


def blocks_of(buckets: Sequence[int]) -> Dataset:
    """A dataset of bucket numbers, one to a block as long as there are not too many blocks."""
    each = -(-len(buckets) // _MOST_BLOCKS)
    starts = range(0, len(buckets), each)
    blocks = ray.data.from_arrow(
        [pa.table({"bucket": list(buckets[start : start + each])}) for start in starts]
    )
    # Of this dataset and what is made of it: the settings of the process stay as they are.
    blocks.context.raise_original_map_exception = True
    return blocks


def over_tasks(
    blocks: Dataset, step: Callable[[pa.Table], pa.Table]
) -> Generator[dict[str, Any], None, None]:
    """The rows that `step` gives for each block, as they come.

    Raises:
        ScalrError: what `step` raised on purpose.
        WorkersDied: those of a task, again and again.
        RetryLater: the cluster gave up.
    """
    with needed_arguments():
        tasks = blocks.map_batches(
            step, batch_size=None, batch_format="pyarrow", max_retries=TASK_RETRIES
        )
    return rows_as_they_come(tasks)


@contextmanager
def needed_arguments() -> Iterator[None]:
    """Ray 2.60 calls arguments deprecated that we need, and has nothing else for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        yield


@contextmanager
def named_actors() -> Iterator[Callable[[], dict[str, str]]]:
    """Give a name to each actor of a dataset (`ray_remote_args_fn`); none outlives the block.

    Ray Data lets its actors go and leaves their end to the garbage collector. Until that runs they
    keep their CPUs, and whoever tries again in this process may wait for them for ever.
    """
    names: list[str] = []

    def next_name() -> dict[str, str]:
        names.append(f"scalr-{uuid4().hex}")
        return {"name": names[-1]}

    try:
        yield next_name
    finally:
        for name in names if ray.is_initialized() else ():
            with suppress(ValueError):  # no actor has it any more
                ray.kill(ray.get_actor(name))


def rows_as_they_come(rows: Dataset) -> Generator[dict[str, Any], None, None]:
    """The rows, as they come.

    Raises:
        ScalrError: what a task raised on purpose.
        WorkersDied: those of a task, again and again.
        RetryLater: the cluster gave up.
    """
    from scalr_ray.offline_store.distribute import cluster_errors

    with cluster_errors():
        try:
            for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from batch.to_pylist()
        except (NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError) as error:
            raise WorkersDied from error
