"""A stage as a process of its own: what it takes, what it says, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from quick_repos import quick_repo

from scalr_ray import Scalr
from scalr_ray.cli.main import cli
from scalr_ray.core.errors import DataError
from scalr_ray.jobs import options
from scalr_ray.jobs.entry import Told, main_of


@pytest.fixture
def repo(tmp_path: Path) -> str:
    return str(quick_repo(tmp_path))


def heard(workspace, **given):
    """A stage that says what it was told."""
    record = {"kind": workspace.config.translator.kind, "seed": workspace.config.seed, **given}
    return Told(record=record, sentence=f"seed {workspace.config.seed}")


@pytest.mark.parametrize("stage", options.STAGES)
def test_a_stage_takes_the_same_options_as_its_verb(stage):
    @options.takes(stage)
    def function() -> None: ...

    own = [(each.name, each.opts) for each in reversed(function.__click_params__)]
    assert own == [(each.name, each.opts) for each in cli.commands[stage].params]


def test_it_hears_the_options_and_says_what_came_of_them(repo, capsys):
    main = main_of("run", heard)
    given = ["--repo", repo, "--set", "seed=7", "--as-of", "2026-01-01"]
    assert main(given) == 0
    assert capsys.readouterr() == ("seed 7\n", "")
    assert main([*given, "--translator", "neural", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"kind": "neural", "seed": 7, "as_of": "2026-01-01"}


def test_a_refusal_has_exit_code_3_and_is_still_told_to_machines(repo, capsys):
    main = main_of("run", lambda *_, **__: Told(record=[1], sentence="no lift", refused=True))
    assert main(["--repo", repo]) == 3
    assert capsys.readouterr() == ("", "scalr: no lift\n")
    assert main(["--repo", repo, "--json"]) == 3
    assert capsys.readouterr() == ("[\n  1\n]\n", "scalr: no lift\n")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--nonsense"], 2, "--nonsense.*; `python -m scalr_ray.jobs.train --help` says more"),
        (["--repo", "/not/there"], 2, "/not/there.*is not there; point --repo at a folder"),
        (["--set", "seed"], 2, "'seed' is not of the form a.b=c"),
        ([], 2, "a wrong file"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(repo, arguments, code, says, capsys):
    def fail(*_, **__):
        raise DataError("a wrong\n  file")

    named = arguments if "--repo" in arguments else ["--repo", repo, *arguments]
    assert main_of("train", fail)(named) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(says, err)


def test_whoever_is_stopped_by_a_signal_still_tells_the_ledger(repo):
    def stopped(workspace, **_):
        with workspace.run("train"):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()

    before = signal.getsignal(signal.SIGTERM)
    assert main_of("train", stopped)(["--repo", repo]) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    with Scalr(repo) as scalr:
        (run,) = scalr.runs()
    assert (run.status, run.error_code) == ("failed", "SystemExit")
