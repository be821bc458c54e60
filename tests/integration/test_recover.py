"""What a crash leaves half done is made whole: each state by itself, and kill -9 at every step."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from kept_repos import KeptRepo, keeping
from killing import killed_at_step
from lake_rows import NOON
from opened_repos import repo_fixture, scalr_fixture, workspace_fixture  # noqa: F401 - fixtures
from quick_repos import (
    USER,
    add_batch,
    add_events,
    holding,
    quick_repo,
    rows_of,
    workspace_of,
)
from wholeness import assert_whole

from scalr_ray import Scalr
from scalr_ray.core.errors import RetryLater, UsageError
from scalr_ray.jobs.recover import Repair
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState, ErasureState, RunStatus
from scalr_ray.ledger.owners import Owner

if TYPE_CHECKING:
    from postgres_server import Database


def recovered(scalr: Scalr) -> list[Repair]:
    """What is found, which a dry run finds as well, and a second time is not there."""
    before = scalr.recover(dry_run=True)
    assert scalr.recover(dry_run=True) == before
    repairs = scalr.recover()
    assert [(each.subject, each.name, each.found) for each in repairs] == [
        (each.subject, each.name, each.found) for each in before
    ]
    left = [each for each in scalr.recover() if not each.done.startswith("left")]
    assert left == []
    return repairs


def state(workspace: Workspace, batch_id: str) -> BatchState:
    return workspace.ledger.batch(batch_id).state


def start_run(workspace: Workspace, owner: Owner, verb: str = "train") -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Owner, "of_this_process", classmethod(lambda _: owner))
        return workspace.ledger.start_run(verb, {}, "0", 0).run_id


def test_where_nothing_is_half_done_nothing_is_found(scalr, workspace):
    add_batch(workspace, "b1", state=BatchState.PUBLISHED)
    add_batch(workspace, "b2", state=BatchState.ACCEPTED)
    assert recovered(scalr) == []
    assert state(workspace, "b2") is BatchState.ACCEPTED


def test_a_run_is_given_up_when_its_process_is_gone_and_only_then(scalr, workspace):
    me = Owner.of_this_process()
    nobody = replace(me, pid=max(psutil.pids()) + 100_000)
    other = replace(me, started_at=NOON)  # the number was given out again
    dead = [start_run(workspace, owner) for owner in (nobody, other)]
    alive = start_run(workspace, me)
    repairs = recovered(scalr)
    assert [each.name for each in repairs] == dead
    runs = {run.run_id: run for run in workspace.ledger.runs()}
    assert {runs[run_id].error_code for run_id in dead} == {"interrupted"}
    assert runs[alive].status is RunStatus.RUNNING


def test_a_run_of_another_machine_is_left_until_it_is_named(scalr, workspace):
    there = replace(Owner.of_this_process(), host=f"not {socket.gethostname()}")
    run_id = start_run(workspace, there)
    (left,) = recovered(scalr)
    assert left.done == f"left; if it is dead, run `scalr recover --give-up {run_id}`"
    assert workspace.ledger.run(run_id).status is RunStatus.RUNNING
    with pytest.raises(UsageError, match="there is no run nothing"):
        scalr.recover(give_up=["nothing"])
    (given_up,) = scalr.recover(give_up=[run_id])
    assert given_up.done == "failed: interrupted"
    assert scalr.recover() == []


def test_ledger_and_table_agree_afterwards(scalr, workspace):
    ledger, lake = workspace.ledger, workspace.lake
    for name in ("committed", "replaced", "replacing", "lost", "back"):
        add_batch(workspace, name, state=BatchState.ACCEPTED)
    snapshot = lake.publish("committed").snapshot_id
    for name in ("replaced", "replacing", "lost", "back"):
        scalr.publish(name)
    ledger.replace_batches("replacing", ["replaced"])
    lake.retire("lost")
    ledger.move_batch("back", expected=BatchState.PUBLISHED, to=BatchState.RETIRED)
    found = {each.name: (each.found, each.done) for each in recovered(scalr)}
    assert found == {
        "committed": ("accepted, but in the table", "published"),
        "lost": ("published, but gone from the table of synthetic events", "retired"),
        "back": ("retired, but in the table", "taken out of the table"),
        "replaced": ("published, and replaced by replacing", "retired"),
    }
    assert ledger.batch("committed").snapshot_id == snapshot
    assert set(lake.published_batches()) == {"committed", "replacing"}
    assert {batch.batch_id for batch in ledger.batches(BatchState.PUBLISHED)} == {
        "committed",
        "replacing",
    }
    assert ledger.batch("lost").reason == "gone from the table of synthetic events"


def test_a_staged_batch_that_the_ledger_does_not_know_goes_unless_it_is_being_made(
    scalr, workspace
):
    workspace.lake.write_staged("unknown", rows_of("unknown"))
    run_id = start_run(workspace, Owner.of_this_process(), "generate")
    assert recovered(scalr) == []
    workspace.ledger.finish_run(run_id, {})
    (gone,) = recovered(scalr)
    assert (gone.name, gone.done) == ("unknown", "removed")
    assert workspace.lake.staged_batches() == {}


def test_the_ledger_counts_what_is_staged(scalr, workspace):
    add_batch(workspace, "b1")
    workspace.lake.erase([USER])
    (repair,) = recovered(scalr)
    assert repair.done == "8 rows in the ledger"
    assert workspace.ledger.batch("b1").rows == 8


def test_files_and_translators_that_were_being_written_are_mended(scalr, workspace):
    layout = workspace.layout
    half = layout.events("source_events") / ".part-1.parquet.tmp"
    for path in (half, layout.rejected / ".batch-1.half" / "part-0.parquet"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"PAR1")
    replaced = layout.translators / ".frequency-1.replaced"
    replaced.mkdir(parents=True)
    (replaced / "translator.json").write_text("{}")
    found = {(each.subject, each.name) for each in recovered(scalr)}
    assert found == {
        ("file", "events/source_events/.part-1.parquet.tmp"),
        ("file", "rejected/.batch-1.half"),
        ("translator", "frequency-1"),
    }
    assert (layout.translators / "frequency-1" / "translator.json").exists()
    assert not half.exists()


def test_what_somebody_is_writing_is_left_alone(scalr, workspace):
    half = workspace.layout.events("source_events") / ".part-1.parquet.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"PAR1")
    start_run(workspace, Owner.of_this_process())
    assert recovered(scalr) == []
    assert half.exists()


def test_an_erasure_whose_ids_are_gone_is_told(scalr, workspace):
    record = workspace.ledger.begin_erasure(["f00d"], "")
    (left,) = scalr.recover()
    assert left == Repair(
        subject="erasure",
        name=record.erasure_id,
        found="its ids are gone",
        done="left: call `scalr erase` again with the same ids",
    )


def test_an_erasure_waits_for_runs_and_is_finished_by_recovering(scalr, workspace):
    add_batch(workspace, "b1", state=BatchState.PUBLISHED)
    me = Owner.of_this_process()
    run_id = start_run(workspace, me)
    with pytest.raises(RetryLater, match=rf"run {run_id} \(train\) is under way"):
        scalr.erase([USER])
    assert workspace.ledger.erasures() == []
    workspace.ledger.finish_run(run_id, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scalr_ray.jobs.erase.drop_rows_of_users", _dies)
        with pytest.raises(ZeroDivisionError):
            scalr.erase([USER])
    (kept,) = workspace.layout.erasures.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    (repair,) = recovered(scalr)
    (record,) = workspace.ledger.erasures()
    assert (repair.name, repair.done) == (record.erasure_id, "finished")
    assert record.state is ErasureState.DONE
    assert holding(workspace.layout.data, USER) == []


def _dies(*_: object) -> None:
    raise ZeroDivisionError


def prepare(repo: Path) -> None:
    with Scalr(repo) as scalr:
        workspace = workspace_of(scalr)
        add_batch(workspace, "old", state=BatchState.PUBLISHED)
        add_batch(workspace, "new", state=BatchState.ACCEPTED)
        add_batch(workspace, "staged")
        workspace.ledger.replace_batches("new", ["old"])
        add_events(workspace.layout, "source_events", ["u1", USER, "u2"], "source")
        add_events(workspace.layout, "target_events", [USER, "u2"], "target")


def publish_new(repo: str) -> None:
    with Scalr(repo) as scalr:
        scalr.publish("new")


def retire_old(repo: str) -> None:
    with Scalr(repo) as scalr:
        scalr.retire("old", why="a mistake")


def erase_user(repo: str) -> None:
    with Scalr(repo) as scalr:
        scalr.erase([USER], why="asked to")


def recover_all(repo: str) -> None:
    with Scalr(repo) as scalr:
        scalr.recover()


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, module_database: Database | None
) -> Iterator[KeptRepo]:
    """What is killed at every step: prepared once on each database."""
    url = None if module_database is None else module_database.plain_url
    repo = quick_repo(tmp_path_factory.mktemp("prepared"), url)
    prepare(repo)
    with keeping(repo, module_database) as kept:
        yield kept


@pytest.fixture
def kept(prepared: KeptRepo) -> KeptRepo:
    prepared.bring_back()
    return prepared


@pytest.mark.parametrize("work", [publish_new, retire_old, erase_user])
def test_killed_at_any_step_and_recovered_everything_is_whole(kept, work):
    repo, step = kept.repo, 1
    while killed_at_step(step, work, str(repo)):
        recover_all(str(repo))
        assert_whole(repo)
        with Scalr(repo) as scalr:
            workspace = workspace_of(scalr)
            if work is erase_user and workspace.ledger.erasures():
                assert holding(workspace.layout.data, USER) == []
                assert kept.database is None or kept.database.holding(USER) == []
                assert workspace.lake.staged_batches()["staged"] == 8
        work(str(repo))  # what was killed can be done again
        with Scalr(repo) as scalr:
            assert scalr.recover() == []
        kept.bring_back()
        step += 1
    assert step > 5


def test_recovering_itself_may_be_killed_at_any_step(kept):
    repo, step = kept.repo, 1
    with Scalr(repo) as scalr:
        workspace = workspace_of(scalr)
        workspace.lake.publish("new")
        workspace.lake.write_staged("unknown", rows_of("unknown"))
    with keeping(repo, kept.database) as half_done:
        while killed_at_step(step, recover_all, str(repo)):
            recover_all(str(repo))
            assert_whole(repo)
            with Scalr(repo) as scalr:
                batches = workspace_of(scalr).ledger.batches()
            assert {batch.batch_id: batch.state for batch in batches} == {
                "new": BatchState.PUBLISHED,
                "old": BatchState.RETIRED,
                "staged": BatchState.STAGED,
            }
            half_done.bring_back()
            step += 1
    assert step > 5
