"""How a repository stands: read from ledger and table on both databases, without a change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from commands import call_scalr
from lake_rows import NOON
from opened_repos import repo_fixture  # noqa: F401 - the fixture `repo`
from planted_logs import bytes_below
from quick_repos import add_batch, add_events, quick_repo
from sqlalchemy import create_engine, inspect

from scalr_ray.core.config import load_config
from scalr_ray.core.errors import ConfigError
from scalr_ray.core.layout import Layout
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.status import Status, look
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState, Finding
from scalr_ray.ledger.owners import Owner

ONE_SECOND = 1.0


def opened(repo: Path) -> closing[Workspace]:
    return closing(Workspace(repo, (), Progress()))


def status_of(repo: Path, *settings: str) -> Status:
    return look(repo, load_config(repo, settings))


def with_events(repo: Path) -> None:
    layout = Layout.of(repo)
    add_events(layout, "source_events", [f"u{slot}" for slot in range(40)], "source")
    add_events(layout, "target_events", [f"u{slot}" for slot in range(36)], "target")


def test_an_empty_repository_is_looked_at_and_stays_empty(repo, database_url):
    before = bytes_below(repo.parent)
    told = status_of(repo)
    assert (told.newest, told.translator, told.batches, told.synthetic_frac) == (
        None,
        None,
        0,
        None,
    )
    assert told.open == ()
    assert told.watermarks == {}
    assert told.next_step.startswith("run `scalr import FILE`")
    assert bytes_below(repo.parent) == before
    if database_url.startswith("postgresql"):
        engine = create_engine(database_url)
        assert inspect(engine).get_table_names() == []
        engine.dispose()


def test_after_the_import_comes_the_first_run(repo):
    with_events(repo)
    told = status_of(repo)
    assert told.target_events == 36
    assert told.synthetic_frac == 0.0
    assert "`scalr run`" in told.next_step


def test_a_published_batch_is_told_of_and_nothing_changes(repo):
    with_events(repo)
    with opened(repo) as workspace:
        add_batch(workspace, "b1", state=BatchState.PUBLISHED)
        workspace.ledger.set_watermarks("b1", {"source": NOON - timedelta(hours=1)})
    before = bytes_below(repo.parent)
    told = status_of(repo)
    assert bytes_below(repo.parent) == before
    assert told.newest is not None
    assert (told.newest.batch_id, told.newest.events, told.newest.as_of) == ("b1", 12, NOON)
    assert told.newest.age_s == (told.looked_at - NOON).total_seconds()
    assert (told.batches, told.synthetic_events, told.synthetic_frac) == (1, 12, 0.25)
    assert told.translator is not None
    assert told.translator.version == "neural-b1"
    assert told.watermarks == {"source": NOON - timedelta(hours=1)}
    assert told.open == ()
    assert "older than increment.retrain_days" in told.next_step
    assert "nothing" in status_of(repo, "increment.retrain_days=30000").next_step


def test_the_verdict_is_that_of_the_gate(repo):
    with opened(repo) as workspace:
        add_batch(workspace, "b1")
        findings = [Finding(check=name, passed=name != "drift") for name in ("clocks", "drift")]
        workspace.ledger.judge_batch("b1", findings=findings, to=BatchState.ACCEPTED, reason=None)
        snapshot = workspace.lake.publish("b1").snapshot_id
        workspace.ledger.move_batch(
            "b1",
            expected=BatchState.ACCEPTED,
            to=BatchState.PUBLISHED,
            snapshot_id=snapshot,
        )
    newest = status_of(repo).newest
    assert newest is not None
    assert newest.verdict == "accepted, 1 of 2 checks passed"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (BatchState.STAGED, "run `scalr gate b1`: it is staged"),
        (BatchState.ACCEPTED, "run `scalr publish b1`: it is accepted"),
        (BatchState.REJECTED, "import newer events or change scalr.yaml: the gate refused"),
        (BatchState.RETIRED, "run `scalr run`"),
    ],
)
def test_what_waits_for_a_step_is_next(tmp_path, state, says):
    repo = quick_repo(tmp_path)
    with_events(repo)
    with opened(repo) as workspace:
        add_batch(workspace, "b1", state=state)
    assert status_of(repo).next_step.startswith(says)


def test_what_was_left_half_done_comes_first(repo):
    with_events(repo)
    with opened(repo) as workspace:
        add_batch(workspace, "b1", state=BatchState.ACCEPTED)
        workspace.lake.publish("b1")
        workspace.ledger.begin_erasure(["a"], "asked for")
    told = status_of(repo)
    assert [(thing.subject, thing.state) for thing in told.open] == [
        ("batch", "accepted, and in the table"),
        ("erasure", "begun"),
        ("batch", "accepted"),
    ]
    assert told.next_step == "run `scalr recover`: batch b1, accepted, and in the table"


def test_a_run_is_waited_for_and_one_that_died_is_not(tmp_path, monkeypatch):
    repo = quick_repo(tmp_path)
    with_events(repo)
    here = Owner.of_this_process()
    with opened(repo) as workspace:
        workspace.ledger.start_run("train", {}, "0" * 64, 0)
        assert status_of(repo).next_step.startswith("wait: `train` under way")
        gone = replace(here, started_at=here.started_at - timedelta(days=1))
        monkeypatch.setattr(Owner, "of_this_process", lambda: gone)
        run_id = workspace.ledger.start_run("generate", {}, "0" * 64, 0).run_id
    told = status_of(repo)
    assert told.next_step.startswith(f"run `scalr recover`: run {run_id}, `generate` its process")


def test_a_ledger_of_another_version_is_refused_in_one_line(repo, database_url):
    with opened(repo) as workspace:
        _ = workspace.ledger
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE scalr_ledger_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(ConfigError, match="revision 9999"):
        status_of(repo)


def test_a_look_takes_little_at_hundreds_of_batches(tmp_path):
    repo = quick_repo(tmp_path)
    with_events(repo)
    with opened(repo) as workspace:
        add_batch(workspace, "b", state=BatchState.PUBLISHED)
        run, ledger = workspace.ledger.latest_batch().run_id, workspace.ledger
        for slot in range(300):
            ledger.add_batch(
                batch_id=f"b{slot}", run_id=run, translator_version="neural-b", as_of=NOON, rows=1
            )
    status_of(repo)
    started = time.process_time()
    told = status_of(repo)
    assert time.process_time() - started < ONE_SECOND
    assert len(told.open) == 300


def test_the_command_tells_it_on_one_screen(repo):
    with_events(repo)
    with opened(repo) as workspace:
        add_batch(workspace, "b1", state=BatchState.PUBLISHED)
    shown = call_scalr(repo, "status")
    assert (shown.code, shown.err) == (0, "")
    assert len(shown.out.splitlines()) < 24
    for told in ("b1, 12 rows", "36 observed, 12 synthetic", "neural-b1", "GiB free", "next"):
        assert told in shown.out
    told = call_scalr(repo, "--json", "status").json
    assert (told["newest"]["batch_id"], told["synthetic_frac"]) == ("b1", 0.25)


def test_it_loads_neither_feast_nor_ray(tmp_path):
    repo = quick_repo(tmp_path)
    script = (
        "import sys; from scalr_ray.cli.main import main;"
        f"code = main(['--repo', {str(repo)!r}, '--json', 'status']);"
        "print(code, sorted({'feast', 'ray', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.fixture(name="heeding_control_c")
def heeding_control_c_fixture():
    """Processes that are started heed Ctrl-C, even where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_control_c")
def test_watching_ends_with_control_c(tmp_path):
    repo = quick_repo(tmp_path)
    command = [sys.executable, "-m", "scalr_ray.cli.main", "--repo", str(repo), "--json", "watch"]
    with subprocess.Popen(
        [*command, "--every", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as watching:
        looks = [json.loads(watching.stdout.readline()) for _ in range(2)]
        psutil.Process(watching.pid).send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (0, "")
    assert looks[0]["looked_at"] < looks[1]["looked_at"]
