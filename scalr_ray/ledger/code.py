"""Which code a run is done by."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).parents[2]


@cache
def code_version() -> str:
    """The version of the package and, where it runs from a git checkout, the commit.

    It is looked up once in a process: `0.1.0`, `0.1.0+g1234567890ab` or, with changes that are not
    committed, `0.1.0+g1234567890ab.dirty`.
    """
    commit = commit_of(_ROOT)
    return version("scalr") if commit is None else f"{version('scalr')}+g{commit}"


def commit_of(root: Path) -> str | None:
    """The commit of the checkout that begins at `root`; None where none does, or git is absent."""
    # An installed package may lie within the checkout of something else.
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*"]
    # Whoever works in the checkout meanwhile must not find it locked.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        found = subprocess.run(  # noqa: S603 - the command is fixed
            [*command, "--dirty=.dirty"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None
