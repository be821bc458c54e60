"""The port, and the server on it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from scalr_ray.core.errors import UsageError
from scalr_ray.ui.app import make_app

_AT_A_TIME = 64  # requests; more are answered by 503
_LAST_WORDS_S = 2
_NOBODY_IS_ASKED = "there is no authentication: whoever reaches this port can read these pages"


def serve(
    repo: Path,
    overrides: Sequence[str],
    *,
    host: str,
    port: int,
    told: Callable[[str], None],
    warned: Callable[[str], None],
) -> None:
    """Answer requests until Ctrl-C.

    Args:
        repo: the folder with `scalr.yaml`.
        overrides: `a.b=c` texts over `scalr.yaml`.
        host: name or address to listen on.
        port: to listen on; 0 takes one that is free.
        told: is given the address of the first page, once it answers.
        warned: is given a line where others than this machine can reach it.

    Raises:
        ConfigError: `scalr.yaml` or an override is wrong.
        KeyboardInterrupt: Ctrl-C.
        UsageError: the port is taken or may not be listened on, or there is no such host.
    """
    app = make_app(repo, overrides, host)
    listener = _listen(host, port)
    with listener:
        shown = f"[{host}]" if ":" in host else host
        address, taken, *_ = listener.getsockname()
        if not ip_address(address.partition("%")[0]).is_loopback:
            warned(_NOBODY_IS_ASKED)
        told(f"http://{shown}:{taken}/")
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_AT_A_TIME,
            timeout_graceful_shutdown=_LAST_WORDS_S,
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host {host} is no name or address of this machine") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host} port {port} ({error.strerror}); choose another --port, or "
            "0 for one that is free"
        ) from error
    return listener
