"""What a running training tells the process that started it, and TensorBoard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

from scalr_ray.learn.neural.loop import EpochReport
from scalr_ray.learn.neural.pace import Progress

if TYPE_CHECKING:
    from ray.actor import ActorHandle

_POLL_S = 0.2


News = Progress | EpochReport


class Board:
    """Where the first worker puts news and the starting process takes them."""

    def __init__(self) -> None:
        self._news: list[News] = []

    def put(self, news: News) -> None:
        """Add to what has not been taken yet."""
        self._news.append(news)

    def take(self) -> list[News]:
        """All that has not been taken yet, oldest first."""
        taken, self._news = self._news, []
        return taken


@contextmanager
def board(tell: Callable[[News], None]) -> Iterator[ActorHandle[Any]]:
    """A board for the time of a block; another thread tells what is put on it."""
    here = ray.get_runtime_context().get_node_id()
    # Beside this process it lives as long as this process does, whichever nodes come and go.
    strategy = NodeAffinitySchedulingStrategy(node_id=here, soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=strategy)(Board).remote()
    over = threading.Event()

    def listen() -> None:
        while True:
            last = over.wait(_POLL_S)
            for news in ray.get(actor.take.remote()):
                tell(news)
            if last:
                return

    thread = threading.Thread(target=listen, name="training-news")
    thread.start()
    try:
        yield actor
    finally:
        over.set()
        thread.join()
        ray.kill(actor)


@contextmanager
def tensorboard(folder: str) -> Iterator[Callable[[News], None]]:
    """What writes news as TensorBoard event files into `folder`, a path or an S3 address."""
    with SummaryWriter(folder) as writer:

        def write(news: News) -> None:
            if isinstance(news, Progress):
                at = news.epoch * news.steps + news.step
                writer.add_scalar("step/loss", news.loss, at)
                writer.add_scalar("step/examples_per_s", news.examples_per_s, at)
            else:
                writer.add_scalar("epoch/loss", news.loss, news.epoch)
                writer.add_scalar("epoch/validation", news.validation, news.epoch)
                writer.add_scalar("epoch/seconds", news.seconds, news.epoch)
                rate = news.examples / news.seconds
                writer.add_scalar("epoch/examples_per_s", rate, news.epoch)

        yield write
