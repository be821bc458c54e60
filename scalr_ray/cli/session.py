"""What all verbs share: options, the SDK, quiet libraries, and how results are shown."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalr_ray.cli.tables import mark, new_table, print_table
from scalr_ray.core.plain import plain
from scalr_ray.jobs.calls import quiet
from scalr_ray.jobs.options import with_kind

if TYPE_CHECKING:
    from rich.table import Table

    from scalr_ray.gate import Check
    from scalr_ray.jobs.backfill import Origin
    from scalr_ray.jobs.doctor import Finding
    from scalr_ray.jobs.increment import RunOutcome
    from scalr_ray.jobs.progress import Progress
    from scalr_ray.jobs.release import Audited
    from scalr_ray.jobs.sdk import Scalr
    from scalr_ray.learn.neural.tune import Search
    from scalr_ray.ledger import RunRecord

_REPORT_ROWS = (
    ("real only", "arms", "real_only"),
    ("+ synthetic", "arms", "synthetic"),
    ("+ synthetic, folded in", "arms", "folded_in"),
    ("+ placebo", "arms", "placebo"),
    ("real upsampled", "arms", "upsampled"),
    ("prior as ranker", "rankers", "prior"),
    ("translator as ranker", "rankers", "translator"),
)
_LIFTS = (
    ("synthetic over real only", "lift"),
    ("synthetic over placebo", "lift_over_placebo"),
    ("folded in over real only", "lift_folded_over_real"),
    ("folded in over synthetic", "lift_folded_over_rows"),
    ("placebo over real only", "lift_placebo_over_real"),
    ("translator over prior", "lift_over_prior"),
)


@dataclass(frozen=True, kw_only=True)
class Session:
    """The options before the verb."""

    repo: Path
    overrides: tuple[str, ...]
    as_json: bool
    verbose: bool

    @contextmanager
    def open(self) -> Iterator[Scalr]:
        """The SDK over the repository, closed at the end."""
        with self.quiet():
            from scalr_ray import Scalr

            with Scalr(self.repo, self.overrides, self.progress()) as scalr:
                yield scalr

    def with_kind(self, kind: str | None) -> Session:
        """The same with a kind of translator, where one is named."""
        return dataclasses.replace(self, overrides=with_kind(self.overrides, kind))

    def progress(self) -> Progress:
        """Stages on standard error; nothing with `--json`."""
        from rich.console import Console

        from scalr_ray.jobs.progress import Progress

        return Progress(None if self.as_json else Console(stderr=True))

    @contextmanager
    def quiet(self, *, loads_feast: bool = True) -> Iterator[None]:
        """Silence what Feast, Ray and others print on their own in the block, unless `-v`.

        Args:
            loads_feast: whether the block uses the SDK, which is then loaded: it takes seconds.
        """
        with quiet(verbose=self.verbose):
            if loads_feast:
                import scalr_ray.jobs.sdk  # noqa: F401 - Feast changes the filters

            if not self.verbose:
                warnings.simplefilter("ignore")
            yield

    def show(self, record: Any) -> None:  # noqa: ANN401 - any frozen dataclass of the SDK
        """A record as two columns, or as JSON."""
        from rich.markup import escape

        told = plain(record)
        if self.as_json:
            click.echo(json.dumps(told, indent=2))
            return
        table = new_table()
        for name, value in told.items():
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            table.add_row(name, escape(text))
        print_table(table)

    def show_tried(self, found: Search) -> None:
        """Tried settings as a table, best first, and how to use the best; or as JSON."""
        if self.as_json:
            click.echo(json.dumps([plain(trial) for trial in found.trials], indent=2))
            return
        table = new_table("validation", "epochs", "seconds", *found.best.settings)
        for trial in found.trials:
            measured = (f"{trial.validation:.4f}", f"{trial.epochs}", f"{trial.seconds:.0f}")
            table.add_row(*measured, *(f"{value:g}" for value in trial.settings.values()))
        print_table(table)
        options = [
            f"--set translator.neural.{name}={value:g}"
            for name, value in found.best.settings.items()
        ]
        click.echo(f"scalr {' '.join(options)} train --translator neural")

    def show_checks(self, audited: Audited) -> None:
        """The answers of the gate."""
        if self.as_json:
            click.echo(json.dumps(plain(audited), indent=2))
            return
        print_table(_check_table(audited.checks))
        click.echo(f"{audited.record.batch_id}: {audited.record.state.value}")

    def show_outcome(self, outcome: RunOutcome) -> None:
        """What a run did, with the answers of the gate where it was asked."""
        if self.as_json:
            click.echo(json.dumps(plain(outcome), indent=2))
            return
        if outcome.checks:
            print_table(_check_table(outcome.checks))
        if outcome.accepted:  # a refusal ends the command with this line
            click.echo(outcome.sentence)

    def show_origins(self, origins: Sequence[Origin]) -> None:
        """What became of each origin of a backfill."""
        if self.as_json:
            click.echo(json.dumps([plain(origin) for origin in origins], indent=2))
            return
        from rich.markup import escape

        table = new_table("origin", "translator", "events", "users", "verdict")
        for origin in origins:
            users = "-" if origin.users is None else f"{origin.users:,}"
            counts = (f"{origin.events:,}", users)
            when = f"{origin.as_of:%Y-%m-%d %H:%M}"
            table.add_row(when, origin.translator or "-", *counts, escape(origin.verdict))
        print_table(table)

    def show_runs(self, runs: Sequence[RunRecord]) -> None:
        """Runs, newest first."""
        if self.as_json:
            click.echo(json.dumps([plain(run) for run in runs], indent=2))
            return
        from scalr_ray.ledger import FORCED

        table = new_table("run", "verb", "status", "started", "seconds", "error")
        for run in runs:
            ended = run.finished_at
            seconds = "" if ended is None else f"{(ended - run.started_at).total_seconds():.1f}"
            started = f"{run.started_at:%Y-%m-%d %H:%M:%S}"
            verb = f"{run.verb} --force" if FORCED in run.metrics else run.verb
            table.add_row(
                run.run_id, verb, run.status.value, started, seconds, run.error_code or ""
            )
        print_table(table)

    def show_findings(self, findings: Sequence[Finding]) -> None:
        """The answers of the doctor."""
        if self.as_json:
            click.echo(json.dumps([plain(finding) for finding in findings], indent=2))
            return
        from rich.markup import escape

        table = new_table("", "subject", "found", "what to do")
        for finding in findings:
            said = (escape(text) for text in (finding.detail, finding.remedy))
            table.add_row(mark(finding.healthy), finding.subject, *said)
        print_table(table)

    def show_report(self, result: Mapping[str, Any], out: Path) -> None:
        """The arms, the lifts, the verdict, and where the report lies."""
        if self.as_json:
            click.echo((out / "report.json").read_text(encoding="utf-8"))
            return
        published = "published" if result["published"] else "not published"
        if (origins := result.get("origins")) is not None:
            published = f"{origins['published']} of {len(origins['rows'])} batches published"
            print_table(_origin_table(result, origins))
            click.echo(f"Of the newest cut alone, {result['as_of'][:16].replace('T', ' ')}:")
        print_table(_metric_table(result))
        print_table(_lift_table(result))
        click.echo(f"Verdict: {result['verdict']} ({published})")
        click.echo(str(result["sentence"]))
        for caution in result["cautions"]:
            click.echo(f"Caution: {caution}")
        click.echo(f"Report: {out / 'report.html'}")


pass_session = click.make_pass_decorator(Session)


def _check_table(checks: Sequence[Check]) -> Table:
    from rich.markup import escape

    table = new_table("", "check", "detail")
    for check in checks:
        table.add_row(mark(check.passed), check.name, escape(check.detail))
    return table


def _metric_table(result: Mapping[str, Any]) -> Table:
    segments = list(result["arms"]["real_only"])
    rows = [(title, result[group][name]) for title, group, name in _REPORT_ROWS]
    rows += list(result["baselines"].items())
    # Of the arms more is measured, which the report tells.
    names = [name for name in rows[0][1]["all"] if all(name in row["all"] for _, row in rows)]
    table = new_table("", *[f"{_label(name)} {segment}" for name in names for segment in segments])
    for title, values in rows:
        cells = [values[segment][name] for name in names for segment in segments]
        table.add_row(title, *["-" if cell is None else f"{cell:.4f}" for cell in cells])
    return table


def _lift_table(result: Mapping[str, Any]) -> Table:
    segments = list(result["arms"]["real_only"])
    ndcg = next(iter(result["arms"]["real_only"]["all"]))
    table = new_table(f"lift of {_label(ndcg)}", *segments)
    for title, group in _LIFTS:
        cells = [_interval(result[group].get(segment, {}).get(ndcg)) for segment in segments]
        table.add_row(title, *cells)
    return table


def _origin_table(result: Mapping[str, Any], origins: Mapping[str, Any]) -> Table:
    segments = list(result["arms"]["real_only"])
    ndcg = next(iter(result["arms"]["real_only"]["all"]))
    table = new_table(f"lift of {_label(ndcg)} as of", "test users", *segments, "alone")
    for row in origins["rows"]:
        cells = [_interval(row["lifts"]["lift"].get(segment)) for segment in segments]
        users = f"{row['test_users']['all']:,}"
        table.add_row(row["as_of"][:16].replace("T", " "), users, *cells, row["verdict"])
    pooled = origins["pooled"]
    cells = [_interval(pooled["lift"].get(segment, {}).get(ndcg)) for segment in segments]
    table.add_row("all cuts", f"{pooled['test_users']['all']:,}", *cells, result["verdict"])
    return table


def _label(metric: str) -> str:
    name, _, k = metric.partition("_at_")
    return f"{name.upper() if name == 'ndcg' else name.capitalize()}@{k}"


def _interval(lift: Mapping[str, float | None] | None) -> str:
    if lift is None or lift["estimate"] is None:
        return "-"
    bounds = (lift["low"], lift["high"])
    low, high = ("-" if bound is None else f"{100 * bound:+.0f}" for bound in bounds)
    return f"{100 * lift['estimate']:+.0f} % \\[{low}, {high}]"
