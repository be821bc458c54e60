"""What OpenLineage is told of runs: to a file and over HTTP, and that no run ends by it."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from quick_repos import add_batch, quick_repo

from scalr_ray.core.errors import UsageError
from scalr_ray.jobs import open_lineage
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.retire import retire
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file of the host is seen; what the client writes into the environment goes again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE__")]:
        del os.environ[name]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with closing(Workspace(quick_repo(tmp_path), (), Progress())) as opened:
        add_batch(opened, "b1", state=BatchState.PUBLISHED)
        yield opened


def events_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def told_of(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["job"]["name"], event["eventType"]) for event in events]


def test_a_file_named_by_its_own_configuration_is_told_how_runs_end(workspace, tmp_path):
    (tmp_path / "openlineage.yml").write_text(
        f"transport: {{type: file, log_file_path: {tmp_path / 'told.json'}, append: true}}\n"
    )
    retire(workspace, "b1")
    with pytest.raises(UsageError):
        retire(workspace, "b2")
    began, done, again, failed = events_in(tmp_path / "told.json")
    assert told_of([began, done, again, failed]) == [
        ("scalr.retire", state) for state in ("START", "COMPLETE", "START", "FAIL")
    ]
    assert began["run"]["runId"] == done["run"]["runId"] != failed["run"]["runId"]
    assert [data["name"] for data in done["inputs"]] == ["b1"]
    assert done["inputs"][0]["namespace"] == "scalr://scalr"
    assert [data["namespace"] for data in done["outputs"]] == ["file"]
    assert began["inputs"] == began["outputs"] == failed["outputs"] == []
    assert failed["run"]["facets"]["errorMessage"]["message"].startswith("there is no batch b2")
    assert "stackTrace" not in failed["run"]["facets"]["errorMessage"]


@contextmanager
def a_server(answers: int) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """Takes what is posted; its address, and what came."""
    came: list[tuple[str, dict[str, Any]]] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.path, json.loads(body)))
            self.send_response(answers)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_is_told_over_http(workspace, monkeypatch):
    with a_server(201) as (url, came):
        monkeypatch.setenv("OPENLINEAGE_URL", url)
        retire(workspace, "b1")
    assert {path for path, _ in came} == {"/api/v1/lineage"}
    assert told_of([event for _, event in came]) == [
        ("scalr.retire", "START"),
        ("scalr.retire", "COMPLETE"),
    ]


def test_a_server_that_refuses_ends_no_run(workspace, monkeypatch, caplog):
    with a_server(403) as (url, _), caplog.at_level(logging.WARNING):
        monkeypatch.setenv("OPENLINEAGE_URL", url)
        assert retire(workspace, "b1").record.state is BatchState.RETIRED
    assert "OpenLineage was not told of COMPLETE" in caplog.text


def test_where_it_is_not_installed_that_is_said(workspace, monkeypatch, caplog):
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "openlineage", None)
    with caplog.at_level(logging.WARNING):
        assert retire(workspace, "b1").record.state is BatchState.RETIRED
    assert "pip install 'scalr[lineage]'" in caplog.text


@pytest.mark.parametrize("switch", [{}, {"OPENLINEAGE_DISABLED": "true", "OPENLINEAGE_URL": "x"}])
def test_without_a_configuration_nobody_is_told(switch, monkeypatch):
    for name, value in switch.items():
        monkeypatch.setenv(name, value)
    assert not open_lineage.is_asked()


def test_a_table_in_s3_has_its_bucket_as_namespace(workspace):
    layout = replace(workspace.layout, warehouse_at="s3://bucket/some/prefix")
    table = open_lineage.table(layout, workspace.schema)
    assert (table.namespace, table.name) == ("s3://bucket", "some/prefix/scalr/synthetic_events")
