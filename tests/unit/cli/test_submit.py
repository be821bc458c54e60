"""How the options of a stage travel with the job."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from scalr_ray.cli.submit import _as_arguments
from scalr_ray.jobs import options

GIVEN = {
    "train": ["--as-of", "2026-01-01", "--translator", "neural"],
    "run": [],
    "generate": ["--translator", "frequency-1"],
    "backfill": ["--from", "2026-01-01", "--to", "2026-02-01", "--every", "7d"],
    "evaluate": ["--decide", "--out", "a report", "--", "-batch", "another"],
}


@pytest.mark.parametrize("stage", options.STAGES)
def test_a_job_hears_what_was_said_here(stage, tmp_path, monkeypatch):
    heard = []

    @click.command()
    @options.takes(stage)
    def command(**given: object) -> None:
        heard.append(given)

    monkeypatch.chdir(tmp_path)
    command.main(GIVEN[stage], standalone_mode=False)
    command.main(_as_arguments(command.params, heard[0]), standalone_mode=False)
    here, there = heard
    if "out" in here:
        assert here.pop("out") == Path("a report")
        assert there.pop("out") == tmp_path / "a report"
    assert there == here
