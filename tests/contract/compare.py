"""Prints what each offline store answers, as Markdown: `python -m tests.contract.compare`.

The checks are those of the contract suite. Each store runs in a temporary repository of its own.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

from tests.contract.store_checks import CHECKS, OK, judge
from tests.contract.store_harness import OURS, OURS_ON_RAY, STORES, open_bench
from tests.support.two_nodes import two_nodes

_WIDTH = 120
_LEFT_OUT = (
    "The Ray and PostgreSQL stores of Feast are left out: one needs a cluster, the other a server."
)


def comparison(answers: Mapping[str, Mapping[str, str]]) -> str:
    """The answers of each store to each check: a row where some store deviates, a list of the rest.

    Args:
        answers: by store, then by check.
    """
    told_apart = [
        check for check in CHECKS if any(found[check] != OK for found in answers.values())
    ]
    kept = [f"{sum(found[check] == OK for check in CHECKS)}" for found in answers.values()]
    lines = [
        _line(["check", *(_title(name) for name in answers)]),
        "|---" * (len(answers) + 1) + "|",
        *(_line([check, *(found[check] for found in answers.values())]) for check in told_apart),
        _line(["**checks passed**", *(f"**{count} of {len(CHECKS)}**" for count in kept)]),
    ]
    alike = "; ".join(check for check in CHECKS if check not in told_apart)
    rest = textwrap.fill(f"Passed by all: {alike}.", _WIDTH, break_on_hyphens=False)
    return "\n".join([*lines, "", rest])


def measure() -> dict[str, dict[str, str]]:
    """Run every check on every store."""
    return {name: _answers(name) for name in STORES}


def _answers(name: str) -> dict[str, str]:
    nodes = two_nodes() if name == OURS_ON_RAY else nullcontext()
    with nodes, tempfile.TemporaryDirectory() as folder:
        bench = open_bench(name, Path(folder))
        return {check: judge(check, bench) for check in CHECKS}


def _title(name: str) -> str:
    return {OURS: f"`{OURS}`", OURS_ON_RAY: f"`{OURS}` on Ray"}.get(name, f"Feast `{name}`")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    warnings.simplefilter("ignore")  # of other projects, and not part of the table
    logging.disable(logging.WARNING)
    sys.stdout.write(f"{comparison(measure())}\n\nFeast {version('feast')}. {_LEFT_OUT}\n")


if __name__ == "__main__":
    main()
