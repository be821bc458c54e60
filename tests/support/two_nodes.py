"""A Ray cluster of two nodes on this machine, one CPU each, for the time of a block."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # a worker that waits is kept for the next test; to start one takes seconds
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
}
_STORE_BYTES = 200 * 2**20


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Start the nodes, connect to them, and end both; yields Ray's `Cluster`."""
    import ray
    from ray._common.utils import get_default_ray_temp_dir
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": _STORE_BYTES}
    # Ray's sockets need a short path
    with (
        tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short,
        patch.dict(os.environ, _ENVIRONMENT),
    ):
        os.environ.pop("RAY_ADDRESS", None)
        # It notes its address here even with a folder of its own, and does not make the folder.
        Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
        cluster = Cluster()
        try:
            cluster.add_node(**node, include_dashboard=False, temp_dir=short)
            cluster.add_node(**node)
            ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
