"""From a synthetic event back to what was observed, and in what two runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from commands import call_scalr
from lake_rows import event
from quick_repos import workspace_of
from scheduled_runs import SETTINGS, make_repo, middle_of, small_log

from scalr_ray import Scalr
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.learn.prior import LOOK_BACKS
from scalr_ray.ledger import BatchState

if TYPE_CHECKING:
    from postgres_server import Database

pytestmark = [pytest.mark.feast]

BATCHES = ("published", "retired", "staged")


@dataclass(frozen=True, kw_only=True)
class Repo:
    """A repository with a translator, batches of it, and two runs that differ."""

    path: Path
    cut: datetime
    version: str
    source: dict[str, Any]
    other_version: str


def command(repo: Repo, *arguments: str) -> tuple[int, str, str]:
    said = call_scalr(repo.path, *arguments, settings=SETTINGS)
    return said.code, said.out, said.err


def rows_of(batch_id: str, version: str, source: dict[str, Any], cut: datetime) -> pa.Table:
    named = {"0": source["event_id"], "1": "an event that is gone", "2": None}
    rows = [
        event(batch_id, slot, user_id=source["user_id"], item_id=f"i{slot}", available_at=cut)
        | {
            "translator_version": version,
            "event_timestamp": cut - timedelta(days=1),
            "train_cutoff": cut,
            "source_event_id": named[str(slot)],
        }
        for slot in range(3)
    ]
    return pa.Table.from_pylist(rows, schema=synthetic_event_schema("string", "string"))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, module_database: Database | None) -> Repo:
    log = small_log()
    cut = middle_of(log)
    url = None if module_database is None else module_database.plain_url
    path = make_repo(tmp_path_factory.mktemp("lineage"), log, database_url=url)
    with Scalr(path, SETTINGS) as scalr:
        version = scalr.train(cut).record.version
        workspace = workspace_of(scalr)
        seen = workspace.source_events(cut).sort_by("event_id")
        source = seen.slice(0, 1).to_pylist()[0]
        for batch_id in BATCHES:
            table = rows_of(batch_id, version, source, cut)
            with workspace.run("generate") as run:
                workspace.lake.write_staged(batch_id, table)
                workspace.ledger.add_batch(
                    batch_id=batch_id,
                    run_id=run.run_id,
                    translator_version=version,
                    as_of=cut,
                    rows=table.num_rows,
                )
        for batch_id in ("published", "retired"):
            workspace.ledger.judge_batch(batch_id, findings=[], to=BatchState.ACCEPTED, reason=None)
            scalr.publish(batch_id)
        scalr.retire("retired", why="the feed was wrong")
    with Scalr(path, (*SETTINGS, "seed=7", "prior.window_days=60")) as scalr:
        other = scalr.train(cut).record.version
    return Repo(path=path, cut=cut, version=version, source=source, other_version=other)


@pytest.fixture
def scalr(repo: Repo) -> Iterator[Scalr]:
    with Scalr(repo.path, SETTINGS) as opened:
        yield opened


@pytest.mark.parametrize(
    ("batch_id", "place"),
    [
        ("published", "published"),
        ("retired", "in an older snapshot"),
        ("staged", "staged"),
    ],
)
def test_every_event_leads_back_to_what_was_observed(repo, scalr, batch_id, place):
    lineage = scalr.lineage(f"{batch_id}/0")
    assert lineage.place == place
    assert lineage.event["batch_id"] == lineage.batch.batch_id == batch_id
    assert lineage.run.run_id == lineage.batch.run_id
    assert lineage.run.verb == "generate"
    assert lineage.translator.version == repo.version
    assert lineage.trained_by.run_id == lineage.translator.run_id
    assert lineage.trained_by.verb == "train"
    (source,) = lineage.sources
    for name in ("event_id", "user_id", "item_id", "domain", "event_timestamp", "available_at"):
        assert source[name] == repo.source[name]


def test_a_source_event_that_is_gone_and_one_that_never_was(scalr):
    assert scalr.lineage("published/1").sources == ()
    assert scalr.lineage("published/2").sources == ()


def test_an_event_that_nobody_knows_is_told(repo):
    code, out, err = command(repo, "lineage", "nothing")
    assert (code, out) == (2, "")
    assert err == (
        "scalr: there is no synthetic event nothing, published, staged or in a snapshot that is "
        "kept\n"
    )


def test_the_tree_can_be_read(repo):
    code, out, err = command(repo, "lineage", "retired/0")
    assert (code, err) == (0, "")
    for text in (
        "event retired/0, in an older snapshot",
        "batch retired: retired (the feed was wrong)",
        f"translator {repo.version}, as of {repo.cut}",
        f"source event {repo.source['event_id']}",
        f"{repo.source['domain']} item {repo.source['item_id']} at ",
    ):
        assert text in out
    assert "it is not in the store any more" in command(repo, "lineage", "published/1")[1]
    assert "no source event" in command(repo, "lineage", "published/2")[1]


def test_machines_get_the_same_as_json(repo):
    code, out, _ = command(repo, "--json", "lineage", "published/0")
    assert code == 0
    told = json.loads(out)
    assert told["place"] == "published"
    assert told["translator"]["data_fingerprint"]
    assert [source["event_id"] for source in told["sources"]] == [repo.source["event_id"]]
    assert datetime.fromisoformat(told["event"]["available_at"]) == repo.cut


def test_runs_differ_in_what_was_set_and_what_came_of_it(repo, scalr):
    records = {record.version: record for record in workspace_of(scalr).ledger.translators()}
    first, second = (records[version].run_id for version in (repo.version, repo.other_version))
    found = {each.what: (each.first, each.second) for each in scalr.compare(first, second)}
    assert found["seed"] == found["config.seed"] == (0, 7)
    assert found["config.prior.window_days"] == ("auto", 60)
    assert found["translator"] == ([repo.version], [repo.other_version])
    assert found["translator.metrics.prior_windows_days"] == (list(LOOK_BACKS), [60, None])
    assert "code" not in found
    assert "config.domains.target" not in found
    assert scalr.compare(first, first) == []
    code, out, _ = command(repo, "compare", first, second)
    assert code == 0
    assert "config.prior.window_days" in out
    assert "the two runs do not differ" in command(repo, "compare", first, first)[1]
    assert json.loads(command(repo, "--json", "compare", first, first)[1]) == []


def test_runs_of_two_verbs_differ_in_what_they_made(repo, scalr):
    lineage = scalr.lineage("published/0")
    differences = scalr.compare(lineage.run.run_id, lineage.trained_by.run_id)
    found = {each.what: (each.first, each.second) for each in differences}
    assert found["verb"] == ("generate", "train")
    assert found["batch"] == (["published"], None)
    assert found["drawn by"] == ([repo.version], None)


def test_a_run_that_nobody_knows_is_told_and_runs_are_still_listed(repo):
    code, out, err = command(repo, "compare", "nothing", "nothing")
    assert (code, out) == (2, "")
    assert err == "scalr: there is no run nothing; `scalr runs` lists them\n"
    code, out, _ = command(repo, "--json", "runs", "--limit", "3")
    assert code == 0
    assert len(json.loads(out)) == 3
