"""A user erased from everything there is: files, counts, lake, training sets; and kept out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commands import Answer, call_scalr
from lake_rows import event
from quick_repos import holding, workspace_of
from scheduled_runs import SETTINGS, make_repo, middle_of, small_log

from scalr_ray import Scalr
from scalr_ray.core.clock import EPOCH
from scalr_ray.core.errors import UsageError
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.core.subjects import SubjectKey
from scalr_ray.jobs.counting import counting_of
from scalr_ray.jobs.generate import find_translator
from scalr_ray.jobs.train import data_fingerprint
from scalr_ray.jobs.workspace import SOURCE_VIEW, Workspace
from scalr_ray.learn import TrainingEvents, translator_as_of
from scalr_ray.ledger import BatchState, ErasureState
from scalr_ray.offline_store.event_stream import query
from scalr_ray.translator import load_translator
from scalr_ray.translator.artifact import write_artifact
from scalr_ray.translator.storage import left_out

if TYPE_CHECKING:
    from postgres_server import Database

pytestmark = [pytest.mark.feast]

USER, NOBODY = "u000037", "u999999"
IDS = pa.string()
WEIGHTED = (
    "translator.event_weights={purchase: 3.3, view: 0.7}",
    "translator.pair_half_life_days=20",
    "translator.min_users=2",
)
CROWDED = ("translator.most_target_items=11",)  # the user has more, as some others have
NOISY = ("translator.noise_epsilon=5", "translator.min_users=2")


def command(repo: Path, *arguments: str) -> Answer:
    return call_scalr(repo, *arguments, settings=SETTINGS)


@dataclass(frozen=True, kw_only=True)
class Erased:
    """A repository from which a user was erased, and what was there before."""

    repo: Path
    database: Database | None
    log: pa.Table
    cut: datetime
    versions: dict[str, str]
    before: dict[str, pa.Table]
    foreseen: dict[str, Any]
    told: dict[str, Any]

    @property
    def layout(self) -> Layout:
        return Layout.of(self.repo)


def others(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.not_equal(rows["user_id"], USER))


def batch(workspace: Workspace, batch_id: str, version: str, cut: datetime) -> pa.Table:
    """Stage a batch of rows of three users and record it."""
    users = [USER, "u000001", "u000004"]
    rows = [
        event(batch_id, slot, user_id=users[slot % 3], item_id=f"i{slot}", available_at=cut)
        | {
            "translator_version": version,
            "event_timestamp": cut - timedelta(days=1),
            "train_cutoff": cut,
            "generated_at": cut,
        }
        for slot in range(9)
    ]
    table = pa.Table.from_pylist(rows, schema=synthetic_event_schema("string", "string"))
    config = workspace.config
    with workspace.ledger.running("generate", config.model_dump(mode="json"), "0", 0) as run:
        workspace.lake.write_staged(batch_id, table)
        workspace.ledger.add_batch(
            batch_id=batch_id,
            run_id=run.run_id,
            translator_version=version,
            as_of=cut,
            rows=table.num_rows,
        )
    return table


def accept(workspace: Workspace, batch_id: str) -> None:
    workspace.ledger.judge_batch(batch_id, findings=[], to=BatchState.ACCEPTED, reason=None)


def neural(workspace: Workspace, version: str, cut: datetime) -> None:
    """A net in the ledger, of which nobody asks more than whether it saw the user."""
    folder = workspace.layout.translators / version
    write_artifact(folder, kind="neural", settings={"without": []}, write=lambda _: None)
    with workspace.run("train") as run:
        workspace.ledger.add_translator(
            version=version,
            run_id=run.run_id,
            kind="neural",
            train_cutoff=cut,
            config_fingerprint="0",
            data_fingerprint="0",
            metrics={"transfers": True},
            path=str(folder),
        )


def save_training_set(repo: Path, name: str, cut: datetime) -> None:
    from training import build_mixed_dataset

    with Scalr(repo, SETTINGS) as scalr:
        store = workspace_of(scalr).store
        build_mixed_dataset(
            store, service="mixed_training_v1", start=EPOCH, end=cut, as_of=cut
        ).save(name)


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory, module_database: Database | None) -> Erased:
    folder = tmp_path_factory.mktemp("erase")
    log = small_log()
    cut = middle_of(log)
    # A row that is set aside names the user too.
    bad = log.filter(pc.equal(log["user_id"], USER)).slice(0, 1)
    bad = bad.set_column(bad.schema.get_field_index("item_id"), "item_id", pa.array([""]))
    log = pa.concat_tables([log, bad.cast(log.schema)])
    url = None if module_database is None else module_database.plain_url
    repo = make_repo(folder, log, database_url=url)
    versions = {}
    kinds = {"plain": (), "weighted": WEIGHTED, "crowded": CROWDED, "noisy": NOISY}
    for name, more in kinds.items():
        with Scalr(repo, (*SETTINGS, *more)) as scalr:
            versions[name] = scalr.train(cut).record.version
    with Scalr(repo, SETTINGS) as scalr:
        early = min(log["event_timestamp"].to_pylist()) + timedelta(microseconds=1)
        workspace = workspace_of(scalr)
        neural(workspace, "neural-1", cut)
        neural(workspace, "neural-early", early)
        for batch_id in ("published", "retired", "staged"):
            batch(workspace, batch_id, versions["plain"], cut)
        for batch_id in ("published", "retired"):
            accept(workspace, batch_id)
            scalr.publish(batch_id)
    save_training_set(repo, "kept", cut)
    with Scalr(repo, SETTINGS) as scalr:
        workspace = workspace_of(scalr)
        scalr.retire("retired", why="a mistake")
        work = workspace.layout.generation / "batch-9" / "work" / "part-0.parquet"
        work.parent.mkdir(parents=True)
        pq.write_table(pa.table({"user_id": [USER]}), work)
        before = {
            "events": all_events(workspace.layout),
            "published": workspace.lake.read(),
            "staged": workspace.lake.read_staged("staged"),
            "set": pq.read_table(workspace.layout.training_sets / "kept" / "rows.parquet"),
        }
        for version in versions.values():
            folder_of = workspace.layout.translators / version
            shutil.copytree(folder_of, folder / "translators" / version)
    assert len(holding(repo / "data", USER)) > 5
    users = folder / "users.txt"
    users.write_text(f"{USER}\r\n\n{NOBODY}\n", encoding="utf-8")
    foreseen = command(repo, "--json", "erase", "--file", str(users), "--dry-run")
    assert foreseen.code == 0, foreseen.err
    told = command(repo, "--json", "erase", "--file", str(users), "--why", "asked for it")
    assert told.code == 0, told.err
    return Erased(
        repo=repo,
        database=module_database,
        log=log,
        cut=cut,
        versions=versions,
        before=before,
        foreseen=json.loads(foreseen.out),
        told=json.loads(told.out),
    )


@pytest.fixture
def scalr(erased: Erased) -> Iterator[Scalr]:
    with Scalr(erased.repo, SETTINGS) as opened:
        yield opened


@pytest.fixture
def workspace(scalr: Scalr) -> Workspace:
    return workspace_of(scalr)


def all_events(layout: Layout) -> pa.Table:
    files = sorted((layout.data / "events").rglob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).sort_by("event_id")


def test_no_byte_of_the_user_is_left_in_any_file_or_database(erased):
    for user in (USER, NOBODY):
        assert holding(erased.repo / "data", user) == []
        if erased.database is not None:
            assert erased.database.holding(user) == []


def test_everybody_else_is_still_there_row_by_row(erased, workspace):
    before = erased.before
    assert all_events(workspace.layout).equals(others(before["events"]).combine_chunks()) or (
        all_events(workspace.layout).to_pylist() == others(before["events"]).to_pylist()
    )
    by_id = [("event_id", "ascending")]
    left = others(before["published"])
    left = left.filter(pc.equal(left["batch_id"], "published"))
    assert workspace.lake.read().sort_by(by_id).to_pylist() == left.sort_by(by_id).to_pylist()
    staged = workspace.lake.read_staged("staged")
    assert staged.to_pylist() == others(before["staged"]).to_pylist()


def test_the_report_counts_what_is_gone_and_was_foreseen(erased):
    report = erased.told["report"]
    mine = erased.before["events"].filter(pc.equal(erased.before["events"]["user_id"], USER))
    rows = report["files"]
    assert rows["events/source_events"] + rows["events/target_events"] == mine.num_rows
    assert rows["rejected"] == 1
    assert rows["features/user_source_features"] > 0
    assert report["published"] == {"published": 3}
    assert report["staged"] == {"staged": 3}
    assert report["training sets"]["kept"] > 0
    assert report["translators"] == {
        erased.versions["plain"]: "decremented",
        erased.versions["weighted"]: "decremented",
        erased.versions["crowded"]: "decremented",
        erased.versions["noisy"]: "flagged",
        "neural-1": "flagged",
    }
    assert erased.told["users"] == erased.foreseen["users"] == 2
    foreseen = erased.foreseen["report"]
    assert foreseen == {kind: report[kind] for kind in foreseen}
    assert not {USER, NOBODY} & set(json.dumps(erased.told).split('"'))


def test_the_ledger_keeps_keyed_hashes_and_no_id(erased, workspace):
    records = {record.erasure_id: record for record in workspace.ledger.erasures()}
    record = records[erased.told["erasure_id"]]
    key = SubjectKey.of(workspace.layout)
    assert set(record.subjects) == {key.subject(USER), key.subject(NOBODY)}
    if erased.database is not None:  # which is the one that was searched for the ids
        assert "scalr_erased_subjects" in erased.database.holding(key.subject(USER))
    assert (record.state, record.why) == (ErasureState.DONE, "asked for it")
    assert record.report == erased.told["report"]
    assert list(workspace.layout.erasures.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "more"), [("plain", ()), ("weighted", WEIGHTED), ("crowded", CROWDED)]
)
def test_counts_are_those_of_a_recount_without_the_user(erased, name, more):
    version = erased.versions[name]
    with Scalr(erased.repo, (*SETTINGS, *more)) as scalr:
        workspace = workspace_of(scalr)
        folder = workspace.layout.translators / version
        ours = load_translator(folder)
        before = load_translator(erased.repo.parent / "translators" / version)
        events = workspace.training_events(erased.cut)
        expected = translator_as_of(
            TrainingEvents.under(events, before.source_items, before.target_items),
            erased.cut,
            strength=before.strength,
            mix=before.mix,
            counting=counting_of(workspace, erased.cut),
        )
        assert left_out(folder) >= {SubjectKey.of(workspace.layout).subject(USER)}
    np.testing.assert_array_equal(ours.counts.toarray(), expected.counts.toarray())
    assert ((ours.counts != before.counts).nnz > 0) is (name != "crowded")
    for field in ("marginal", "prior", "first_seen", "delays"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(expected, field))
    if expected.pair_users is not None:
        np.testing.assert_array_equal(ours.pair_users.toarray(), expected.pair_users.toarray())
    assert ours.strength == before.strength


def test_what_cannot_forget_is_flagged_and_not_used(erased, workspace):
    ledger = workspace.ledger
    flagged = {r.version: r.flagged for r in ledger.translators() if r.flagged is not None}
    assert flagged == {
        "neural-1": "it saw events of users who were erased",
        erased.versions["noisy"]: "its counts are noisy, and users who were erased cannot be taken "
        "out of them",
    }
    assert find_translator(workspace, "neural-early").flagged is None
    assert find_translator(workspace, None).flagged is None
    refused = command(erased.repo, "generate", "--translator", "neural-1")
    assert refused.code == 2
    assert refused.err.splitlines()[-1] == (
        "scalr: neural-1 may not be used: it saw events of users who were erased; run `scalr train`"
    )


@pytest.mark.usefixtures("erased")
def test_batches_in_the_ledger_have_the_rows_that_are_left(workspace):
    staged = workspace.ledger.batch("staged")
    assert staged.rows == workspace.lake.staged_batches()["staged"] == 6
    assert str(staged.reason).startswith("users were erased (erasure-")
    assert workspace.ledger.batch("published").state is BatchState.PUBLISHED
    assert workspace.lake.published_batches()["published"].rows == 6


def test_a_saved_set_says_what_it_has_lost(erased, workspace):
    from training.saved import load

    loaded = load(workspace.store, "kept")
    assert loaded.to_arrow().num_rows == others(erased.before["set"]).num_rows
    assert any("erased users were taken out" in note for note in loaded.notes)
    assert any("batch retired" in note for note in loaded.notes)


def test_the_same_log_again_brings_nobody_back_and_nothing_twice(erased, scalr, workspace):
    before = all_events(workspace.layout)
    file = erased.repo.parent / "again.parquet"
    stranger = erased.log.slice(0, 1)
    place = stranger.schema.get_field_index("user_id")
    stranger = stranger.set_column(place, "user_id", pa.array([NOBODY], IDS)).cast(
        erased.log.schema
    )
    for log in (erased.log, pa.concat_tables([erased.log, stranger])):
        pq.write_table(log, file)
        result = scalr.import_events(file)
        assert set(result.imported.values()) == {0}
        mine = pc.is_in(log["user_id"], value_set=pa.array([USER, NOBODY]))
        assert result.erased == pc.sum(mine).as_py()
        assert result.malformed == 0
    assert all_events(workspace.layout).to_pylist() == before.to_pylist()
    assert holding(erased.repo / "data", USER) == []


def test_erasing_again_takes_nothing_out_twice(erased, scalr, workspace):
    folder = workspace.layout.translators / erased.versions["plain"]
    before = (folder / "counts.parquet").read_bytes()
    events = all_events(workspace.layout)
    again = scalr.erase([USER])
    assert {kind: found for kind, found in again.report.items() if found} == {
        "lake": {"snapshots": 0, "files": 0}
    }
    assert (folder / "counts.parquet").read_bytes() == before
    assert all_events(workspace.layout).to_pylist() == events.to_pylist()


def test_events_of_another_source_do_not_bring_the_user_back(erased, scalr, workspace):
    """A view may read a table that is not ours to write."""
    clean = data_fingerprint(workspace.training_events(erased.cut))
    part = workspace.layout.events(SOURCE_VIEW) / "part-foreign.parquet"
    rows = erased.before["events"]
    mine = rows.filter(pc.equal(rows["user_id"], USER))
    pq.write_table(mine.filter(pc.not_equal(mine["domain"], "films")), part)
    folder = workspace.layout.translators / erased.versions["plain"]
    counts = (folder / "counts.parquet").read_bytes()
    try:
        assert data_fingerprint(workspace.training_events(erased.cut)) == clean
        streamed = workspace.stream(SOURCE_VIEW, erased.cut)
        users = query(streamed, "SELECT DISTINCT user_id FROM {events}")["user_id"].to_pylist()
        assert USER not in users
        assert len(users) > 50
        # Nor is what was taken out once taken out again.
        scalr.erase([USER])
        assert (folder / "counts.parquet").read_bytes() == counts
    finally:
        part.unlink(missing_ok=True)


def test_a_translator_that_is_trained_now_knows_whom_it_was_trained_without(erased, workspace):
    from scalr_ray.jobs.train import train

    record = train(workspace, as_of=erased.cut).record
    assert record.version != erased.versions["plain"]
    assert left_out(Path(record.path)) == workspace.erased.subjects


def test_the_gate_refuses_rows_of_somebody_who_was_erased(erased, scalr, workspace):
    batch(workspace, "late", erased.versions["plain"], erased.cut)
    audited = scalr.gate("late")
    checks = {check.name: check for check in audited.checks}
    assert not checks["erased"].passed
    assert checks["erased"].detail == "3 rows of users who were erased"
    assert audited.record.state is BatchState.REJECTED
    assert workspace.lake.discard("late") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--user", ""), "a user id is empty"),
        (("--file", "not there"), "not there cannot be read as text: write one user id a line"),
    ],
)
def test_a_wrong_call_is_told_in_one_line_and_changes_nothing(erased, workspace, arguments, says):
    before = len(workspace.ledger.erasures())
    answer = command(erased.repo, "erase", *arguments)
    assert answer.code == 2
    assert answer.err.startswith("scalr: ")
    assert says in answer.err
    assert answer.err.count("\n") == 1
    assert len(workspace.ledger.erasures()) == before


def test_where_the_key_is_lost_nothing_goes_on(erased, scalr, workspace):
    key = workspace.layout.erasure_key
    kept = key.read_bytes()
    key.unlink()
    try:
        with pytest.raises(UsageError, match="restore it from a backup"):
            scalr.erase([USER])
        with pytest.raises(UsageError, match="restore it from a backup"):
            scalr.train(erased.cut)
        assert not key.exists()
    finally:
        key.write_bytes(kept)
        key.chmod(0o600)
