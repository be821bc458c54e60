"""Stages as jobs of a Ray cluster: `scalr submit`, and `scalr jobs` for those that were submitted.

What a job says goes to standard error while it is followed, the id of the job to standard output.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalr_ray.cli.session import Session, pass_session
from scalr_ray.cli.tables import new_table, print_table
from scalr_ray.core.plain import plain
from scalr_ray.jobs import options
from scalr_ray.jobs.calls import EXIT_INTERRUPTED, are_json, quiet, say_last

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scalr_ray.jobs.submission import Head, JobState

_ADDRESS = click.option(
    "--address",
    envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
    metavar="URL",
    help="The head, say http://HOST:8265; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS.",
)
_NO_WAIT = click.option("--no-wait", is_flag=True, help="Print the id of the job and return.")
_WORKING_DIR = click.option(
    "--working-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Send this folder, with the repository in it; its data must lie outside.",
)
_STOPPED = "`scalr recover` makes whole what it left half done"


@click.group()
def submit() -> None:
    """Run a stage as a job of a Ray cluster, and follow it; its exit code is that of the job.

    The repository has to lie at the same path on the cluster, or in a --working-dir. Ctrl-C stops
    following, not the job.
    """


@click.group()
def jobs() -> None:
    """List, read and stop the jobs that were submitted to a Ray cluster."""


def _submitting(stage: str) -> click.Command:
    """The command that submits a stage."""

    @click.command(stage)
    @options.takes(stage)
    @options.OVERRIDES
    @_ADDRESS
    @_WORKING_DIR
    @_NO_WAIT
    @pass_session
    def command(
        session: Session,
        /,
        overrides: tuple[str, ...],
        *,
        address: str | None,
        working_dir: Path | None,
        no_wait: bool,
        **given: Any,  # noqa: ANN401 - whatever the stage takes
    ) -> None:
        params = click.get_current_context().command.params
        flags = [*["--json"] * session.as_json, *["--verbose"] * session.verbose]
        arguments = [*flags, *_as_arguments(params, given)]
        with _head(session, address) as head:
            from scalr_ray.jobs.submission import Job

            job = Job.of(
                stage,
                arguments,
                repo=session.repo,
                overrides=(*session.overrides, *overrides),
                working_dir=working_dir,
            )
            job_id = head.submit(job)
            if not session.as_json:
                click.echo(job_id)
            if no_wait:
                state = head.job(job_id)
            else:
                click.echo(f"scalr: {job_id} is submitted; Ctrl-C leaves it running", err=True)
                state = _follow(head, job_id)
        if session.as_json:
            click.echo(json.dumps(plain(state), indent=2))
        _end_as(state)

    command.help = f"`scalr {stage}` as a job of a Ray cluster."
    return command


@jobs.command("list")
@_ADDRESS
@pass_session
def list_(session: Session, address: str | None) -> None:
    """The jobs that the cluster remembers, newest first."""
    with _head(session, address) as head:
        found = head.jobs()
    if session.as_json:
        click.echo(json.dumps(plain(found), indent=2))
        return
    from rich.markup import escape

    table = new_table("job", "stage", "status", "exit", "submitted", "seconds", "repo")
    for job in found:
        code = "" if job.exit_code is None else str(job.exit_code)
        when = "" if job.started_at is None else f"{job.started_at:%Y-%m-%d %H:%M:%S}"
        repo = escape(job.metadata.get("repo", ""))
        stage = escape(job.metadata.get("stage", ""))
        table.add_row(job.job_id, stage, job.status, code, when, _seconds(job), repo)
    print_table(table)


@jobs.command()
@click.argument("job")
@click.option("--follow", is_flag=True, help="Until the job has ended; with its exit code.")
@_ADDRESS
@pass_session
def logs(session: Session, job: str, address: str | None, *, follow: bool) -> None:
    """What a job has said, from its first word on."""
    with _head(session, address) as head:
        if not follow:
            click.echo(head.logs(job), nl=False)
            return
        state = _follow(head, job)
    _end_as(state)


@jobs.command()
@click.argument("job")
@_ADDRESS
@pass_session
def stop(session: Session, job: str, address: str | None) -> None:
    """Stop a job, and wait for its end."""
    with _head(session, address) as head:
        state = head.stop(job)
    if session.as_json:
        click.echo(json.dumps(plain(state), indent=2))
    elif state.status == "STOPPED":
        click.echo(f"{job} is stopped; {_STOPPED}")
    else:
        click.echo(f"{job} had ended before: {state.status}")


for _stage in options.STAGES:
    submit.add_command(_submitting(_stage))

VERBS = (submit, jobs)


@contextmanager
def _head(session: Session, address: str | None) -> Iterator[Head]:
    if not address:
        raise click.UsageError("name the head by --address or RAY_ADDRESS, say http://HOST:8265")
    with quiet(verbose=session.verbose):
        from scalr_ray.jobs.submission import Head

        yield Head(address)


def _follow(head: Head, job_id: str) -> JobState:
    try:
        return head.follow(job_id, lambda text: click.echo(text, nl=False, err=True))
    except KeyboardInterrupt:
        if not are_json():
            click.echo(err=True)  # behind what the terminal shows of Ctrl-C
        say_last(
            f"the job goes on; `scalr jobs logs {job_id} --follow` follows it again, "
            f"`scalr jobs stop {job_id}` stops it",
            EXIT_INTERRUPTED,
        )
        raise SystemExit(EXIT_INTERRUPTED) from None


def _end_as(state: JobState) -> None:
    """End this process as a job has ended."""
    if state.exit_code is None or state.exit_code == 0:
        return
    said = f"was stopped; {_STOPPED}"
    if state.status != "STOPPED":
        said = f"failed: {state.why}"
    say_last(f"{state.job_id} {said}", state.exit_code)
    raise SystemExit(state.exit_code)


def _as_arguments(params: Sequence[click.Parameter], given: dict[str, Any]) -> list[str]:
    """The options of a stage as they stood on the command line; folders by their full paths."""
    named: list[str] = []
    positional: list[str] = []
    for param in params:
        value = given.get(param.name or "")
        if value is None or value is False:
            continue
        text = str(value.resolve() if isinstance(value, Path) else value)
        if isinstance(param, click.Argument):
            positional.extend(value if param.nargs == -1 else [text])
        elif value is True:
            named.append(param.opts[0])
        else:
            named.append(f"{param.opts[0]}={text}")
    return [*named, *(["--", *positional] if positional else [])]


def _seconds(job: JobState) -> str:
    if job.started_at is None:
        return ""
    until = job.ended_at or datetime.now(job.started_at.tzinfo)
    return f"{(until - job.started_at).total_seconds():.0f}"
