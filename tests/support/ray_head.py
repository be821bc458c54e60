"""The head of a Ray cluster of its own that takes jobs and asks for a token, for a block."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

_ROOT = Path(__file__).parents[2]
_PROGRAMS = Path(sys.executable).parent
_STORE_BYTES = 200 * 2**20
_START_WITHIN_S = 240
_END_WITHIN_S = 3
_GONE_WITHIN_S = 30
_CALL_WITHIN_S = 400


@dataclass(frozen=True, kw_only=True)
class RayHead:
    """A head that is up.

    Attributes:
        url: where it takes jobs.
        gcs: where drivers and nodes join.
        environment: of a client that has the token; the jobs run the code of this tree.
    """

    url: str
    gcs: str
    environment: Mapping[str, str]

    def start(self, program: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """A program of this Python's folder, with pipes, and with `variables` beside its own."""
        return subprocess.Popen(
            [str(_PROGRAMS / program), *arguments],
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, program: str, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """What a program said: exit code, standard output and error."""
        process = self.start(program, *arguments, **variables)
        try:
            out, err = process.communicate(timeout=_CALL_WITHIN_S)
        finally:
            process.kill()
        return process.returncode, out, err


@contextmanager
def ray_head(cpus: int = 2) -> Iterator[RayHead]:
    """Start it in a process group of its own, and end it by its process."""
    # Ray's sockets need a short path
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as short:
        token = Path(short) / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        gcs, url, client = (f"127.0.0.1:{port}" for port in free_ports(3))
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(_PROGRAMS), os.environ["PATH"]]),
            "PYTHONPATH": str(_ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            # a worker that waits is kept for the next job; to start one takes seconds
            "RAY_idle_worker_killing_time_threshold_ms": "600000",
        }
        options = [
            f"--port={gcs.rpartition(':')[2]}",
            f"--dashboard-port={url.rpartition(':')[2]}",
            f"--ray-client-server-port={client.rpartition(':')[2]}",
            "--dashboard-agent-listen-port=0",
            f"--num-cpus={cpus}",
            f"--object-store-memory={_STORE_BYTES}",
            f"--temp-dir={short}/ray",
        ]
        with (Path(short) / "head.log").open("wb") as said:
            process = subprocess.Popen(
                [str(_PROGRAMS / "ray"), "start", "--head", "--block", *options],
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            head = RayHead(url=f"http://{url}", gcs=gcs, environment=environment)
            _wait_for(head, process, Path(short) / "head.log")
            yield head
        finally:
            end_ray(process)


def end_ray(process: subprocess.Popen[bytes]) -> None:
    """End a `ray start --block` and what it started.

    Ray by itself takes half a minute once Ray Data has worked there.
    """
    started: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):  # it ended by itself, and them
        started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_WITHIN_S)
    for each in started:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.wait()
    psutil.wait_procs(started, timeout=_GONE_WITHIN_S)  # they write into the folder


def free_ports(count: int) -> list[int]:
    """Ports of the loopback, each another, on which nobody listens."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(head: RayHead, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it takes jobs."""
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text(encoding="utf-8")
    headers = {"Authorization": f"Bearer {token}"}
    until = time.monotonic() + _START_WITHIN_S
    while True:
        with suppress(OSError):
            if requests.get(f"{head.url}/api/jobs/", headers=headers, timeout=10).ok:
                return
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < until, log.read_text(encoding="utf-8")
        time.sleep(0.5)
