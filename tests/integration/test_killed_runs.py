"""Kill -9 of whole runs at random instants, training and drawing on Ray included."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest
from killing import killed_after, seconds_of
from marks import OPENS_FEAST
from quick_repos import workspace_of
from scheduled_runs import SETTINGS, make_repo, middle_of, small_log
from wholeness import assert_whole

from scalr_ray import Scalr
from scalr_ray.cli.main import main

pytestmark = [*OPENS_FEAST, pytest.mark.ray]

LOG = small_log()
CUT = middle_of(LOG)
TRIES = 6


def run(repo: str) -> None:
    """`scalr run`, which starts a Ray of its own."""
    options = [f"--set={setting}" for setting in SETTINGS]
    assert main(["--repo", repo, *options, "run", "--as-of", CUT.isoformat()]) == 0


def published(repo: Path) -> pa.Table:
    with Scalr(repo) as scalr:
        return workspace_of(scalr).lake.read().sort_by("event_id")


def test_a_run_that_is_killed_again_and_again_publishes_what_an_undisturbed_one_does(
    tmp_path: Path,
) -> None:
    calm, troubled = (make_repo(tmp_path / name, LOG) for name in ("calm", "troubled"))
    usual_s = seconds_of(run, str(calm))
    draw = random.Random(3)  # noqa: S311 - no secret
    killed = 0
    for _ in range(TRIES):
        if not killed_after(draw.uniform(0.2, 0.9) * usual_s, run, str(troubled)):
            break
        killed += 1
        with Scalr(troubled) as scalr:
            scalr.recover()
        assert_whole(troubled)
    assert killed
    assert not killed_after(600, run, str(troubled))
    assert_whole(troubled)
    assert published(troubled).num_rows > 0
    assert published(troubled).equals(published(calm))
