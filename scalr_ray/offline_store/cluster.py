"""A Ray session: the cluster that is there, or a small local one."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from scalr_ray.core.errors import RetryLater, UsageError

# Ray's own reports, colours and bars would drown what the command prints.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
}

_CONNECT_TIMEOUT_S = 10.0

AUTH_REFUSED = (
    "refuses the token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to that "
    "of the cluster"
)


def connect(cpus: int | None = None) -> bool:
    """Use the Ray that is up or that `RAY_ADDRESS` names; else start one here with `cpus`.

    Returns:
        Whether there was none to use before this call, so that the caller may end it.

    Raises:
        RetryLater: the cluster that `RAY_ADDRESS` names does not answer.
        UsageError: it refuses the token, or none is there.
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
        UsageError: it refuses the token, or none is there.
    """
    ours = connect(cpus)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def knock(address: str) -> None:
    """See that somebody listens at an address with a port; Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()


def refuse_without_token() -> None:
    """Ray takes down a process that is to show a token and finds none.

    Raises:
        UsageError: the file of the token is not there, or empty.
    """
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        held = file.read_text(encoding="utf-8").strip()
    except OSError:
        held = ""
    if not held:
        raise UsageError(
            f"RAY_AUTH_MODE is token, and {file} holds none; set RAY_AUTH_TOKEN, or "
            "RAY_AUTH_TOKEN_PATH to a file with the token of the cluster"
        )


def _join(address: str) -> None:
    if address.startswith(("http://", "https://")):
        raise UsageError(
            f"RAY_ADDRESS is {address}, where jobs are handed in: do so with `scalr submit`, or "
            "name HOST:6379 to work on the cluster from here"
        )
    refuse_without_token()
    try:
        knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except ray.exceptions.AuthenticationError as error:
        raise UsageError(f"the Ray cluster at {address} {AUTH_REFUSED}") from error
    except OSError as error:  # ConnectionError, which Ray raises, is one
        raise RetryLater(
            f"the Ray cluster at {address} does not answer ({error}); "
            "start it, or unset RAY_ADDRESS"
        ) from error
