"""Kill -9 at random instants while batches are made, published, retired and users erased.

The instants are drawn by a seed, over the whole time that the work takes.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fresh_processes import in_parallel
from killing import killed_after, seconds_of
from quick_repos import (
    USER,
    add_batch,
    add_events,
    holding,
    quick_repo,
    workspace_of,
)
from wholeness import assert_whole

from scalr_ray import Scalr
from scalr_ray.core.errors import UsageError
from scalr_ray.ledger import BatchState, ErasureState

KILLS = 50  # with each seed on each database
CHECK_EACH = 10


def make_and_publish(repo: str, number: int) -> None:
    """What a run does between its draw and its end; every third takes the one before back."""
    with Scalr(repo) as scalr:
        workspace = workspace_of(scalr)
        add_batch(workspace, f"b{number}", state=BatchState.ACCEPTED)
        scalr.publish(f"b{number}")
        if number % 3 == 0:
            for batch in workspace.ledger.batches(BatchState.PUBLISHED)[1:2]:
                scalr.retire(batch.batch_id, why="another one came")
        if number % 7 == 0:
            add_events(workspace.layout, "source_events", ["u1", USER, "u2"], "source")
            scalr.erase([USER], why="asked to")


@pytest.mark.parametrize("seed", [7, 8])
def test_after_many_kills_everything_is_whole(tmp_path: Path, database_url: str, seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311 - no secret
    repo = quick_repo(tmp_path, database_url)
    usual_s = seconds_of(make_and_publish, str(repo), 0)
    killed, number = 0, 0
    while killed < KILLS:
        number += 1
        if killed_after(draw.uniform(0, usual_s), make_and_publish, str(repo), number):
            killed += 1
            with Scalr(repo) as scalr:
                scalr.recover()
        else:
            usual_s *= 0.95  # it was quicker than we thought
        if number % CHECK_EACH == 0:
            assert_whole(repo)
    assert_whole(repo)
    with Scalr(repo) as scalr:
        workspace = workspace_of(scalr)
        states = {batch.state for batch in workspace.ledger.batches()}
        assert {BatchState.PUBLISHED, BatchState.RETIRED} <= states
        erasures = workspace.ledger.erasures()
        assert erasures
        assert {record.state for record in erasures} == {ErasureState.DONE}
        scalr.erase([USER], why="once more, for all that came since")
        assert holding(workspace.layout.data, USER) == []


def test_of_several_publishers_of_one_batch_one_wins_and_the_others_are_told(
    tmp_path: Path, database_url: str
) -> None:
    repo = quick_repo(tmp_path, database_url)
    with Scalr(repo) as scalr:
        add_batch(workspace_of(scalr), "b1", state=BatchState.ACCEPTED)
    answers = in_parallel([(publish_one, (str(repo), "b1"))] * 4)
    assert answers.count("published") <= 1
    told = {
        "published",
        "already published",
        "batch b1 is published, not accepted; it cannot become published",
    }
    assert set(answers) <= told
    with Scalr(repo) as scalr:
        assert workspace_of(scalr).ledger.batch("b1").state is BatchState.PUBLISHED
    assert_whole(repo)


def publish_one(repo: str, batch_id: str) -> str:
    """What a publisher is told."""
    try:
        with Scalr(repo) as scalr:
            published = scalr.publish(batch_id)
    except UsageError as error:
        return error.message
    return "already published" if published.already_published else "published"
