"""What the stages are told on a command line: the same words for `scalr`, and for a job of its own.

Feast, Ray and the stages themselves are not imported here: `scalr --help` must answer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Option = Callable[[Callable[..., Any]], Callable[..., Any]]

_KINDS = click.Choice(["frequency", "neural", "auto"])

REPO = click.option(
    "--repo",
    default="feature_repo",
    show_default=True,
    envvar="SCALR_REPO",
    type=click.Path(path_type=Path),
    help="Feature repository: the folder with scalr.yaml.",
)
OVERRIDES = click.option(
    "--set", "overrides", multiple=True, metavar="A.B=C", help="Override scalr.yaml."
)
AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, for machines."
)
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Show what the libraries log.")

_AS_OF = click.option("--as-of", metavar="TIME", help="Work on what was known then; default: now.")
_KIND = click.option(
    "--translator", "kind", type=_KINDS, help="Kind; default: translator.kind of scalr.yaml."
)
_VERSION = click.option("--translator", metavar="VERSION", help="Default: the newest.")
_BATCHES = click.argument("batches", nargs=-1, metavar="[BATCH]...")
_START = click.option("--from", "start", required=True, metavar="TIME", help="The first origin.")
_END = click.option("--to", "end", required=True, metavar="TIME", help="No origin lies after it.")
_EVERY = click.option(
    "--every", required=True, metavar="DURATION", help="Between two, say 7d or 12h."
)
_OUT = click.option(
    "--out",
    default="scalr-report",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the report.",
)
_DECIDE = click.option(
    "--decide",
    is_flag=True,
    help="Exit code 0 only where the events help, 3 where not, 2 where it cannot be told.",
)

STAGES: Mapping[str, Sequence[Option]] = {
    "run": (_AS_OF, _KIND),
    "train": (_AS_OF, _KIND),
    "generate": (_VERSION,),
    "backfill": (_START, _END, _EVERY, _KIND),
    "evaluate": (_BATCHES, _OUT, _DECIDE),
}


def takes(stage: str) -> Callable[[Decorated], Decorated]:
    """Give a function the options of a stage; they reach it by name."""

    def give(function: Decorated) -> Decorated:
        for option in reversed(STAGES[stage]):
            option(function)
        return function

    return give


def with_kind(overrides: Sequence[str], kind: str | None) -> tuple[str, ...]:
    """Overrides and a kind of translator, where one is named."""
    return (*overrides, *([] if kind is None else [f"translator.kind={kind}"]))
