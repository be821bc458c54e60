"""Calls of the command with `SCALR_LOG=json`: each line of a run says which run and stage it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from quick_repos import add_batch, quick_repo

from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState, RunRecord


def call(repo: Path, *arguments: str) -> tuple[int, str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "scalr_ray.cli.main", "--repo", str(repo), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "SCALR_LOG": "json"},
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


def newest_run(repo: Path) -> RunRecord:
    with closing(Workspace(repo, (), Progress())) as workspace:
        return workspace.ledger.runs(limit=1)[0]


def test_a_run_is_told_in_lines_of_json_and_so_is_how_it_failed(tmp_path):
    repo = quick_repo(tmp_path)
    with closing(Workspace(repo, (), Progress())) as workspace:
        add_batch(workspace, "b1", state=BatchState.PUBLISHED)
    code, out, err = call(repo, "--json", "retire", "b1", "--why", "a wrong price")
    assert code == 0
    assert json.loads(out)["record"]["state"] == "retired"
    told = [json.loads(line) for line in err]
    run = newest_run(repo)
    assert {line["run"] for line in told} == {run.run_id}
    assert {line["stage"] for line in told} == {"retire"}
    assert "Take b1 out of the table" in [line["message"] for line in told]
    code, out, err = call(repo, "retire", "b2")
    assert (code, out) == (2, "")
    failed, last = [json.loads(line) for line in err]
    assert (failed["level"], failed["code"]) == ("error", "usage")
    assert (last["level"], last["message"]) == ("error", failed["message"])
    assert (last["exit_code"], last["code"]) == (2, "usage")
    assert "run" not in last  # it is over
