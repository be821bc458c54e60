"""The verbs that mend, take back, tidy up and look back."""

from __future__ import annotations

from pathlib import Path

import click

from scalr_ray.cli.session import Session, pass_session
from scalr_ray.cli.shown import (
    show_collected,
    show_compacted,
    show_differences,
    show_erased,
    show_lineage,
    show_repairs,
    show_retired,
)

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")


@click.command()
@click.option(
    "--give-up", multiple=True, metavar="RUN", help="A run of another machine that is dead."
)
@_DRY_RUN
@pass_session
def recover(
    session: Session,
    give_up: tuple[str, ...],
    dry_run: bool,  # noqa: FBT001 - click passes flags so
) -> None:
    """Make whole what a crash left half done; running it twice changes nothing."""
    with session.open() as scalr:
        repairs = scalr.recover(give_up=give_up, dry_run=dry_run)
        show_repairs(session, repairs, dry_run=dry_run)


@click.command()
@click.argument("batch")
@click.option("--why", default="", metavar="TEXT", help="Kept in the ledger.")
@pass_session
def retire(session: Session, batch: str, why: str) -> None:
    """Take a published batch back; saved training sets that hold it still load."""
    with session.open() as scalr:
        show_retired(session, scalr.retire(batch, why=why))


@click.command()
@click.option("--user", "users", multiple=True, metavar="ID", help="May be given several times.")
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    help="A text file with one user id a line.",
)
@click.option("--why", default="", metavar="TEXT", help="Kept in the ledger; name nobody.")
@_DRY_RUN
@pass_session
def erase(
    session: Session,
    users: tuple[str, ...],
    file: Path | None,
    why: str,
    dry_run: bool,  # noqa: FBT001 - click passes flags so
) -> None:
    """Erase users from everything: events, features, counts, synthetic events, training sets.

    What is imported later leaves them out. An erasure that was cut off is finished by the same call
    or by `scalr recover`.
    """
    if bool(users) == (file is not None):
        raise click.UsageError("name the users by --user or in a --file, one of them")
    with session.open() as scalr:
        show_erased(session, scalr.erase(users if file is None else file, why=why, dry_run=dry_run))


@click.command()
@_DRY_RUN
@pass_session
def gc(session: Session, dry_run: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Remove old snapshots, orphan files and unfinished work, as `retention` says."""
    with session.open() as scalr:
        show_collected(session, scalr.gc(dry_run=dry_run), dry_run=dry_run)


@click.command()
@pass_session
def compact(session: Session) -> None:
    """Put few files in the place of the small ones of many batches, for readers."""
    with session.open() as scalr:
        show_compacted(session, scalr.compact())


@click.command()
@click.argument("event_id")
@pass_session
def lineage(session: Session, event_id: str) -> None:
    """Walk back from a synthetic event: batch, translator, run, data, source events."""
    with session.open() as scalr:
        show_lineage(session, scalr.lineage(event_id))


@click.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1))
@pass_session
def runs(session: Session, limit: int) -> None:
    """List the newest calls; `scalr compare` says how two of them differ."""
    with session.open() as scalr:
        session.show_runs(scalr.runs(limit))


@click.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@pass_session
def compare(session: Session, first: str, second: str) -> None:
    """In what two runs differ: code, settings, what they made, what they measured."""
    with session.open() as scalr:
        show_differences(session, scalr.compare(first, second))


VERBS = (recover, retire, erase, compact, gc, lineage, runs, compare)
