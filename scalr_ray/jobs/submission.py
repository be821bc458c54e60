"""A stage as a job of a Ray cluster: handed to its head, followed, listed, stopped.

The cluster runs `python -m scalr_ray.jobs.STAGE` (`entry.py`) with its own Python, in which SCALR
is installed. What a job is told of this machine is where the repository lies, and the settings that
stand in the environment here; passwords and tokens are the cluster's own affair and never sent.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import yaml

from scalr_ray import __version__
from scalr_ray.core.config import load_config, settings_in
from scalr_ray.core.errors import RetryLater, ScalrError, UsageError
from scalr_ray.core.layout import Layout
from scalr_ray.jobs.calls import EXIT_STOPPED
from scalr_ray.offline_store.cluster import AUTH_REFUSED, knock, refuse_without_token

_FEAST_YAML = "FEAST_FS_YAML_FILE_PATH"
_SQLITE = "sqlite:///"
_PATIENCE_S = 60.0  # with a head that was there when the job was submitted
_STOP_WITHIN_S = 30.0  # Ray itself kills after 3 s what does not end
_POLL_S = 0.5
_NO_PROGRAM = 127  # of a shell
_NO_SCALR = "No module named 'scalr_ray'"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is handed to a head.

    Attributes:
        stage: which.
        entrypoint: the command line that the cluster runs.
        runtime_env: of Ray: the folder that is sent, and variables of the environment.
        metadata: what lists of jobs show of it.
    """

    stage: str
    entrypoint: str
    runtime_env: Mapping[str, Any]
    metadata: Mapping[str, str]

    @classmethod
    def of(
        cls,
        stage: str,
        arguments: Sequence[str],
        *,
        repo: Path,
        overrides: Sequence[str] = (),
        working_dir: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """A stage over a repository.

        Args:
            stage: its name among `options.STAGES`.
            arguments: what it is told beside repository and overrides.
            repo: the repository, which has to lie at the same path on the cluster, unless it is in
                `working_dir`.
            overrides: `a.b=c` texts over `scalr.yaml`.
            working_dir: a folder that is sent to the cluster, where the job works in a copy of it.
            environ: whose settings the job gets; defaults to the process environment.

        Raises:
            ConfigError: the configuration is wrong.
            UsageError: what the job writes would be lost with the copy of `working_dir`.
        """
        variables = dict(os.environ if environ is None else environ)
        repo = repo.resolve()
        config = load_config(repo, overrides, variables)
        sent = settings_in(variables)
        if _FEAST_YAML in variables:
            sent[_FEAST_YAML] = str(Path(variables[_FEAST_YAML]).resolve())
        runtime_env: dict[str, Any] = {"env_vars": sent} if sent else {}
        place = repo
        if working_dir is not None:
            folder = working_dir.resolve()
            feast_yaml = Path(sent.get(_FEAST_YAML, repo / "feature_store.yaml"))
            _refuse_what_is_lost(Layout.of(repo, config), folder, feast_yaml)
            runtime_env["working_dir"] = str(folder)
            place = repo.relative_to(folder)
            if Path(sent.get(_FEAST_YAML, "")).is_relative_to(folder):
                sent[_FEAST_YAML] = str(Path(sent[_FEAST_YAML]).relative_to(folder))
        command = ["python", "-m", f"scalr_ray.jobs.{stage}", "--repo", str(place)]
        command += [f"--set={override}" for override in overrides]
        return cls(
            stage=stage,
            entrypoint=shlex.join([*command, *arguments]),
            runtime_env=runtime_env,
            metadata={
                "scalr": __version__,
                "stage": stage,
                "repo": str(place),
                "config": config.fingerprint,
            },
        )


@dataclass(frozen=True, kw_only=True)
class JobState:
    """How a job stands.

    Attributes:
        job_id: by which it is followed and stopped.
        status: of Ray: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        started_at: when it was submitted, in UTC.
        ended_at: when it ended; None before.
        exit_code: that of the stage; 143 where it was stopped; None while there is none.
        why: in a line, why it failed; empty where it did not.
        metadata: as in `Job`.
    """

    job_id: str
    status: str
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    why: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class Head:
    """The head of a Ray cluster, as far as it takes jobs.

    Every method raises `RetryLater` where it does not answer, and `UsageError` where it refuses the
    token or knows no such job.

    Args:
        address: `http://HOST:8265`, or what `ray.init` takes.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        with self._asked():
            refuse_without_token()
            knock(address)
            from ray.job_submission import JobSubmissionClient

            # Ray lets its variables win over what it is told.
            with _environment("RAY_API_SERVER_ADDRESS", address):
                self._client = JobSubmissionClient(address)

    def submit(self, job: Job) -> str:
        """Hand a job over; returns its id."""
        job_id = f"scalr-{job.stage}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        with self._asked():
            return str(
                self._client.submit_job(
                    entrypoint=job.entrypoint,
                    submission_id=job_id,
                    runtime_env=dict(job.runtime_env),
                    metadata=dict(job.metadata),
                )
            )

    def jobs(self) -> list[JobState]:
        """The jobs of SCALR that the cluster remembers, newest first."""
        with self._asked():
            found = self._client.list_jobs()
        told = [_state(info) for info in found if "scalr" in (info.metadata or {})]
        return sorted(told, key=lambda job: str(job.started_at), reverse=True)

    def job(self, job_id: str) -> JobState:
        """How a job stands."""
        with self._asked(job_id):
            return _state(self._client.get_job_info(job_id))

    def logs(self, job_id: str) -> str:
        """What a job has said so far."""
        with self._asked(job_id):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, say: Callable[[str], None]) -> JobState:
        """Pass on what a job says, from its first word on, until it has ended.

        A connection that is lost is made again, and what was passed on is not repeated.

        Raises:
            RetryLater: the head has not answered for a minute; the job may go on without it.
        """
        log, heard_at = _Log(say), time.monotonic()
        while True:
            with suppress(RetryLater), self._asked(job_id):
                asyncio.run(self._pass_on(job_id, log))
            try:
                state = self.job(job_id)
                log.hear_again()
                log.add(self.logs(job_id))
            except RetryLater:
                if time.monotonic() - heard_at > _PATIENCE_S:
                    raise
            else:
                if state.ended:
                    return state
                heard_at = time.monotonic()
            time.sleep(_POLL_S)

    def stop(self, job_id: str) -> JobState:
        """Stop a job and wait until it has ended; one that has is left as it is.

        Raises:
            RetryLater: it does not end.
        """
        with self._asked(job_id):
            self._client.stop_job(job_id)
        until = time.monotonic() + _STOP_WITHIN_S
        while not (state := self.job(job_id)).ended:
            if time.monotonic() > until:
                raise RetryLater(f"job {job_id} was told to stop and is still {state.status}")
            time.sleep(_POLL_S)
        return state

    async def _pass_on(self, job_id: str, log: _Log) -> None:
        log.hear_again()
        async for text in self._client.tail_job_logs(job_id):
            log.add(text)

    @contextmanager
    def _asked(self, job_id: str = "") -> Iterator[None]:
        """Errors of the client as ours."""
        from aiohttp import ClientError
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise UsageError(f"the Ray head at {self.address} {AUTH_REFUSED}") from error
        except (OSError, ClientError) as error:  # those of requests are OSErrors
            raise RetryLater(
                f"the Ray head at {self.address} does not answer ({error}); start it, or name "
                "another by --address or RAY_ADDRESS"
            ) from error
        except RuntimeError as error:
            if "does not exist" in str(error):
                raise UsageError(
                    f"{self.address} knows no job {job_id}; `scalr jobs list` names those it knows"
                ) from error
            if "WebSocket" in str(error):
                raise RetryLater(f"the Ray head at {self.address} broke off: {error}") from error
            raise ScalrError(f"the Ray head at {self.address}: {str(error)[:500]}") from error


class _Log:
    """A log that is told from its first word on each time, and passed on once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said, self._heard = say, 0, 0

    def hear_again(self) -> None:
        """What comes next is the first word."""
        self._heard = 0

    def add(self, text: str) -> None:
        """Pass on what is new of the next words."""
        self._heard += len(text)
        if (new := self._heard - self._said) > 0:
            self._say(text[-new:])
            self._said = self._heard


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable of the environment for the time of a block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _registry_file(repo: Path, feast_yaml: Path) -> Path | None:
    """Where Feast's registry lies, if it is a file; what else is wrong with it Feast says."""
    try:
        told = yaml.safe_load(feast_yaml.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    registry = told.get("registry") if isinstance(told, dict) else None
    path = registry.get("path") if isinstance(registry, dict) else registry
    text = str(path or "")
    server = "://" in text and not text.startswith(_SQLITE)
    return None if server or "${" in text else repo / text.removeprefix(_SQLITE)


def _refuse_what_is_lost(layout: Layout, folder: Path, feast_yaml: Path) -> None:
    if not layout.repo.is_relative_to(folder):
        raise UsageError(f"{layout.repo} is not in {folder}, the folder that --working-dir sends")
    written = {"data_dir": str(layout.data), "warehouse": layout.warehouse}
    if (registry := _registry_file(layout.repo, feast_yaml)) is not None:
        written[f"registry.path of {feast_yaml.name}"] = str(registry)
    for name, place in written.items():
        if Path(place).is_relative_to(folder):
            raise UsageError(
                f"{name} is in {folder}, and what the job wrote into its copy would be lost; set "
                f"{name} to a place that all nodes see, or go without --working-dir"
            )


def _state(info: Any) -> JobState:  # noqa: ANN401 - Ray's JobDetails
    status, code, why = info.status.value, info.driver_exit_code, ""
    if status == "STOPPED":
        code = EXIT_STOPPED
    elif status == "FAILED":
        if code is None:  # it was never started: only Ray can say why
            code, why = 1, " ".join((info.message or "Ray does not say why").split())[:500]
        else:
            code = 128 - code if code < 0 else code  # below 0 is a signal
            why = f"exit code {code}"
            if code == _NO_PROGRAM or _NO_SCALR in (info.message or ""):
                why = (
                    f"{why}: the `python` that is first on the PATH of the head has no SCALR; "
                    f"install scalr=={__version__} there"
                )
    return JobState(
        job_id=info.submission_id or info.job_id,
        status=status,
        started_at=_time(info.start_time),
        ended_at=_time(info.end_time),
        exit_code=code,
        why=why,
        metadata=info.metadata or {},
    )


def _time(millis: int | None) -> datetime | None:
    return None if not millis else datetime.fromtimestamp(millis / 1000, UTC)
