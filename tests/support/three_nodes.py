"""A Ray cluster whose nodes may go, for the time of a block."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster as Nodes

_STORE_BYTES = 200 * 2**20


@contextmanager
def three_nodes() -> Iterator[Any]:
    """A head and two nodes that may go, one CPU each; connected to, and ended at the end."""
    node = {"num_cpus": 1, "object_store_memory": _STORE_BYTES}
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:  # sockets have short paths
        head = node | {"include_dashboard": False, "temp_dir": short}
        nodes = Nodes(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                nodes.add_node(**node)
            ray.init(nodes.address, log_to_driver=False, logging_level=logging.ERROR)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


@contextmanager
def losing_a_node_at(nodes: Any, titles: Sequence[str]) -> Iterator[list[Any]]:
    """Take a node other than the head away as soon as a process there has one of the titles.

    Args:
        nodes: of `three_nodes`.
        titles: with which the name of a process begins, as Ray gives it.

    Yields:
        The node, once it is gone.
    """
    lost: list[Any] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and not lost:
            for node in nodes.worker_nodes.copy():
                if any(name.startswith(tuple(titles)) for name in _names(node)):
                    nodes.remove_node(node, allow_graceful=False)
                    lost.append(node)
                    break
            time.sleep(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield lost
    finally:
        over.set()
        watching.join()


def _names(node: Any) -> list[str]:
    """What the workers of a node are called just now."""
    names = []
    for worker in psutil.Process(node.all_processes["raylet"][0].process.pid).children():
        try:
            names.append(worker.name())
        except psutil.NoSuchProcess:  # it ended meanwhile
            continue
    return names
