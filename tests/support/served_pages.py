"""A repository with something of each kind to look at, and `scalr ui` over it in a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import quote, urlsplit

import pyarrow as pa
from lake_rows import NOON, SCHEMA, event
from quick_repos import add_batch, add_events, quick_repo

from scalr_ray.core.layout import Layout
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.reports import told_of_report
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState, Finding, RunRecord
from training.report import write_report

HOSTILE = "<script>alert('a')</script>&\"x"
RUNS = 60
HOSTILE_PATH = f"/batches/{quote(HOSTILE, safe='')}"
FINDINGS = (
    Finding(check="clocks", passed=True, detail="every row could have been known"),
    Finding(check="drift", passed=True, value=0.3127, threshold=2.0, detail=f"of {HOSTILE}"),
)

COMMAND = (sys.executable, "-m", "scalr_ray.cli.main")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A repository that is served, where, and its runs, newest first."""

    repo: Path
    address: str
    runs: Sequence[RunRecord]

    @property
    def reported(self) -> str:
        """The run that wrote a report."""
        return self.runs[0].run_id

    @property
    def paths(self) -> list[str]:
        """Paths of pages of each kind that ask neither Feast nor the table."""
        lists = ["/", "/runs", "/runs?page=2", "/batches", "/translators", "/lineage"]
        things = ["/batches/b1", "/batches/b2", HOSTILE_PATH, "/translators/neural-b2"]
        return [*lists, *things, *(f"/runs/{run.run_id}" for run in self.runs[:2])]


def shown_repo(folder: Path, database_url: str | None = None) -> Path:
    """A repository without Feast: batches in each state, a report, and names that mean harm."""
    repo = quick_repo(folder, database_url)
    layout = Layout.of(repo)
    add_events(layout, "source_events", [f"u{slot}" for slot in range(40)], "source")
    add_events(layout, "target_events", [f"u{slot}" for slot in range(36)], "target")
    with closing(Workspace(repo, (), Progress())) as workspace:
        ledger, settings = workspace.ledger, workspace.config.fingerprint
        for _ in range(RUNS):
            with ledger.running("apply", {}, settings, 0):
                pass
        rows = [event("b1", slot) | {"translator_version": "neural-b1"} for slot in range(12)]
        add_batch(workspace, "b1", rows=pa.Table.from_pylist(rows, schema=SCHEMA))
        ledger.judge_batch("b1", findings=FINDINGS, to=BatchState.ACCEPTED, reason=None)
        snapshot = workspace.lake.publish("b1").snapshot_id
        ledger.move_batch(
            "b1", expected=BatchState.ACCEPTED, to=BatchState.PUBLISHED, snapshot_id=snapshot
        )
        ledger.set_watermarks("b1", {"source": NOON - timedelta(hours=1)})
        add_batch(workspace, "b2", state=BatchState.REJECTED)
        run_id = ledger.batch("b1").run_id
        ledger.add_batch(
            batch_id=HOSTILE, run_id=run_id, translator_version="neural-b1", as_of=NOON, rows=1
        )
        ledger.flag_translator("neural-b2", f"trained on {HOSTILE}")
        settings_told = workspace.config.model_dump(mode="json")
        with ledger.running("evaluate", settings_told, settings, 0) as run:
            out = folder / "report"
            write_report(out, {"verdict": "helps", "sentence": "It helps."})
            run.metrics.update(told_of_report(["b1"], out), verdict="helps")
    return repo


@contextmanager
def served(repo: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of `scalr ui` over a repository, and its process; it is ended by Ctrl-C."""
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        serving = subprocess.Popen(
            [*COMMAND, "--repo", str(repo), "ui", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    finally:
        signal.signal(signal.SIGINT, heeded)
    with serving:
        try:
            address = serving.stdout.readline().strip()
            if not address:
                raise RuntimeError(serving.stderr.read())
            yield address, serving
        finally:
            if serving.poll() is None:
                serving.send_signal(signal.SIGINT)


def ask(
    address: str, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[HTTPResponse, str]:
    """An answer and its content, of a server asked for a path exactly as it stands."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
    with closing(connection):
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer, answer.read().decode()
