"""Overruling the gate: for the worth of events alone, for a reason, and never by half."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from killing import killed_at_step
from lake_rows import SCHEMA, event
from opened_repos import scalr_fixture, workspace_fixture  # noqa: F401 - fixtures
from quick_repos import USER, add_batch, holding, quick_repo, workspace_of

from scalr_ray import Scalr
from scalr_ray.cli.main import main
from scalr_ray.core.errors import DataError, GateRefused, RetryLater, UsageError
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState, Finding

WHY = "a test of our own says so"
CLOCKS = Finding(check="clocks", passed=True, value=0.0, threshold=0.0, detail="by the cut")
HARM = Finding(check="trial_harm", passed=False, detail="the downstream model loses for warm users")
GAIN = Finding(
    check="trial_gain",
    passed=False,
    value=-0.01,
    threshold=0.0,
    detail="hidden users, over real events alone: +0.020 nats per event [-0.010, +0.050]",
)
TWICE = Finding(
    check="unique_pair", passed=False, value=2.0, detail="2 rows break the rule: no item twice"
)
SAID = f"{WHY} (against trial_gain: {GAIN.detail}; trial_harm: {HARM.detail})"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return quick_repo(tmp_path)


def refuse(workspace: Workspace, batch_id: str, *failed: Finding) -> None:
    add_batch(workspace, batch_id, state=BatchState.REJECTED, findings=[CLOCKS, *failed])


def test_without_force_every_figure_is_told_and_nothing_is_published(repo, workspace, capsys):
    refuse(workspace, "b1", GAIN, HARM)
    assert main(["--repo", str(repo), "publish", "b1"]) == 3
    said = capsys.readouterr().err
    assert said.startswith(
        f"scalr: b1 was refused by the gate (trial_gain: {GAIN.detail}; trial_harm: {HARM.detail});"
    )
    assert said.endswith("or overrule it with `scalr publish b1 --force --why TEXT`\n")
    assert said.count("\n") == 1
    assert workspace.lake.published_batches() == {}


def test_by_force_it_is_published_and_whoever_looks_is_told_why(repo, workspace, capsys):
    refuse(workspace, "b1", GAIN, HARM)
    call = ["--repo", str(repo), "--json", "publish", "b1", "--force", "--why", WHY]
    assert main([*call, "--dry-run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["forced"], told["rows"], told["batches_after"]) == (SAID, 12, 1)
    assert workspace.ledger.batch("b1").state is BatchState.REJECTED
    assert workspace.ledger.forcing("b1") is None
    for already in (False, True):  # again changes nothing
        assert main(call) == 0
        assert json.loads(capsys.readouterr().out)["already_published"] is already
    batch = workspace.ledger.batch("b1")
    assert (batch.state, batch.reason) == (BatchState.PUBLISHED, f"forced: {SAID}")
    assert [check.check for check in workspace.ledger.verdicts("b1")].count("forced") == 1
    assert workspace.lake.read().num_rows == 12


def test_the_screens_show_it_for_as_long_as_the_ledger_is(repo, scalr, workspace, capsys):
    rows = [event("b1", slot, translator_version="neural-b1") for slot in range(3)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    add_batch(workspace, "b1", state=BatchState.REJECTED, rows=table, findings=[CLOCKS, GAIN])
    scalr.publish("b1", force=True, why=WHY)
    forced = f"forced, 1 of 2 checks passed: {WHY} (against trial_gain: {GAIN.detail})"
    newest = scalr.status().newest
    assert newest is not None
    assert newest.verdict == forced
    assert main(["--repo", str(repo), "runs"]) == 0
    assert "publish --force" in capsys.readouterr().out
    assert main(["--repo", str(repo), "lineage", "b1/0"]) == 0
    assert f"published by force: {WHY}" in capsys.readouterr().out
    run = next(run for run in scalr.runs() if run.verb == "publish")
    assert run.metrics["forced"]["batch"] == "b1"
    assert WHY in run.metrics["forced"]["why"]
    scalr.retire("b1", why="it was wrong")
    kept = workspace.ledger.forcing("b1")
    assert kept is not None
    assert kept.detail.startswith(WHY)
    with pytest.raises(UsageError, match="b1 was published by force and is retired now"):
        scalr.publish("b1", force=True, why=WHY)


def test_whether_rows_are_right_cannot_be_overruled(scalr, workspace):
    refuse(workspace, "b1", TWICE, GAIN)
    for verb in (scalr.publish, scalr.publish_preview):
        with pytest.raises(GateRefused, match=r"b1 cannot be forced \(unique_pair: 2 rows break"):
            verb("b1", force=True, why=WHY)
    with pytest.raises(GateRefused) as refused:
        scalr.publish("b1")
    assert "--force" not in str(refused.value)
    add_batch(workspace, "unknown", state=BatchState.REJECTED)
    with pytest.raises(GateRefused, match="unknown cannot be forced"):
        scalr.publish("unknown", force=True, why=WHY)
    assert workspace.lake.published_batches() == {}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (BatchState.STAGED, "b1 is staged; run `scalr gate` first"),
        (BatchState.ACCEPTED, "b1 is accepted; there is nothing to overrule"),
        (BatchState.PUBLISHED, "b1 is published; there is nothing to overrule"),
    ],
)
def test_what_was_not_refused_is_not_forced(scalr, workspace, state, says):
    add_batch(workspace, "b1", state=state)
    with pytest.raises(UsageError, match=says):
        scalr.publish("b1", force=True, why=WHY)
    assert workspace.ledger.forcing("b1") is None


def test_a_name_and_a_reason_are_asked_for(scalr, workspace):
    refuse(workspace, "b1", GAIN)
    with pytest.raises(UsageError, match="--force needs the name of a batch"):
        scalr.publish(force=True, why=WHY)
    for why in ("", " \n"):
        with pytest.raises(UsageError, match="--force needs a reason"):
            scalr.publish("b1", force=True, why=why)
    with pytest.raises(UsageError, match="it goes with --force"):
        scalr.publish("b1", why=WHY)


def test_what_was_published_since_may_hold_the_same(scalr, workspace):
    refuse(workspace, "b1", GAIN)
    add_batch(workspace, "b2", state=BatchState.PUBLISHED)
    with pytest.raises(UsageError, match="b2 was published after the gate looked at b1"):
        scalr.publish("b1", force=True, why=WHY)
    refuse(workspace, "b3", GAIN)
    scalr.publish("b3", force=True, why=WHY)
    assert set(workspace.lake.published_batches()) == {"b2", "b3"}


def test_collecting_and_forcing_keep_out_of_each_others_way(scalr, workspace):
    refuse(workspace, "b1", GAIN)
    with workspace.run("gc"), pytest.raises(RetryLater, match="`scalr gc` is under way"):
        scalr.publish("b1", force=True, why=WHY)
    with workspace.run("publish"):
        scalr.gc()
    assert workspace.lake.staged_batches() == {"b1": 12}
    scalr.gc()
    with pytest.raises(DataError, match="no events of b1 are staged any more"):
        scalr.publish("b1", force=True, why=WHY)
    assert workspace.ledger.batch("b1").state is BatchState.REJECTED


def test_a_user_who_was_erased_in_between_is_not_in_it(scalr, workspace):
    refuse(workspace, "b1", GAIN)
    scalr.erase([USER])
    scalr.publish("b1", force=True, why=WHY)
    assert workspace.ledger.batch("b1").rows == workspace.lake.read().num_rows == 8
    assert holding(workspace.layout.data, USER) == []


def test_a_user_who_is_erased_between_the_word_and_the_deed_takes_no_word_away(scalr, workspace):
    refuse(workspace, "b1", GAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(workspace.lake), "publish", _dies)
        with pytest.raises(ZeroDivisionError):
            scalr.publish("b1", force=True, why=WHY)
    assert workspace.ledger.batch("b1").state is BatchState.ACCEPTED
    scalr.erase([USER])
    scalr.publish("b1")
    batch = workspace.ledger.batch("b1")
    assert (batch.state, batch.rows) == (BatchState.PUBLISHED, 8)
    assert str(batch.reason).startswith(f"forced: {WHY}")


def _dies(*_: object) -> None:
    raise ZeroDivisionError


def force(repo: str) -> None:
    with Scalr(repo) as scalr:
        scalr.publish("b1", force=True, why=WHY)


def test_killed_at_any_step_it_is_whole_or_absent_and_can_be_done_again(tmp_path):
    step, found = 1, set()
    while BatchState.PUBLISHED not in found:  # from there on it is a batch like any other
        repo = quick_repo(tmp_path / str(step))
        with Scalr(repo) as scalr:
            refuse(workspace_of(scalr), "b1", GAIN)
        assert killed_at_step(step, force, str(repo))
        with Scalr(repo) as scalr:
            scalr.recover()
            workspace = workspace_of(scalr)
            assert workspace.ledger.running_runs() == []
            state = workspace.ledger.batch("b1").state
            there = state is BatchState.PUBLISHED
            assert (workspace.lake.read().num_rows == 12) is there
            assert (workspace.ledger.forcing("b1") is None) is (state is BatchState.REJECTED)
            assert workspace.lake.staged_batches() == ({} if there else {"b1": 12})
            scalr.publish("b1", force=True, why=WHY)
            assert str(workspace.ledger.batch("b1").reason).startswith(f"forced: {WHY}")
            assert workspace.lake.read().num_rows == 12
            assert scalr.recover() == []
        found.add(state)
        step += 1
    assert step > 5
    assert found == {BatchState.REJECTED, BatchState.ACCEPTED, BatchState.PUBLISHED}
