"""Every verb of the command over one small repository: real Feast, Ray, Iceberg and SQLite.

The tests read a repository that was brought to its end once, in order; what each verb printed on
the way is kept in `told`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commands import Answer, call_scalr, one_line
from planted_logs import (
    SMALL_SETTINGS,
    bytes_below,
    cut_of,
    planted_events,
    with_newcomers,
    write_log,
)

from scalr_ray.core.clock import EPOCH
from scalr_ray.core.config import ScalrConfig
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.jobs.reports import evaluations_of, read_report
from scalr_ray.lake import PublishedBatch, SyntheticEventLake
from scalr_ray.ledger import Ledger
from scalr_ray.offline_store.cluster import ray_session

pytestmark = [pytest.mark.feast, pytest.mark.ray, pytest.mark.usefixtures("one_ray")]

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
MICROSECOND = timedelta(microseconds=1)


def scalr(repo: Path, *arguments: str, settings: tuple[str, ...] = ()) -> Answer:
    return call_scalr(repo, *arguments, settings=(*SMALL_SETTINGS, *settings))


def definitions(into: Path) -> Path:
    ignore = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(DEFINITIONS, into, ignore=ignore)
    return into


def done(answer: Answer) -> Answer:
    assert answer.code == 0, answer.err
    return answer


@dataclass(frozen=True, kw_only=True)
class Journey:
    """A repository at its end, and what was told on the way."""

    repo: Path
    log: Path
    cut: datetime
    told: dict[str, Answer]
    staged_view: pa.Table
    committed: PublishedBatch
    data_after_import: dict[str, bytes]
    data_after_second_import: dict[str, bytes]

    @property
    def layout(self) -> Layout:
        return Layout.of(self.repo)

    @property
    def batch_id(self) -> str:
        return self.told["generate"].json["batch_id"]


def parts(repo: Path) -> dict[str, bytes]:
    """The files of events and features: what an import writes."""
    return bytes_below(repo / "data" / "events") | bytes_below(repo / "data" / "features")


def synthetic(repo: Path, as_of: datetime) -> pa.Table:
    """The event set of the view, as a Feast user pulls it."""
    from scalr_ray.offline_store import open_feature_store

    wanted = ("user_id", "item_id", "domain", "batch_id", "likelihood", "sample_weight")
    job = open_feature_store(repo).get_historical_features(
        features=[f"synthetic_events:{name}" for name in wanted],
        end_date=as_of,
        filter_by_created_timestamp=True,
    )
    return job.to_arrow()


def commit_only(repo: Path, batch_id: str) -> PublishedBatch:
    with closing(SyntheticEventLake.open(Layout.of(repo), ScalrConfig().ids)) as lake:
        return lake.publish(batch_id)


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One session for all calls, which then start none of their own."""
    with ray_session(2):
        yield


@pytest.fixture(scope="module")
def journey(tmp_path_factory) -> Journey:
    folder = tmp_path_factory.mktemp("verbs with space")
    events = planted_events()
    log = write_log(with_newcomers(events), folder / "events.parquet")
    repo, cut = definitions(folder / "repo"), cut_of(events)
    as_of = cut.isoformat()
    told = {"import": done(scalr(repo, "import", str(log)))}
    first = parts(repo)
    told["import again"] = done(scalr(repo, "--json", "import", str(log)))
    second = parts(repo)
    told["apply"] = done(scalr(repo, "--json", "apply"))
    told["apply again"] = done(scalr(repo, "apply"))
    told["train"] = done(scalr(repo, "--json", "train", "--as-of", as_of))
    told["train again"] = done(scalr(repo, "train", "--as-of", as_of))
    told["generate"] = done(scalr(repo, "--json", "generate"))
    told["generate again"] = done(scalr(repo, "generate"))
    told["publish too early"] = scalr(repo, "publish")
    told["gate"] = done(scalr(repo, "gate"))
    told["gate again"] = scalr(repo, "gate")
    told["generate accepted"] = scalr(repo, "generate")
    staged_view = synthetic(repo, cut + timedelta(days=99))
    # As if a publish had died between the commit of the table and the ledger.
    committed = commit_only(repo, told["generate"].json["batch_id"])
    told["publish"] = done(scalr(repo, "--json", "publish"))
    told["publish again"] = done(scalr(repo, "--json", "publish"))
    told["generate published"] = scalr(repo, "generate")
    told["evaluate"] = done(scalr(repo, "evaluate", "--out", str(folder / "report")))
    return Journey(
        repo=repo,
        log=log,
        cut=cut,
        told=told,
        staged_view=staged_view,
        committed=committed,
        data_after_import=first,
        data_after_second_import=second,
    )


def test_import_says_what_came_in(journey):
    events = pq.read_table(journey.log)
    told = journey.told["import"]
    assert "imported" in told.out
    assert "✓ Import into the event views" in told.err
    for domain in ("source", "target"):
        rows = pc.sum(pc.equal(events["domain"], domain)).as_py()
        assert f"{rows:,} events of {domain}" in told.err


def test_the_same_file_again_changes_nothing(journey):
    again = journey.told["import again"].json
    assert again["imported"] == {"source": 0, "target": 0}
    assert again["already_imported"] == again["rows_read"] == pq.read_table(journey.log).num_rows
    assert (again["duplicates"], again["malformed"], again["refused_file"]) == (0, 0, None)
    assert journey.data_after_import == journey.data_after_second_import
    assert len(journey.data_after_import) > 4


def test_apply_shows_what_feast_has_registered(journey):
    registered = journey.told["apply"].json
    assert registered["entities"] == ["event", "item", "user"]
    assert dict(registered["feature_views"]).keys() == {
        "item_popularity",
        "source_events",
        "synthetic_events",
        "target_events",
        "user_source_features",
    }
    assert registered["feature_services"] == [
        "item_features_v1",
        "mixed_training_v1",
        "real_only_v1",
        "translator_inputs_v1",
        "user_features_v1",
    ]
    assert "synthetic_events (18 features)" in journey.told["apply again"].err


def test_train_finds_the_transfer_and_gives_the_same_version_twice(journey):
    trained = journey.told["train"].json
    assert trained["metrics"]["transfers"] is True
    assert trained["metrics"]["alpha"] > 0
    assert trained["metrics"]["z"] > 5
    assert datetime.fromisoformat(trained["train_cutoff"]) == journey.cut
    assert Path(trained["path"]).is_relative_to(journey.layout.translators)
    assert trained["version"] in journey.told["train again"].out


def test_generate_stages_the_same_batch_twice(journey):
    batch = journey.told["generate"].json
    assert batch["state"] == "staged"
    assert batch["rows"] > 1000
    assert batch["batch_id"] in journey.told["generate again"].out
    assert str(batch["rows"]) in journey.told["generate again"].out


def test_what_is_staged_is_invisible_to_feast(journey):
    assert journey.staged_view.num_rows == 0


def test_an_unaudited_batch_cannot_be_published(journey):
    early = journey.told["publish too early"]
    assert early.code == 2
    assert "is staged, not accepted; run `scalr gate` first" in one_line(early)


def test_the_gate_shows_every_check_and_accepts(journey):
    gated = journey.told["gate"]
    for check in ("not_empty", "clocks", "lineage", "transfer", "trial_gain", "trial_placebo"):
        assert check in gated.out
    assert f"{journey.batch_id}: accepted" in gated.out


@pytest.mark.parametrize(
    ("step", "code", "says"),
    [
        ("gate again", 2, "is accepted, not staged; run `scalr publish`"),
        ("generate accepted", 2, "was accepted; run `scalr publish`"),
        ("generate published", 2, "has been published already"),
    ],
)
def test_what_was_decided_stays_decided(journey, step, code, says):
    assert journey.told[step].code == code
    assert says in " ".join(one_line(journey.told[step]).split())


def test_publishing_repairs_what_a_crash_left_between_table_and_ledger(journey):
    published = journey.told["publish"].json
    assert published["snapshot_id"] == journey.committed.snapshot_id
    assert published["rows"] == journey.committed.rows


def test_publishing_again_changes_nothing(journey):
    first, second = journey.told["publish"].json, journey.told["publish again"].json
    assert first == second
    assert first["batch_id"] == journey.batch_id
    assert first["rows"] == journey.told["generate"].json["rows"]


def test_feast_sees_the_events_as_of_the_cut_and_none_a_microsecond_before(journey):
    batch = journey.told["generate"].json
    events = synthetic(journey.repo, journey.cut)
    assert events.num_rows == batch["rows"]
    assert set(events["batch_id"].to_pylist()) == {journey.batch_id}
    assert pc.min(events["available_at"]).as_py() == journey.cut
    assert pc.max(events["event_timestamp"]).as_py() < journey.cut
    assert synthetic(journey.repo, journey.cut - MICROSECOND).num_rows == 0


def test_point_in_time_join_gives_each_event_from_its_availability_on(journey):
    from scalr_ray.offline_store import open_feature_store

    events = synthetic(journey.repo, journey.cut).slice(0, 50)
    ids = events["event_id"].to_pylist()
    asked = pd.DataFrame(
        {
            "event_id": ids * 2,
            "event_timestamp": [journey.cut] * len(ids) + [journey.cut - MICROSECOND] * len(ids),
        }
    )
    found = (
        open_feature_store(journey.repo)
        .get_historical_features(
            entity_df=asked,
            features=["synthetic_events:item_id", "synthetic_events:likelihood"],
            filter_by_created_timestamp=True,
        )
        .to_arrow()
    )
    items = found["item_id"].to_pylist()
    assert items[: len(ids)] == events["item_id"].to_pylist()
    assert items[len(ids) :] == [None] * len(ids)


def test_the_mixed_set_holds_real_and_synthetic_events_as_of_the_cut(journey):
    from scalr_ray.offline_store import open_feature_store
    from training import build_mixed_dataset

    store = open_feature_store(journey.repo)

    def mixed(service: str, as_of: datetime) -> pa.Table:
        return build_mixed_dataset(
            store, service=service, start=EPOCH, end=as_of, as_of=as_of
        ).to_arrow()

    log = pq.read_table(journey.log)
    cut = pa.scalar(journey.cut, log.schema.field("event_timestamp").type)
    visible = pc.and_(pc.less(log["event_timestamp"], cut), pc.less_equal(log["available_at"], cut))
    real = log.filter(pc.and_(pc.equal(log["domain"], "target"), visible))
    at_cut = mixed("mixed_training_v1", journey.cut)
    rows = journey.told["generate"].json["rows"]
    assert pc.sum(at_cut["is_synthetic"]).as_py() == rows
    assert at_cut.num_rows == rows + real.num_rows
    assert mixed("real_only_v1", journey.cut).num_rows == real.num_rows
    before = mixed("mixed_training_v1", journey.cut - MICROSECOND)
    assert pc.sum(before["is_synthetic"]).as_py() == 0
    drawn = at_cut.filter(at_cut["is_synthetic"])
    pairs = set(zip(*(real[name].to_pylist() for name in ("user_id", "item_id")), strict=True))
    new = set(zip(*(drawn[name].to_pylist() for name in ("user_id", "item_id")), strict=True))
    assert len(new) == rows
    assert not new & pairs


def test_evaluate_measures_and_reports(journey):
    told = journey.told["evaluate"]
    for text in ("real only", "+ synthetic", "+ placebo", "lift of NDCG@20", "Verdict: "):
        assert text in told.out
    for text in ("+ synthetic, folded in", "folded in over synthetic", "folded in over mixed in"):
        assert text in told.out
    assert "(published)" in told.out
    out = journey.log.parent / "report"
    report = json.loads((out / "report.json").read_text())
    assert report["published"] is True
    assert report["batch_id"] == journey.batch_id
    assert report["lift_over_prior"]["all"]["ndcg_at_20"]["low"] > 0
    assert (out / "report.html").stat().st_size > 10_000
    with closing(Ledger(Layout.of(journey.repo).database_url)) as ledger:
        (run,) = evaluations_of(ledger, ledger.batch(journey.batch_id))
    assert read_report(run) == (out / "report.html").read_bytes()
    assert run.metrics["better_way"] == report["better_way"]
    kept = run.metrics["ndcg_lift"]
    assert kept["mixed_in_over_real"]["all"] == report["lift"]["all"]["ndcg_at_20"]
    folded = report["lift_folded_over_rows"]["hidden"]["ndcg_at_20"]
    assert kept["folded_in_over_mixed_in"]["hidden"] == folded
    assert set(kept["folded_in_over_real"]["warm"].values()) == {0.0}


def test_the_report_looks_closer_and_names_no_user(journey):
    out = journey.log.parent / "report"
    report = json.loads((out / "report.json").read_text())
    # Without rows of their own, hidden users are ranked by the prior, whatever real events weigh.
    assert set(report["lift_upsampled_over_real"]["hidden"]["ndcg_at_20"].values()) == {0.0}
    finer = report["finer"]
    assert finer["level"] == pytest.approx(1 - 0.05 / len(finer["segments"]))
    assert {"light users", "tail items"} & set(finer["segments"])
    events = pq.read_table(journey.log)
    taken = {name: set(events[name].to_pylist()) for name in ("user_id", "item_id")}
    assert 0 < len(report["examples"]) <= 3
    for user in report["examples"]:
        assert user["source"]
        assert {row["item"] for side in user.values() for row in side} <= taken["item_id"]
        days = [row["day"] for row in user["source"]]
        assert days == sorted(days, reverse=True)
        assert max(days) <= journey.cut.date().isoformat()
        likely = [row["likelihood"] for row in user["synthetic"]]
        assert likely == sorted(likely, reverse=True)
    text = (out / "report.html").read_text() + (out / "report.json").read_text()
    words = set(re.findall(r"[\w-]+", text))
    assert not words & {str(user) for user in taken["user_id"]}


def test_runs_lists_every_call_newest_first(journey):
    listed = scalr(journey.repo, "--json", "runs", "--limit", "100").json
    verbs = [run["verb"] for run in reversed(listed)]
    assert verbs[:6] == ["import", "import", "apply", "apply", "train", "train"]
    failed = [run for run in listed if run["status"] == "failed"]
    assert {run["error_code"] for run in failed} <= {"usage", "gate_refused", "retry_later"}
    assert {run["verb"] for run in failed} >= {"publish", "gate", "generate"}
    table = done(scalr(journey.repo, "runs", "--limit", "2")).out
    assert len([line for line in table.splitlines() if listed[0]["run_id"][:8] in line]) == 2


def test_doctor_finds_a_finished_repository_healthy(journey):
    findings = done(scalr(journey.repo, "--json", "doctor")).json
    assert {finding["subject"] for finding in findings} == {
        "python",
        "packages",
        "disk",
        "configuration",
        "ledger",
        "synthetic events",
        "registry",
        "events",
        "ray",
    }
    assert all(finding["healthy"] and not finding["remedy"] for finding in findings)


def test_a_rejected_batch_stays_out_of_sight_and_cannot_be_published(journey):
    before = synthetic(journey.repo, journey.cut + timedelta(days=99)).num_rows
    strict = ("gate.max_mass_frac=0.0001",)
    as_of = ("--as-of", journey.cut.isoformat())
    done(scalr(journey.repo, "train", *as_of, settings=strict))
    done(scalr(journey.repo, "generate", settings=strict))
    refused = scalr(journey.repo, "--json", "gate", settings=strict)
    assert refused.code == 3
    assert "the gate refused the batch: synthetic_mass" in one_line(refused)
    assert refused.json["record"]["state"] == "rejected"
    batch = refused.json["record"]["batch_id"]
    assert batch != journey.batch_id
    failed = [check["name"] for check in refused.json["checks"] if not check["passed"]]
    assert failed == ["synthetic_mass"]
    for verb in ("publish", "gate", "generate"):
        named = () if verb == "generate" else (batch,)
        again = scalr(journey.repo, verb, *named, settings=strict)
        assert again.code == 3
        assert f"{batch} was refused by the gate" in one_line(again)
    after = synthetic(journey.repo, journey.cut + timedelta(days=99))
    assert after.num_rows == before
    assert set(after["batch_id"].to_pylist()) == {journey.batch_id}


def test_a_run_without_anything_new_does_nothing_and_is_no_failure(journey):
    before = len(scalr(journey.repo, "--json", "runs", "--limit", "500").json)
    again = scalr(journey.repo, "run", "--as-of", journey.cut.isoformat())
    assert done(again).out.startswith("nothing new since ")
    assert len(scalr(journey.repo, "--json", "runs", "--limit", "500").json) == before


def test_without_a_cut_the_present_is_the_cut(journey):
    before = datetime.now(UTC)
    long_memory = ("prior.window_days=36500",)
    trained = done(scalr(journey.repo, "--json", "train", settings=long_memory)).json
    assert before <= datetime.fromisoformat(trained["train_cutoff"]) <= datetime.now(UTC)


def test_without_a_cut_an_old_log_is_sent_back_into_its_time(journey):
    answer = scalr(journey.repo, "train")
    assert answer.code == 2
    assert "work in the past with --as-of " in one_line(answer)
    suggested = answer.err.split()[-1]
    trained = done(scalr(journey.repo, "--json", "train", "--as-of", suggested)).json
    events = pq.read_table(journey.log)
    cutoff = datetime.fromisoformat(trained["train_cutoff"])
    assert pc.max(events["event_timestamp"]).as_py() < cutoff
    assert pc.max(events["available_at"]).as_py() <= cutoff


def test_a_store_that_is_being_written_to_asks_to_try_again(journey):
    handle = os.open(journey.layout.data, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        busy = scalr(journey.repo, "import", str(journey.log))
    finally:
        os.close(handle)
    assert busy.code == 4
    *_, last = busy.err.splitlines()
    assert last.startswith("scalr: another process is writing")
    assert "try again" in last


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate", "--translator", "frequency-0"), "there is no translator frequency-0"),
        (("gate", "batch-0"), "there is no batch batch-0"),
        (("publish", "batch-0"), "there is no batch batch-0"),
        (("evaluate", "batch-0"), "there is no batch batch-0"),
        (("train", "--as-of", "yesterday"), "'yesterday' is no ISO 8601 time"),
        (("train", "--as-of", "2026-03-01T12:00:00"), "has no time zone"),
    ],
)
def test_what_is_not_there_is_named(journey, arguments, says):
    answer = scalr(journey.repo, *arguments)
    assert answer.code == 2
    assert says in one_line(answer)


def test_the_installed_command_gives_the_same_as_the_call(journey):
    command = Path(sys.executable).parent / "scalr"
    ran = subprocess.run(
        [command, "--repo", journey.repo, "--json", "runs", "--limit", "100"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == ""
    assert json.loads(ran.stdout)[-1]["verb"] == "import"


def test_rows_in_the_view_have_the_declared_schema(journey):
    with closing(SyntheticEventLake.open(journey.layout, ScalrConfig().ids)) as lake:
        rows = lake.read(as_of=journey.cut)
    assert rows.schema == synthetic_event_schema("string", "string")
    assert rows.num_rows == journey.told["generate"].json["rows"]
