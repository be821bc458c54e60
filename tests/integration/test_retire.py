"""Taking a batch back: out of the table and noted, once, whatever is repeated or goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opened_repos import repo_fixture, scalr_fixture, workspace_fixture  # noqa: F401 - fixtures
from quick_repos import add_batch, files_below, rows_of

from scalr_ray.cli.main import main
from scalr_ray.core.errors import UsageError
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState


def held_by(workspace: Workspace, name: str, *batch_ids: str) -> None:
    """A saved training set, as far as anybody asks what is in it."""
    folder = workspace.layout.training_sets / name
    folder.mkdir(parents=True)
    manifest = {"batches": dict.fromkeys(batch_ids, 3), "rows_sha256": "0", "snapshot_id": None}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_batch_is_gone_from_the_view_and_stays_where_it_was_pinned(scalr, workspace):
    for batch_id in ("b1", "b2"):
        add_batch(workspace, batch_id, state=BatchState.PUBLISHED)
    snapshot = workspace.lake.current_snapshot_id()
    held_by(workspace, "with-it", "b1", "b2")
    held_by(workspace, "without-it", "b2")
    retired = scalr.retire("b1", why="the feed was wrong")
    assert retired.record.state is BatchState.RETIRED
    assert retired.record.reason == "the feed was wrong"
    assert retired.training_sets == ("with-it",)
    assert set(workspace.lake.published_batches()) == {"b2"}
    assert workspace.lake.read(snapshot_id=snapshot, batch_ids=["b1"]).num_rows == 12


def test_again_changes_nothing(scalr, workspace):
    add_batch(workspace, "b1", state=BatchState.PUBLISHED)
    first = scalr.retire("b1", why="the feed was wrong")
    snapshot = workspace.lake.current_snapshot_id()
    again = scalr.retire("b1", why="another reason")
    assert again == first
    assert workspace.lake.current_snapshot_id() == snapshot


def test_what_was_cut_off_is_finished_by_the_same_call(scalr, workspace):
    add_batch(workspace, "b1", state=BatchState.PUBLISHED)
    workspace.lake.retire("b1")
    assert scalr.retire("b1", why="the feed was wrong").record.reason == "the feed was wrong"
    assert scalr.recover() == []


@pytest.mark.parametrize("state", [BatchState.STAGED, BatchState.ACCEPTED, BatchState.REJECTED])
def test_only_what_is_published_can_be_retired(scalr, workspace, state):
    add_batch(workspace, "b1", state=state)
    with pytest.raises(UsageError, match=f"b1 is {state.value}, so there is nothing to retire"):
        scalr.retire("b1")
    assert workspace.ledger.batch("b1").state is state


def test_the_command_says_what_it_did_and_what_it_cannot_do(repo, workspace, capsys):
    add_batch(workspace, "b1", state=BatchState.PUBLISHED)
    held_by(workspace, "kept", "b1")
    assert main(["--repo", str(repo), "retire", "b1", "--why", "a mistake"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "b1 is retired: a mistake",
        "saved training sets that hold rows of it, and still load: kept",
    ]
    assert main(["--repo", str(repo), "retire", "b2"]) == 2
    error = capsys.readouterr().err
    assert error == "scalr: there is no batch b2; generate one first\n"


def test_a_preview_of_publishing_says_what_would_change_and_changes_nothing(
    repo, workspace, capsys
):
    add_batch(workspace, "old", state=BatchState.PUBLISHED)
    add_batch(workspace, "new", state=BatchState.ACCEPTED, rows=rows_of("new", 7))
    workspace.ledger.replace_batches("new", ["old"])
    before = files_below(Path(workspace.layout.warehouse))
    assert main(["--repo", str(repo), "--json", "publish", "--dry-run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("size_bytes") > 1000
    assert told == {
        "batch_id": "new",
        "already_published": False,
        "files": 1,
        "rows": 7,
        "batches_before": 1,
        "rows_before": 12,
        "batches_after": 2,
        "rows_after": 19,
        "retires": ["old"],
    }
    assert files_below(Path(workspace.layout.warehouse)) == before
    assert workspace.ledger.batch("new").state is BatchState.ACCEPTED
    assert workspace.ledger.batch("old").state is BatchState.PUBLISHED
    add_batch(workspace, "staged")
    assert main(["--repo", str(repo), "publish", "staged", "--dry-run"]) == 2
    assert "is staged, not accepted; run `scalr gate` first" in capsys.readouterr().err
