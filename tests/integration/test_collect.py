"""What `gc` removes, and what it leaves, held against a walk over everything that is reachable."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from opened_repos import repo_fixture, scalr_fixture, workspace_fixture  # noqa: F401 - fixtures
from quick_repos import add_batch, files_below, quick_repo, reachable, rows_of, workspace_of

from scalr_ray import Scalr
from scalr_ray.cli.main import main
from scalr_ray.jobs.collect import collect
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState

LONG, SHORT = timedelta(days=40), timedelta(hours=30)
SNAPSHOTS, ORPHANS = "snapshots", "files of the lake that nothing names"
REJECTED = "staged files of rejected batches"
WORK = "unfinished work and files half written"


def later(by: timedelta) -> datetime:
    return datetime.now(UTC) + by


def by_kind(workspace: Workspace, when: datetime, *, dry_run: bool = False) -> dict[str, set[str]]:
    found = collect(workspace, dry_run=dry_run, now=when)
    assert all(kind.count == len(kind.names) for kind in found)
    return {kind.what: set(kind.names) for kind in found}


def rows(table: pa.Table) -> list[str]:
    return sorted(table["event_id"].to_pylist())


@pytest.mark.parametrize("seed", range(4))
def test_what_can_be_reached_stays_and_nothing_else(workspace, seed):
    draw = random.Random(seed)  # noqa: S311 - no secret
    ledger, lake = workspace.ledger, workspace.lake
    pinned: dict[int, list[str]] = {}
    for number in range(8):
        state = draw.choice(list(BatchState))
        add_batch(workspace, f"b{number}", state=state, rows=rows_of(f"b{number}", 6))
        snapshot = lake.current_snapshot_id()
        if snapshot is not None and draw.random() < 0.4:
            name = f"set-{number}"
            ledger.pin(name, snapshot_id=snapshot, path="", manifest_fingerprint=name)
            pinned[snapshot] = rows(lake.read(snapshot_id=snapshot))
    if draw.random() < 0.5:
        lake.compact()
    shown = rows(lake.read())
    waiting = {
        batch.batch_id: rows(lake.read_staged(batch.batch_id))
        for state in (BatchState.STAGED, BatchState.ACCEPTED)
        for batch in ledger.batches(state)
    }
    when = later(LONG)
    foreseen = by_kind(workspace, when, dry_run=True)
    before = files_below(Path(workspace.layout.warehouse))
    assert by_kind(workspace, when) == foreseen
    after = files_below(Path(workspace.layout.warehouse))
    # Everything that anybody needs is there ...
    for snapshot, expected in pinned.items():
        assert rows(lake.read(snapshot_id=snapshot)) == expected
    assert rows(lake.read()) == shown
    for batch_id, expected in waiting.items():
        assert rows(lake.read_staged(batch_id)) == expected
    for batch in ledger.batches(BatchState.ACCEPTED):
        assert lake.publish(batch.batch_id).rows == 6
    # ... and of all that was removed a walk over the metadata finds nothing.
    assert not (before - after) & reachable(workspace.layout)
    assert foreseen[ORPHANS] <= before - after
    expected = set(pinned) | {lake.current_snapshot_id()}
    kept = {snapshot.snapshot_id for snapshot in lake.snapshots()}
    assert {*pinned} <= kept
    assert len(kept - expected) <= 1 + len(ledger.batches(BatchState.ACCEPTED))


def test_nothing_is_left_over_and_a_second_time_finds_nothing(workspace):
    ledger, lake = workspace.ledger, workspace.lake
    for number, state in enumerate(BatchState):
        add_batch(workspace, f"b{number}", state=state)
    lake.write_staged("unknown", rows_of("unknown"))
    when = later(LONG)
    found = by_kind(workspace, when)
    assert found[REJECTED] == {batch.batch_id for batch in ledger.batches(BatchState.REJECTED)}
    assert len(found[SNAPSHOTS]) == 2
    assert any("unknown" in path for path in found[ORPHANS])
    staged = {file for batch in lake.staged_batches() for file in lake.staged_files(batch)}
    left = files_below(Path(workspace.layout.warehouse)) - reachable(workspace.layout) - staged
    assert {Path(path).name for path in left} == {"_staged.json"}
    assert {kind: names for kind, names in by_kind(workspace, when).items() if names} == {}


def test_what_is_young_stays(workspace):
    for number, state in enumerate(BatchState):
        add_batch(workspace, f"b{number}", state=state)
    work = workspace.layout.generation / "batch-1" / "work" / "part-0.parquet"
    work.parent.mkdir(parents=True)
    pq.write_table(pa.table({"n": [1]}), work)
    found = by_kind(workspace, datetime.now(UTC))
    assert found[SNAPSHOTS] == found[ORPHANS] == found[WORK] == set()
    assert len(by_kind(workspace, later(SHORT))[WORK]) == 1
    assert not work.exists()


def test_what_a_run_may_be_writing_stays_however_old_it_is_said_to_be(workspace):
    hidden = workspace.layout.events("source_events") / ".part-1.parquet.tmp"
    with workspace.run("import") as run:
        hidden.parent.mkdir(parents=True)
        hidden.write_bytes(b"PAR1")
        workspace.lake.write_staged("being-made", rows_of("being-made"))
        found = by_kind(workspace, later(LONG))
        assert found[ORPHANS] == found[WORK] == set()
        assert run.run_id
    assert by_kind(workspace, later(LONG))[WORK] == {str(hidden)}


def test_translators_that_the_ledger_does_not_know_go(workspace):
    add_batch(workspace, "b1")
    known = Path(workspace.ledger.translators()[0].path)
    stray = workspace.layout.translators / "frequency-stray"
    for folder in (known, stray):
        folder.mkdir(parents=True)
        (folder / "translator.json").write_text("{}")
    assert by_kind(workspace, later(SHORT))[WORK] == {str(stray)}
    assert known.exists()


def test_the_command_shows_counts_and_bytes(tmp_path, capsys):
    repo = quick_repo(tmp_path)
    with Scalr(repo) as scalr:
        add_batch(workspace_of(scalr), "b1", state=BatchState.REJECTED)
    before = files_below(repo)
    assert main(["--repo", str(repo), "--json", "gc", "--dry-run"]) == 0
    (rejected, *_) = json.loads(capsys.readouterr().out)
    assert (rejected["what"], rejected["names"]) == (REJECTED, ["b1"])
    assert rejected["size_bytes"] > 1000
    assert files_below(repo) >= before
    assert main(["--repo", str(repo), "gc"]) == 0
    told = capsys.readouterr()
    assert f"{rejected['size_bytes']:,}" in told.out
    with Scalr(repo) as scalr:
        assert workspace_of(scalr).lake.staged_batches() == {}
        assert [run.verb for run in scalr.runs(1)] == ["gc"]
