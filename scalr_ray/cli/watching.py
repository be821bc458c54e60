"""The verbs that tell how a repository stands; they load neither Feast nor Ray."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from scalr_ray.cli.session import Session, pass_session
from scalr_ray.cli.tables import new_table, print_table
from scalr_ray.core.plain import plain

if TYPE_CHECKING:
    from rich.table import Table

    from scalr_ray.jobs.status import Status


@click.command()
@pass_session
def status(session: Session) -> None:
    """How the repository stands, on one screen, and what to do next; changes nothing."""
    with session.quiet(loads_feast=False):
        looked = _look(session)
    if session.as_json:
        click.echo(json.dumps(plain(looked), indent=2))
    else:
        print_table(status_table(looked))


@click.command()
@click.option(
    "--every",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Seconds between two looks.",
)
@pass_session
def watch(session: Session, every: float) -> None:
    """The same, again and again until Ctrl-C; with --json, a line for each look."""
    with session.quiet(loads_feast=False):
        try:
            _watch(session, every)
        except KeyboardInterrupt:
            return


def _watch(session: Session, every_s: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if session.as_json or not console.is_terminal:
        while True:
            looked = _look(session)
            if session.as_json:
                click.echo(json.dumps(plain(looked)))
            else:
                print_table(status_table(looked))
            time.sleep(every_s)
    with Live(status_table(_look(session)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            live.update(status_table(_look(session)), refresh=True)


def _look(session: Session) -> Status:
    from scalr_ray.core.config import load_config
    from scalr_ray.jobs.status import look

    return look(session.repo, load_config(session.repo, session.overrides))


def status_table(looked: Status) -> Table:
    """How a repository stands, as two columns; what to do next comes last."""
    from rich.markup import escape

    table = new_table()
    for name, text in _rows(looked):
        table.add_row(name, escape(text))
    table.add_row("[bold]next[/]", f"[bold]{escape(looked.next_step)}[/]")
    return table


def _rows(looked: Status) -> list[tuple[str, str]]:
    from scalr_ray.core.clock import duration  # with the schemas, which take Arrow

    newest, translator = looked.newest, looked.translator
    rows = [("repository", f"{looked.repo}, looked at {looked.looked_at:%Y-%m-%d %H:%M:%S} UTC")]
    if newest is None:
        rows.append(("newest batch", "none is published"))
    else:
        age = duration(timedelta(seconds=newest.age_s))
        rows += [
            ("newest batch", f"{newest.batch_id}, {newest.events:,} rows"),
            ("as of", f"{newest.as_of:%Y-%m-%d %H:%M} UTC, {age} ago"),
            ("verdict", newest.verdict),
        ]
    share = "" if looked.synthetic_frac is None else f", {looked.synthetic_frac:.1%} of all"
    synthetic = f"{looked.synthetic_events:,} synthetic in {looked.batches:,} batches{share}"
    rows.append(("target events", f"{looked.target_events:,} observed, {synthetic}"))
    if translator is not None:
        evidence = "transfers" if translator.transfers else "nothing transfers"
        flag = "" if translator.flagged is None else f"; not to be used: {translator.flagged}"
        cutoff = f"as of {translator.train_cutoff:%Y-%m-%d %H:%M} UTC"
        rows.append(("translator", f"{translator.version}, {cutoff}, {evidence}{flag}"))
    for domain, moment in sorted(looked.watermarks.items()):
        rows.append((f"seen of {domain}", f"up to {moment:%Y-%m-%d %H:%M} UTC"))
    rows.append(("disk", f"{looked.free_bytes / 1024**3:.1f} GiB free"))
    for thing in looked.open:
        rows.append((f"open {thing.subject}", f"{thing.name}: {thing.state}"))
    return rows


VERBS = (status, watch)
