"""A Ray session for the time of a block: the cluster that is there, or a small local one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

# Ray's own reports, colours and bars would drown what the command prints.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
}


@contextmanager
def ray_session(cpus: int) -> Iterator[None]:
    """Use the Ray that is up or that `RAY_ADDRESS` names; else start one with `cpus` and end it.

    A session that was there before stays there afterwards.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    remote = bool(os.environ.get("RAY_ADDRESS"))
    if not remote:
        # A private local cluster listens on loopback only and dies with this block.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(
        num_cpus=None if remote else cpus,
        include_dashboard=None if remote else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()
