"""Prints what each offline store answers, as Markdown: `python -m tests.contract.compare`.

The checks are those of the contract suite. Each store runs in a temporary repository and a process
of its own.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from tests.contract.store_checks import CHECKS, OK, judge
from tests.contract.store_harness import OURS, OURS_ON_RAY, STORES, open_bench

_WIDTH = 120
_NOTE = "Feast {feast}, its `ray` store on Ray {ray}, which is here without the extra `feast[ray]`."


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


def measure(stores: Collection[str]) -> dict[str, dict[str, str]]:
    """Run every check on every one of `stores`, one store after the other."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        return dict(zip(stores, pool.map(_answers, stores), strict=True))


def _answers(name: str) -> dict[str, str]:
    logging.disable(logging.CRITICAL)  # of other projects, and not part of the table
    with (
        redirect_stdout(sys.stderr),  # where Ray's advice belongs
        tempfile.TemporaryDirectory() as folder,
        open_bench(name, Path(folder)) as bench,
    ):
        warnings.simplefilter("ignore")  # only now, for Feast has filters of its own
        return {check: judge(check, bench) for check in CHECKS}


def _title(name: str) -> str:
    return {OURS: f"`{OURS}`", OURS_ON_RAY: f"`{OURS}` on Ray"}.get(name, f"Feast `{name}`")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    note = _NOTE.format(feast=version("feast"), ray=version("ray"))
    sys.stdout.write(f"{comparison(measure(STORES))}\n\n{note}\n")


if __name__ == "__main__":
    main()
