"""The Ray nodes of `infra/compose.yaml` on this machine, started by its own commands.

In containers each node has a network of its own. Here all share one, so each gets ports of its own:
with one port of metrics the agent of the second node ends, and takes its raylet along; with the
usual port of the agent taken, a head starts and takes no job.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml
from ray_head import RayHead, end_ray, free_ports

ROOT = Path(__file__).parents[2]
_INFRA = ROOT / "infra"
_PROGRAMS = Path(sys.executable).parent
_SECRET = re.compile(r"\$\{(\w+):\?run make up\}")
_OF_ONE_MACHINE = ("--dashboard-agent-listen-port=0", f"--object-store-memory={200 * 2**20}")
_START_WITHIN_S = 240


@dataclass(frozen=True, kw_only=True)
class Composed:
    """What the compose file says, with places of this machine in it.

    Attributes:
        services: by name.
        secrets: what `make up` puts into `infra/.env`.
        places: variables of the environment that name another place here.
    """

    services: Mapping[str, Any]
    secrets: Mapping[str, str]
    places: Mapping[str, str]

    @classmethod
    def on_this_machine(cls, folder: Path, **places: str) -> Composed:
        """With secrets that are drawn anew, in a file of `folder`."""
        compose = yaml.safe_load((_INFRA / "compose.yaml").read_text(encoding="utf-8"))
        file = folder / "env"
        subprocess.run([_INFRA / "secrets.sh", file], check=True)
        lines = file.read_text(encoding="utf-8").splitlines()
        secrets = dict(line.split("=", 1) for line in lines)
        return cls(services=compose["services"], secrets=secrets, places=places)

    def environment(self, service: str) -> dict[str, str]:
        """Of a service, beside that of this process."""
        told = {
            name: _SECRET.sub(lambda found: self.secrets[found[1]], value)
            for name, value in self.services[service]["environment"].items()
        }
        ours = {"PATH": f"{_PROGRAMS}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        here = {name: place for name, place in self.places.items() if name in told}
        return {**os.environ, **ours, **told, **here}

    def command(self, service: str, **others: str) -> list[str]:
        """Of a service, with other values of some options, which it must have."""
        command = list(self.services[service]["command"])
        for name, value in others.items():
            option = f"--{name.replace('_', '-')}="
            (place,) = [at for at, word in enumerate(command) if word.startswith(option)]
            command[place] = option + value
        return command


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """A head and a worker that are up.

    Attributes:
        head: as the command sees it.
        metrics: where the head exports them, and the worker.
    """

    head: RayHead
    metrics: Sequence[str]

    def told(self, what: str) -> list[dict[str, Any]]:
        """What the head tells of its `nodes`, or of the `tasks` of all jobs."""
        headers = {"Authorization": f"Bearer {self.head.environment['RAY_AUTH_TOKEN']}"}
        url = f"{self.head.url}/api/v0/{what}"
        answer = requests.get(url, headers=headers, timeout=30)
        answer.raise_for_status()
        told: list[dict[str, Any]] = answer.json()["data"]["result"]["result"]
        return told


@contextmanager
def composed_nodes(composed: Composed) -> Iterator[Nodes]:
    """Start the head, then the worker, as the file has it, and end both."""
    gcs, jobs, client, *metrics = (str(port) for port in free_ports(5))
    check = composed.services["head"]["healthcheck"]["test"][-1]
    healthy = re.search(r"http://\S+", check)[0].replace(":8265", f":{jobs}")
    # Ray's sockets need a short path
    with (
        tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as short,
        ExitStack() as started,
    ):

        def start(service: str, command: list[str]) -> tuple[subprocess.Popen[bytes], Path]:
            log = Path(short) / f"{service}.log"
            with log.open("wb") as said:
                process = subprocess.Popen(
                    [str(_PROGRAMS / command[0]), *command[1:], *_OF_ONE_MACHINE],
                    env=composed.environment(service),
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            started.callback(end_ray, process)
            return process, log

        command = composed.command("head", port=gcs, metrics_export_port=metrics[0])
        command += [f"--dashboard-port={jobs}", f"--ray-client-server-port={client}"]
        head = start("head", [*command, f"--temp-dir={short}/ray"])
        _wait(head, lambda: "success" in requests.get(healthy, timeout=10).text)
        url, address = f"http://127.0.0.1:{jobs}", f"127.0.0.1:{gcs}"
        nodes = Nodes(
            head=RayHead(
                url=url,
                gcs=address,
                environment={**composed.environment("scalr"), "RAY_ADDRESS": url},
            ),
            metrics=[f"http://127.0.0.1:{port}/metrics" for port in metrics],
        )
        command = composed.command("worker", address=address, metrics_export_port=metrics[1])
        worker = start("worker", command)
        _wait(worker, lambda: [node["state"] for node in nodes.told("nodes")] == ["ALIVE"] * 2)
        yield nodes


def _wait(node: tuple[subprocess.Popen[bytes], Path], ready: Callable[[], bool]) -> None:
    process, log = node
    until = time.monotonic() + _START_WITHIN_S
    while True:
        with suppress(requests.RequestException):
            if ready():
                return
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < until, log.read_text(encoding="utf-8")
        time.sleep(0.5)
