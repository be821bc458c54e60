"""One verdict over the batches of a backfill: real Feast, Ray, Iceberg and SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from commands import Answer, call_scalr, one_line
from marks import OPENS_FEAST
from scheduled_runs import DAY, SETTINGS, make_repo, middle_of, small_log

from scalr_ray import Scalr
from scalr_ray.core.errors import TooLittleData
from scalr_ray.jobs.evaluate import _subject
from scalr_ray.jobs.evaluate import main as job
from scalr_ray.jobs.evaluation_result import Subject
from scalr_ray.jobs.origins import asked_of
from scalr_ray.jobs.reports import evaluations_of, read_report
from scalr_ray.offline_store.cluster import ray_session

pytestmark = [*OPENS_FEAST, pytest.mark.ray, pytest.mark.usefixtures("one_ray")]

LOG = small_log(users=300)
FIRST = middle_of(LOG)
CUTS = [FIRST, FIRST + 20 * DAY, FIRST + 40 * DAY]
QUICK = (*SETTINGS, "evaluation.seeds=2", "evaluation.bootstrap=200")
SEGMENTS = ("all", "hidden", "warm")
ARMS = ("real_only", "synthetic", "folded_in", "placebo", "upsampled")


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A repository after its backfill, and what was said over its batches."""

    repo: Path
    out: Path
    batch_ids: list[str]
    report: dict[str, Any]
    told: Answer


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    with ray_session(2):
        yield


def scalr(repo: Path, *arguments: str) -> Answer:
    return call_scalr(repo, *arguments, settings=QUICK)


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Filled:
    folder = tmp_path_factory.mktemp("origins")
    repo, out = make_repo(folder, LOG), folder / "report"
    with Scalr(repo, QUICK) as opened:
        origins = opened.backfill(CUTS[0], CUTS[-1], "20d")
    batch_ids = [origin.batch_id for origin in origins]
    first, second, third = batch_ids
    told = scalr(repo, "evaluate", second, third, first, "--out", str(out), "--decide")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return Filled(repo=repo, out=out, batch_ids=batch_ids, report=report, told=told)


@pytest.fixture(scope="module")
def newest_alone(filled: Filled, tmp_path_factory) -> dict[str, Any]:
    with Scalr(filled.repo, QUICK) as opened:
        return opened.evaluate(tmp_path_factory.mktemp("alone"), filled.batch_ids[-1])


def test_the_origins_follow_one_another(filled: Filled):
    rows = filled.report["origins"]["rows"]
    assert [row["batch_id"] for row in rows] == filled.batch_ids
    assert [datetime.fromisoformat(row["as_of"]) for row in rows] == CUTS
    assert all(earlier["until"] == later["as_of"] for earlier, later in pairwise(rows))
    assert rows[-1]["until"] is None
    assert filled.report["origins"]["left_out"] == []
    assert filled.report["origins"]["published"] == 3


def visible(log: pa.Table, cut: datetime) -> list[dict[str, Any]]:
    return [
        row
        for row in log.to_pylist()
        if row["event_timestamp"] < cut and row["available_at"] <= cut
    ]


def outcomes_of(
    log: pa.Table, cut: datetime, until: datetime | None
) -> dict[str, list[dict[str, Any]]]:
    """By user, the events that count as outcomes of a cut, looked at one by one."""
    known = visible(log, cut)
    active = {row["user_id"] for row in known if row["domain"] != "films"}
    films = {row["item_id"] for row in known if row["domain"] == "films"}
    had = {(row["user_id"], row["item_id"]) for row in known if row["domain"] == "films"}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in log.to_pylist():
        if row["domain"] != "films" or row["event_timestamp"] < cut:
            continue
        if until is not None and row["event_timestamp"] >= until:
            continue
        user, item = row["user_id"], row["item_id"]
        if user in active and item in films and (user, item) not in had:
            found.setdefault(user, []).append(row)
    return found


def test_no_outcome_is_used_twice_and_none_is_left_out(filled: Filled):
    windows = list(zip(CUTS, [*CUTS[1:], None], strict=True))
    expected = [outcomes_of(LOG, cut, until) for cut, until in windows]
    used = [
        (row["user_id"], row["item_id"], row["event_timestamp"])
        for found in expected
        for rows in found.values()
        for row in rows
    ]
    assert len(used) == len(set(used)) > 100
    for row, found, cut in zip(filled.report["origins"]["rows"], expected, CUTS, strict=True):
        had = {row["user_id"] for row in visible(LOG, cut) if row["domain"] == "films"}
        warm = len(found.keys() & had)
        sizes = {"all": len(found), "hidden": len(found) - warm, "warm": warm}
        assert row["test_users"] == sizes
    with Scalr(filled.repo, QUICK) as opened:
        workspace = opened._workspace
        asked = asked_of(workspace.ledger, filled.batch_ids)[::-1]
        measured_on = [relevant(_subject(workspace, origin)) for origin in asked]
    assert measured_on == [
        {(row["user_id"], row["item_id"]) for rows in found.values() for row in rows}
        for found in expected
    ]


def relevant(subject: Subject) -> set[tuple[str, str]]:
    """User and item of each outcome that a ranking is held against."""
    pairs = subject.test.relevant.tocoo()
    users = subject.events.users.ids.take(pa.array(subject.test.users[pairs.row]))
    items = subject.events.target_items.ids.take(pa.array(pairs.col))
    return set(zip(users.to_pylist(), items.to_pylist(), strict=True))


def test_the_pooled_lift_is_the_ratio_of_means_over_all_pairs(filled: Filled):
    origins = filled.report["origins"]
    pooled, rows = origins["pooled"], origins["rows"]
    for segment in SEGMENTS:
        users = [row["test_users"][segment] for row in rows]
        assert pooled["test_users"][segment] == sum(users) > 20
        mean = {
            arm: sum(n * row["ndcg"][arm][segment] for n, row in zip(users, rows, strict=True))
            / sum(users)
            for arm in ARMS
        }
        for name, treated, control in (
            ("lift", "synthetic", "real_only"),
            ("lift_over_placebo", "synthetic", "placebo"),
            ("lift_placebo_over_real", "placebo", "real_only"),
            ("lift_upsampled_over_real", "upsampled", "real_only"),
            ("lift_folded_over_real", "folded_in", "real_only"),
            ("lift_folded_over_rows", "folded_in", "synthetic"),
        ):
            found = pooled[name][segment]["ndcg_at_20"]
            assert found["estimate"] == pytest.approx(mean[treated] / mean[control] - 1)
            assert found["low"] <= found["estimate"] <= found["high"]
        for arm in ARMS:
            assert pooled["ndcg"][arm][segment] == pytest.approx(mean[arm])


def test_the_newest_origin_is_told_as_one_batch_is(filled: Filled, newest_alone: dict[str, Any]):
    """One batch goes through no window, so that its figures are those of the newest of several."""
    theirs = {"verdict", "sentence", "better_way", "cautions", "origins", "timings_s", "command"}
    report = filled.report
    assert newest_alone.keys() == report.keys() - {"origins"}
    alone = json.loads(json.dumps({key: newest_alone[key] for key in newest_alone.keys() - theirs}))
    assert alone == {key: report[key] for key in report.keys() - theirs}
    row = report["origins"]["rows"][-1]
    assert row["verdict"] == newest_alone["verdict"]
    for name, lifts in row["lifts"].items():
        assert lifts == {
            segment: metrics["ndcg_at_20"] for segment, metrics in newest_alone[name].items()
        }
    means = {arm: row["ndcg"][arm]["all"] for arm in ARMS}
    assert means == {arm: newest_alone["arms"][arm]["all"]["ndcg_at_20"] for arm in ARMS}


def test_the_command_and_the_page_say_the_verdict_of_all_first(filled: Filled):
    out, report = filled.told.out, filled.report
    assert report["sentence"].startswith("Over 3 cuts: ")
    assert f"Verdict: {report['verdict']} (3 of 3 batches published)" in out
    assert out.index("all cuts") < out.index("Of the newest cut alone") < out.index("real only")
    for batch_id in filled.batch_ids:
        assert f"batch {batch_id}" in filled.told.err
    page = (filled.out / "report.html").read_text(encoding="utf-8")
    assert page.index("Over several cuts") < page.index("All that follows is of the newest cut")
    users = set(LOG["user_id"].to_pylist())
    assert not users & set((filled.out / "report.json").read_text(encoding="utf-8").split('"'))


def test_the_ledger_keeps_the_verdict_for_every_batch(filled: Filled):
    with Scalr(filled.repo, QUICK) as opened:
        ledger = opened._workspace.ledger
        for batch_id in filled.batch_ids:
            run = evaluations_of(ledger, ledger.batch(batch_id))[-1]
            assert run.metrics["batches"] == filled.batch_ids[::-1]
            assert run.metrics["batch"] == filled.batch_ids[-1]
            assert run.metrics["verdict"] == filled.report["verdict"]
            assert run.metrics["better_way"] == filled.report["better_way"]
            kept = run.metrics["ndcg_lift"]["mixed_in_over_real"]
            pooled = filled.report["origins"]["pooled"]["lift"]
            assert kept == {segment: pooled[segment]["ndcg_at_20"] for segment in SEGMENTS}
            assert read_report(run) == (filled.out / "report.html").read_bytes()


CODES = {"helps": 0, "no_effect": 3, "harms": 3, "cannot_tell": 2}


def test_asked_to_decide_it_answers_by_exit_code(filled: Filled):
    assert filled.told.code == CODES[filled.report["verdict"]]
    if filled.told.code:
        *_, last = filled.told.err.splitlines()
        assert last.startswith("scalr: ")


def test_the_job_takes_several_batches_too(filled: Filled, tmp_path: Path):
    given = [f"--set={setting}" for setting in QUICK]
    names = filled.batch_ids[1:]
    code = job(["--repo", str(filled.repo), *given, "--out", str(tmp_path), *names, "--decide"])
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["origins"]["rows"] == filled.report["origins"]["rows"][1:]
    assert code == CODES[report["verdict"]]


def test_what_cannot_be_asked_is_told_in_one_line(filled: Filled, tmp_path: Path):
    first, second, _ = filled.batch_ids
    out = ("--out", str(tmp_path))
    for names, says in (
        ((first, "batch-0"), "there is no batch batch-0"),
        ((first, second, first), f"{first}: two batches as of {CUTS[0]}"),
    ):
        answer = scalr(filled.repo, "evaluate", *names, *out)
        assert answer.code == 2
        assert says in one_line(answer)
    assert list(tmp_path.iterdir()) == []


def test_an_origin_with_nobody_to_test_is_left_out_and_told(filled: Filled, tmp_path: Path):
    first, second, _ = filled.batch_ids
    late = pc.max(LOG["event_timestamp"]).as_py() + DAY
    with Scalr(filled.repo, QUICK) as opened:
        record = opened.train(late).record
        empty = opened.generate(record.version).record
        report = opened.evaluate(tmp_path, first, second, empty.batch_id)
        with pytest.raises(TooLittleData, match=f"the cut of {empty.batch_id}, up to the next"):
            opened.evaluate(tmp_path, second, empty.batch_id)
    (left,) = report["origins"]["left_out"]
    assert left["batch_id"] == empty.batch_id
    assert "nobody has source events before the cut" in left["why"]
    assert report["batch_id"] == second
    assert [row["batch_id"] for row in report["origins"]["rows"]] == [first, second]
    assert report["origins"]["rows"][-1]["until"] == empty.as_of.isoformat()
    assert empty.batch_id in report["cautions"][0]
    assert empty.batch_id in (tmp_path / "report.html").read_text(encoding="utf-8")
