"""What a cluster is handed, and what is said of what it answers."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import call_scalr
from ray.job_submission import JobStatus

from scalr_ray import __version__
from scalr_ray.core.config import load_config
from scalr_ray.core.errors import ConfigError, UsageError
from scalr_ray.jobs.submission import Job, _Log, _state
from scalr_ray.offline_store.cluster import _join


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = tmp_path / "sent" / "my repo"
    repo.mkdir(parents=True)
    (repo / "scalr.yaml").write_text("project: scalr\n", encoding="utf-8")
    return repo


def settings(repo: Path, **named: object) -> None:
    text = "".join(f"{name}: {value}\n" for name, value in named.items())
    (repo / "scalr.yaml").write_text(f"project: scalr\n{text}", encoding="utf-8")


def test_a_job_is_told_where_the_repository_lies_and_what_stands_in_the_environment(repo):
    environ = {
        "SCALR_SEED": "3",
        "SCALR_REPO": "elsewhere",
        "FEAST_FS_YAML_FILE_PATH": f"{repo}/cluster.yaml",
        "PGPASSWORD": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "RAY_AUTH_TOKEN": "secret",
    }
    overrides = ["prior.window_days=30"]
    job = Job.of("train", ["--as-of=now"], repo=repo, overrides=overrides, environ=environ)
    assert job.entrypoint == (
        f"python -m scalr_ray.jobs.train --repo '{repo}' --set=prior.window_days=30 --as-of=now"
    )
    assert job.runtime_env == {
        "env_vars": {"SCALR_SEED": "3", "FEAST_FS_YAML_FILE_PATH": f"{repo}/cluster.yaml"}
    }
    assert job.metadata == {
        "scalr": __version__,
        "stage": "train",
        "repo": str(repo),
        "config": load_config(repo, overrides, environ).fingerprint,
    }
    assert Job.of("train", [], repo=repo, environ={}).runtime_env == {}
    with pytest.raises(ConfigError, match="nonsense"):
        Job.of("train", [], repo=repo, overrides=["nonsense=1"])


def test_a_folder_that_is_sent_holds_the_repository_and_nothing_that_is_written(repo, tmp_path):
    sent, shared = tmp_path / "sent", tmp_path / "shared"
    environ = {"FEAST_FS_YAML_FILE_PATH": str(repo / "cluster.yaml")}

    def job() -> Job:
        return Job.of("run", [], repo=repo, working_dir=sent, environ=environ)

    with pytest.raises(UsageError, match=r"data_dir is in .*/sent, and what the job wrote"):
        job()
    settings(repo, data_dir=shared, warehouse="events")
    with pytest.raises(UsageError, match="warehouse is in"):
        job()
    settings(repo, data_dir=shared, warehouse="s3://bucket/events")
    feast = repo / "cluster.yaml"
    feast.write_text("registry: {path: 'sqlite:///data/scalr.db'}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"registry.path of cluster.yaml is in"):
        job()
    for path in (f"sqlite:///{shared}/scalr.db", "postgresql+psycopg://db/scalr", "${DATABASE}"):
        feast.write_text(f"registry: {{path: '{path}'}}\n", encoding="utf-8")
        handed = job()
    assert handed.entrypoint == "python -m scalr_ray.jobs.run --repo 'my repo'"
    assert handed.metadata["repo"] == "my repo"
    assert handed.runtime_env == {
        "working_dir": str(sent),
        "env_vars": {"FEAST_FS_YAML_FILE_PATH": "my repo/cluster.yaml"},
    }
    with pytest.raises(UsageError, match=r"is not in .*/shared, the folder that --working-dir"):
        Job.of("run", [], repo=repo, working_dir=shared)


def test_a_log_that_is_told_again_is_passed_on_once():
    said: list[str] = []
    log = _Log(said.append)
    for chunks in (["one\n", "two\n"], ["one\ntwo\nth", "ree\n"], ["one\n", "two\nthree\n"]):
        log.hear_again()
        for chunk in chunks:
            log.add(chunk)
    assert "".join(said) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("status", "driver", "code", "why"),
    [
        ("PENDING", None, None, ""),
        ("RUNNING", None, None, ""),
        ("SUCCEEDED", 0, 0, ""),
        ("FAILED", 3, 3, "exit code 3"),
        ("FAILED", -9, 137, "exit code 137"),
        ("FAILED", None, 1, "no runtime env"),
        ("STOPPED", None, 143, ""),
    ],
)
def test_the_exit_code_of_a_job_is_that_of_its_stage(status, driver, code, why):
    info = SimpleNamespace(
        status=JobStatus(status),
        driver_exit_code=driver,
        submission_id="scalr-1",
        message="no\nruntime env",
        start_time=1_000,
        end_time=None,
        metadata={"scalr": "1"},
    )
    state = _state(info)
    assert (state.exit_code, state.why) == (code, why)
    assert state.ended == (status not in ("PENDING", "RUNNING"))


@pytest.mark.parametrize(
    "command",
    [(sys.executable, "-I", "-S", "-m", "scalr_ray.jobs.run"), ("sh", "-c", "no-python -m run")],
)
def test_a_head_without_scalr_is_told_in_a_line(command):
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    info = SimpleNamespace(
        status=JobStatus.FAILED,
        driver_exit_code=ran.returncode,
        submission_id="scalr-1",
        message=f"Job entrypoint command failed, last available logs:\n{ran.stderr}",
        start_time=1_000,
        end_time=2_000,
        metadata={"scalr": "1"},
    )
    assert _state(info).why == (
        f"exit code {ran.returncode}: the `python` that is first on the PATH of the head has no "
        f"SCALR; install scalr=={__version__} there"
    )


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_head_that_is_not_there_is_told_in_a_line(repo, scheme):
    with socket.socket() as taken:  # bound and not listening: nobody answers, nobody else gets it
        taken.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        answer = call_scalr(repo, "submit", "run", "--address", address)
    assert (answer.code, answer.out) == (4, "")
    assert answer.err.startswith(f"scalr: the Ray head at {address} does not answer (")
    assert answer.err.count("\n") == 1


def test_without_an_address_one_is_asked_for(repo):
    answer = call_scalr(repo, "submit", "run")
    assert answer.code == 2
    assert "name the head by --address or RAY_ADDRESS, say http://HOST:8265" in answer.err


def test_where_jobs_are_handed_in_nobody_can_join():
    with pytest.raises(UsageError, match=r"RAY_ADDRESS is http://head:8265.*name HOST:6379"):
        _join("http://head:8265")
