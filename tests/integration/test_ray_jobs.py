"""Stages as jobs of a real Ray cluster that asks for a token: the way in, out, and back."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from losing_proxy import losing_proxy
from marks import OPENS_FEAST
from ray_head import RayHead, ray_head
from scheduled_runs import DAY, DEFINITIONS, SETTINGS, make_repo, middle_of, small_log
from wholeness import assert_whole

from scalr_ray import Scalr
from scalr_ray.ledger import BatchState, RunStatus

pytestmark = [*OPENS_FEAST, pytest.mark.ray]

# The job counts for four seconds.
SUBMITS_AND_FOLLOWS = """
import sys
from scalr_ray.jobs.submission import Head, Job
count = "import time; [(print(number), time.sleep(0.1)) for number in range(40)]"
job = Job(stage="run", entrypoint=f"python -c '{count}'", runtime_env={}, metadata={})
head = Head(sys.argv[1])
ended = head.follow(head.submit(job), lambda text: print(text, end="", flush=True))
print(ended.status)
"""
OPTIONS = tuple(f"--set={setting}" for setting in SETTINGS)


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as started:
        yield started


@pytest.fixture(scope="module")
def log():
    return small_log()


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, log: pa.Table) -> Path:
    return new_repo(tmp_path_factory.mktemp("jobs"), log)


def new_repo(folder: Path, log: pa.Table) -> Path:
    """Definitions, and their data elsewhere, so that a copy of the definitions will do."""
    more = {
        name: (DEFINITIONS / name).read_text(encoding="utf-8").replace(ours, f"{ours[:-4]}{theirs}")
        for name, ours, theirs in (
            ("scalr.yaml", "data_dir: data", folder / "data"),
            ("feature_store.yaml", "sqlite:///data", folder / "data"),
        )
    }
    return make_repo(folder, log, more=more)


def scalr(head: RayHead, repo: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    options = ["--repo", str(repo), *OPTIONS]
    return head.call("scalr", *options, *arguments, RAY_ADDRESS=head.url, **variables)


def test_a_job_is_left_stopped_recovered_and_run_to_its_end(head, repo, log):
    as_of = f"{middle_of(log):%Y-%m-%d}"
    began = datetime.now(UTC)
    code, out, err = scalr(head, repo, "submit", "run", "--as-of", as_of, "--no-wait")
    assert (code, err) == (0, "")
    (job_id,) = out.split()
    leave_by_ctrl_c(head, repo, job_id)
    code, out, err = scalr(head, repo, "jobs", "stop", job_id)
    assert (code, err) == (0, "")
    assert out == f"{job_id} is stopped; `scalr recover` makes whole what it left half done\n"
    with Scalr(repo, SETTINGS) as sdk:
        sdk.recover()
        assert sdk.recover() == []
        runs = [run for run in sdk.runs() if run.started_at > began and run.verb != "recover"]
        assert runs[0].status is RunStatus.FAILED
        assert {run.status for run in runs[1:]} <= {RunStatus.DONE}
    assert_whole(repo)

    code, out, err = scalr(head, repo, "--json", "submit", "run", "--as-of", as_of)
    assert code == 0, err
    state = json.loads(out)
    assert (state["status"], state["exit_code"]) == ("SUCCEEDED", 0)
    outcome = json.loads(err[err.index("{\n") : err.rindex("}") + 1])
    with Scalr(repo, SETTINGS) as sdk:
        (batch,) = sdk._workspace.ledger.batches(BatchState.PUBLISHED)
        assert state["metadata"]["config"] == sdk.config.fingerprint
    assert outcome["record"]["batch_id"] == batch.batch_id
    assert_whole(repo)

    code, out, err = scalr(head, repo, "--json", "jobs", "list")
    listed = {job["job_id"]: job for job in json.loads(out)}
    assert listed[job_id]["status"] == "STOPPED"
    assert listed[state["job_id"]]["metadata"] == state["metadata"]
    assert state["metadata"].keys() == {"scalr", "stage", "repo", "config"}
    assert drivers_of(head)[state["job_id"]] is not None  # it joined this cluster, and no other


def leave_by_ctrl_c(head: RayHead, repo: Path, job_id: str) -> None:
    """Follow a job until it works, and leave it."""
    options = ["--repo", str(repo), "jobs", "logs", job_id, "--follow"]
    process = head.start("scalr", *options, RAY_ADDRESS=head.url)
    said = []
    while "validation from" not in "".join(said[-1:]):
        said.append(process.stderr.readline())
        assert said[-1], "".join(said)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 130
    assert rest.endswith(
        f"scalr: the job goes on; `scalr jobs logs {job_id} --follow` follows it again, "
        f"`scalr jobs stop {job_id}` stops it\n"
    )


def drivers_of(head: RayHead) -> dict[str, str | None]:
    """The driver that each job became on this cluster."""
    script = (
        "import json; from ray.job_submission import JobSubmissionClient as Client\n"
        "print(json.dumps({job.submission_id: job.job_id for job in Client().list_jobs()}))"
    )
    code, out, err = head.call("python", "-c", script, RAY_ADDRESS=head.url)
    assert code == 0, err
    return json.loads(out)


def train_by_rays_own_tool(head: RayHead, repo: Path, log: pa.Table) -> str:
    """Train from a folder that is sent; returns the version of the translator."""
    as_of = middle_of(log) + 7 * DAY  # later than other tests look
    arguments = ["--repo", ".", *OPTIONS, "--as-of", f"{as_of:%Y-%m-%d}"]
    code, out, err = head.call(
        *("ray", "job", "submit", "--working-dir", str(repo), "--"),
        *("python", "-m", "scalr_ray.jobs.train", *arguments),
        RAY_ADDRESS=head.url,
    )
    assert code == 0, out + err
    with Scalr(repo, SETTINGS) as sdk:
        trained = {
            record.train_cutoff: record.version for record in sdk._workspace.ledger.translators()
        }
    return trained[as_of]


def test_a_translator_is_trained_drawn_from_and_measured_by_jobs(head, repo, log, tmp_path):
    version = train_by_rays_own_tool(head, repo, log)
    code, out, err = scalr(head, repo, "submit", "generate", "--translator", version)
    assert code == 0, err
    with Scalr(repo, SETTINGS) as sdk:
        (batch,) = [
            record
            for record in sdk._workspace.ledger.batches(BatchState.STAGED)
            if record.translator_version == version
        ]
    assert f"{batch.batch_id} is staged: {batch.rows:,} synthetic events\n" in err
    report = tmp_path / "report"
    less = ["--set=evaluation.seeds=1", "--set=evaluation.bootstrap=100"]
    arguments = ["--json", "submit", "evaluate", batch.batch_id, "--out", str(report), *less]
    code, out, err = scalr(head, repo, *arguments)
    assert code == 0, err
    assert json.loads(out)["metadata"]["stage"] == "evaluate"
    told = json.loads((report / "report.json").read_text(encoding="utf-8"))
    assert (told["batch_id"], told["published"]) == (batch.batch_id, False)
    assert (report / "report.html").stat().st_size > 10_000


def test_what_a_backfill_publishes_as_a_job_it_publishes_at_every_origin(head, log, tmp_path):
    repo = new_repo(tmp_path, log)  # whatever other tests publish would count as done
    origins = [middle_of(log), middle_of(log) + 20 * DAY]
    window = ["--from", f"{origins[0]:%Y-%m-%d}", "--to", f"{origins[1]:%Y-%m-%d}"]
    code, out, err = scalr(head, repo, "--json", "submit", "backfill", *window, "--every", "20d")
    assert code == 0, err
    state = json.loads(out)
    assert (state["status"], state["metadata"]["stage"]) == ("SUCCEEDED", "backfill")
    told = json.loads(err[err.index("[\n") : err.rindex("]") + 1])
    assert [datetime.fromisoformat(origin["as_of"]) for origin in told] == origins
    with Scalr(repo, SETTINGS) as sdk:
        ledger, rows = sdk._workspace.ledger, sdk._workspace.lake.read()
        published = {batch.batch_id: batch for batch in ledger.batches(BatchState.PUBLISHED)}
    for origin in told:
        assert origin["verdict"] == "published"
        batch = published.pop(origin["batch_id"])
        assert batch.translator_version == origin["translator"]
        drawn = rows.filter(pc.equal(rows["batch_id"], batch.batch_id))
        assert drawn.num_rows == origin["events"] == batch.rows > 0
        assert pc.unique(drawn["train_cutoff"]).to_pylist() == [batch.as_of]
    assert published == {}
    assert_whole(repo)


def test_the_exit_code_of_a_job_is_that_of_submit(head, repo):
    window = ["--from", "2020-01-01", "--to", "2020-01-02", "--every", "7d"]
    sent = ["--working-dir", str(repo)]
    code, out, err = scalr(head, repo, "submit", "backfill", *window, *sent)
    (job_id,) = out.split()
    *_, refused, told = err.splitlines()
    assert code == 3
    assert refused.startswith("scalr: no origin has a published batch; the last: too little data")
    assert told == f"scalr: {job_id} failed: exit code 3"
    code, out, err = scalr(head, repo, "jobs", "logs", job_id, "--follow")
    assert (code, out) == (3, "")
    assert err.endswith(f"{refused}\n{told}\n")
    code, out, err = scalr(head, repo, "jobs", "logs", job_id)
    assert (code, err) == (0, "")
    assert out.endswith(f"{refused}\n")
    code, out, err = scalr(head, repo, "jobs", "stop", job_id)
    assert (code, out) == (0, f"{job_id} had ended before: FAILED\n")


def test_the_doctor_asks_a_head_that_takes_jobs_whether_it_does(head, repo):
    code, out, err = scalr(head, repo, "--json", "doctor")
    assert code == 0, out + err
    (told,) = [finding["detail"] for finding in json.loads(out) if finding["subject"] == "ray"]
    assert told.startswith(f"{head.url} takes jobs; it remembers ")


def test_a_connection_that_is_lost_costs_no_word_of_a_job(head):
    with losing_proxy(head.url) as proxy:
        process = head.start("python", "-c", SUBMITS_AND_FOLLOWS, proxy.url)
        said = [process.stdout.readline()]
        while said[-1] != "3\n":
            said.append(process.stdout.readline())
            assert said[-1], process.stderr.read()
        proxy.close()
        rest = process.stdout.read()
    assert process.wait() == 0, process.stderr.read()
    told = [line for line in "".join([*said, rest]).splitlines() if line.isdigit()]
    assert told == [str(number) for number in range(40)]
    assert rest.endswith("39\nSUCCEEDED\n")


@pytest.mark.parametrize(
    ("address", "variables", "says"),
    [
        ("url", {"RAY_AUTH_MODE": "disabled"}, "refuses the token; set RAY_AUTH_MODE=token"),
        ("url", {"RAY_AUTH_TOKEN": "wrong" * 8}, "refuses the token; set RAY_AUTH_MODE=token"),
        ("gcs", {"RAY_AUTH_MODE": "disabled"}, "refuses the token; set RAY_AUTH_MODE=token"),
        ("gcs", {"RAY_AUTH_TOKEN_PATH": "/not/there"}, "/not/there holds none; set RAY_AUTH_"),
    ],
)
def test_without_the_token_nothing_is_told(head, repo, address, variables, says):
    named = ["--address", getattr(head, address)]
    code, out, err = head.call("scalr", "--repo", str(repo), "jobs", "list", *named, **variables)
    assert (code, out) == (2, "")
    assert says in err.splitlines()[-1]
