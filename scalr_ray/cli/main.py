"""The `scalr` command.

Feast, Ray and the SDK are imported inside the verbs: `scalr --help` must answer at once. Progress
and messages go to standard error, results to standard output.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from scalr_ray import __version__
from scalr_ray.cli import serving, submit, upkeep, watching
from scalr_ray.cli.session import Session, pass_session
from scalr_ray.core.errors import GateRefused
from scalr_ray.jobs import options
from scalr_ray.jobs.calls import exit_code_of


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scalr")
@options.REPO
@options.OVERRIDES
@options.AS_JSON
@options.VERBOSE
@click.pass_context
def cli(
    context: click.Context,
    repo: Path,
    overrides: tuple[str, ...],
    as_json: bool,  # noqa: FBT001 - click passes flags so
    verbose: bool,  # noqa: FBT001 - click passes flags so
) -> None:
    """Synthetic target-domain events from source-domain events, point-in-time correct, in Feast."""
    context.obj = Session(repo=repo, overrides=overrides, as_json=as_json, verbose=verbose)


@cli.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--columns", multiple=True, metavar="OURS=THEIRS", help="Column names where they differ."
)
@pass_session
def import_(session: Session, file: Path, columns: tuple[str, ...]) -> None:
    """Check an event log (Parquet) and import it; the same file again changes nothing."""
    with session.open() as scalr:
        session.show(scalr.import_events(file, parse_columns(columns)))


@cli.command()
@pass_session
def apply(session: Session) -> None:
    """Register the Feast definitions and show what is registered."""
    with session.open() as scalr:
        session.show(scalr.apply())


@cli.command()
@options.takes("train")
@pass_session
def train(session: Session, as_of: str | None, kind: str | None) -> None:
    """Train a translator, choose its strength, and try it on a downstream model."""
    with session.with_kind(kind).open() as scalr:
        session.show(scalr.train(as_of).record)


@cli.command()
@click.option("--as-of", metavar="TIME", help="Tune on what was known then; default: now.")
@click.option("--trials", default=20, show_default=True, type=click.IntRange(1))
@pass_session
def tune(session: Session, as_of: str | None, trials: int) -> None:
    """Search the settings of the neural translator; the best come with the options to use them."""
    with session.open() as scalr:
        session.show_tried(scalr.tune(as_of, trials))


@cli.command()
@options.takes("generate")
@pass_session
def generate(session: Session, translator: str | None) -> None:
    """Draw a batch of synthetic events and stage it, invisible to Feast."""
    with session.open() as scalr:
        session.show(scalr.generate(translator).record)


@cli.command()
@click.argument("batch", required=False)
@pass_session
def gate(session: Session, batch: str | None) -> None:
    """Audit a staged batch (default: the newest); exit code 3 when it is refused."""
    with session.open() as scalr:
        audited = scalr.gate(batch)
        session.show_checks(audited)
    _refuse_unless(audited.accepted, audited.record.reason)


@cli.command()
@click.argument("batch", required=False)
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@click.option("--force", is_flag=True, help="Overrule what the gate says of the worth of events.")
@click.option("--why", default="", metavar="TEXT", help="Why it is overruled; for the ledger.")
@pass_session
def publish(
    session: Session,
    batch: str | None,
    dry_run: bool,  # noqa: FBT001 - click passes flags so
    force: bool,  # noqa: FBT001 - click passes flags so
    why: str,
) -> None:
    """Make an accepted batch (default: the newest) visible to Feast, in one commit."""
    with session.open() as scalr:
        verb = scalr.publish_preview if dry_run else scalr.publish
        session.show(verb(batch, force=force, why=why))


@cli.command()
@options.takes("run")
@pass_session
def run(session: Session, as_of: str | None, kind: str | None) -> None:
    """Publish what is new, for all users the first time; exit code 3 when the gate refuses.

    Later runs generate for new source events only. A translator is trained where there is none, or
    none younger than increment.retrain_days; increment.stale says what becomes of older events.
    """
    with session.with_kind(kind).open() as scalr:
        outcome = scalr.run(as_of)
        session.show_outcome(outcome)
    if not outcome.accepted:
        raise GateRefused(outcome.sentence)


@cli.command()
@options.takes("backfill")
@pass_session
def backfill(session: Session, start: str, end: str, every: str, kind: str | None) -> None:
    """Publish what runs in the past would have, each by a translator that knew only that past.

    A second call goes on where the first was cut off. Exit code 3 when no origin has a batch.
    """
    with session.with_kind(kind).open() as scalr:
        origins = scalr.backfill(start, end, every)
        session.show_origins(origins)
    if not any(origin.published for origin in origins):
        from scalr_ray.jobs.backfill import describe_none

        raise GateRefused(describe_none(origins))


@cli.command()
@options.takes("evaluate")
@pass_session
def evaluate(session: Session, batches: tuple[str, ...], out: Path, *, decide: bool) -> None:
    """Measure batches (default: the newest) on the events after their cuts; write a report.

    Of several, each is measured on the events up to the cut of the next; the verdict is of all.
    """
    with session.open() as scalr:
        result = scalr.evaluate(out, *batches, command=_command())
        session.show_report(result, out)
    if decide:
        from scalr_ray.jobs.evaluation_result import decided

        if not decided(result):
            raise GateRefused(result["sentence"])


@cli.command()
@pass_session
def doctor(session: Session) -> None:
    """Check versions, disk, registry, store, Ray; say what to do."""
    with session.open() as scalr:
        findings = scalr.doctor()
        session.show_findings(findings)
    if not all(finding.healthy for finding in findings):
        raise SystemExit(2)


@cli.command()
@click.option("--events", type=click.Path(path_type=Path), help="Event log; default: simulated.")
@click.option("--source", help="Source domain, or several with commas.")
@click.option("--target", help="Target domain.")
@click.option("--columns", multiple=True, metavar="OURS=THEIRS", help="Column names that differ.")
@click.option("--null", "null_world", is_flag=True, help="Simulate a world without transfer.")
@click.option(
    "--out",
    default="scalr-demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of its own for the repository and the report.",
)
@pass_session
def demo(
    session: Session,
    events: Path | None,
    source: str | None,
    target: str | None,
    columns: tuple[str, ...],
    null_world: bool,  # noqa: FBT001 - click passes flags so
    out: Path,
) -> None:
    """The whole path: events, Feast, translator, batch, gate, four arms, report."""
    _check_demo(events, source, target, null_world=null_world)
    named = parse_columns(columns)
    with session.quiet():
        from scalr_ray import Scalr
        from scalr_ray.jobs.demo import DemoInput

        given = DemoInput(
            events=events,
            source=tuple(name.strip() for name in (source or "source").split(",")),
            target=target or "target",
            columns=named,
            null_world=null_world,
        )
        result = Scalr.demo(
            given,
            out=out,
            overrides=session.overrides,
            progress=session.progress(),
            command=_command(),
        )
        session.show_report(result, out)


for _verb in (*upkeep.VERBS, *submit.VERBS, *watching.VERBS, *serving.VERBS):
    cli.add_command(_verb)


def parse_columns(pairs: Sequence[str]) -> dict[str, str]:
    """`("user_id=uid", ...)` as a mapping; several may share one argument with commas."""
    parsed: dict[str, str] = {}
    for pair in ",".join(pairs).split(",") if pairs else []:
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if not ours or not theirs:
            raise click.UsageError(f"--columns {pair!r} is not of the form OURS=THEIRS")
        if ours in parsed:
            raise click.UsageError(f"--columns maps {ours} twice")
        parsed[ours] = theirs
    return parsed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, one line per error on standard error."""
    return exit_code_of(lambda: cli(args=argv, prog_name="scalr", standalone_mode=False))


def _check_demo(
    events: Path | None, source: str | None, target: str | None, *, null_world: bool
) -> None:
    if events is not None and null_world:
        raise click.UsageError("--null simulates; it does not go with --events")
    if events is not None and not (source and target):
        raise click.UsageError("--events needs --source and --target: the domains of the log")


def _refuse_unless(accepted: bool, reason: str | None) -> None:  # noqa: FBT001 - reads as a sentence
    if not accepted:
        raise GateRefused(f"the gate refused the batch: {reason}")


def _command() -> str:
    return shlex.join(["scalr", *sys.argv[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
