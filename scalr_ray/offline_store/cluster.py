"""A Ray session: the cluster that is there, or a small local one."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from scalr_ray.core.errors import RetryLater

# Ray's own reports, colours and bars would drown what the command prints.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
}

_CONNECT_TIMEOUT_S = 10.0


def connect(cpus: int | None = None) -> bool:
    """Use the Ray that is up or that `RAY_ADDRESS` names; else start one here with `cpus`.

    Returns:
        Whether there was none to use before this call, so that the caller may end it.

    Raises:
        RetryLater: the cluster that `RAY_ADDRESS` names does not answer.
    """
    if ray.is_initialized():
        return False
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _join(address)
    else:
        # A private local cluster listens on loopback only and dies with this process. It is asked
        # for by name, for else Ray joins any cluster that was ever started on this machine.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        ray.init(
            "local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    return True


@contextmanager
def ray_session(cpus: int) -> Iterator[None]:
    """`connect` for the time of a block; a session that was there before stays there afterwards.

    Raises:
        RetryLater: the cluster that `RAY_ADDRESS` names does not answer.
    """
    ours = connect(cpus)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def _join(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except OSError as error:  # ConnectionError, which Ray raises, is one
        raise RetryLater(
            f"the Ray cluster at {address} does not answer ({error}); "
            "start it, or unset RAY_ADDRESS"
        ) from error
