"""Calls of the `scalr` command in this process, and what they said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from scalr_ray.cli.main import main


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one call said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call_scalr(repo: Path, *arguments: str, settings: Sequence[str] = ()) -> Answer:
    """`scalr --repo REPO --set=SETTING... ARGUMENT...`"""
    options = [f"--set={setting}" for setting in settings]
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["--repo", str(repo), *options, *arguments])
    return Answer(code=code, out=out.getvalue(), err=err.getvalue())


def one_line(answer: Answer) -> str:
    """What a failed call said, which is one line of ours."""
    assert answer.err.startswith("scalr: ")
    assert answer.err.count("\n") == 1
    return answer.err
