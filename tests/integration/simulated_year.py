"""A year of runs: late events, retirements, erasures and kills; hours, so not in CI (`make soak`).

```
SCALR_TEST_ROUNDS=200 SCALR_TEST_SEED=1 python -m pytest tests/integration/simulated_year.py
```
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from killing import killed_after
from marks import OPENS_FEAST
from quick_repos import holding, workspace_of
from scheduled_runs import SETTINGS, TIME, import_into, make_repo, small_log
from wholeness import assert_whole

from scalr_ray import Scalr
from scalr_ray.core.errors import MassReached, TooLittleData
from scalr_ray.ledger import BatchState
from scalr_ray.offline_store.cluster import ray_session

pytestmark = [*OPENS_FEAST, pytest.mark.ray]

ROUNDS = int(os.environ.get("SCALR_TEST_ROUNDS", "200"))
SEED = int(os.environ.get("SCALR_TEST_SEED", "1"))
YEAR = timedelta(days=365)
LOG = small_log(days=500, users=160, seed=SEED)
START = pc.max(LOG["event_timestamp"]).as_py().replace(hour=0, minute=0) - YEAR
CHECK_EACH = 10
ALL = (*SETTINGS, "increment.retrain_days=30", "retention.snapshots_days=1")


def known_by(moment: datetime) -> pa.Table:
    """What had been observed: what was loaded before is loaded again, and changes nothing."""
    return LOG.filter(pc.less_equal(LOG["available_at"], pa.scalar(moment, TIME)))


def run(repo: str, moment: datetime) -> None:
    """One increment, in whatever process."""
    with ray_session(2), Scalr(Path(repo), ALL) as scalr:
        try:
            scalr.run(moment)
        except (MassReached, TooLittleData):
            return


def assert_sound(repo: Path, moment: datetime, erased: list[str]) -> None:
    """All is whole, nothing comes from later than now, nobody has too much, nobody erased is left.

    Args:
        repo: the repository.
        moment: the present.
        erased: the ids of the users who were erased.
    """
    assert_whole(repo)
    with Scalr(repo, ALL) as scalr:
        workspace = workspace_of(scalr)
        rows = workspace.lake.read()
        for name in ("event_timestamp", "available_at"):
            if rows.num_rows:
                assert pc.max(rows[name]).as_py() <= moment
        per_user = Counter(rows["user_id"].to_pylist())
        assert max(per_user.values(), default=0) <= scalr.config.generation.per_user_total
        assert not set(per_user) & set(erased)
        for user in erased:
            assert holding(workspace.layout.data, user) == []


@pytest.mark.timeout(24 * 3600)
def test_a_year_of_runs_leaves_everything_whole(tmp_path: Path) -> None:
    draw = random.Random(SEED)  # noqa: S311 - no secret
    repo = make_repo(tmp_path, known_by(START))
    seen, erased = Counter[str](), list[str]()
    with ray_session(2):
        for number in range(1, ROUNDS + 1):
            moment = START + number * YEAR / ROUNDS
            import_into(repo, known_by(moment))
            if draw.random() < 0.1 and killed_after(draw.uniform(1, 20), run, str(repo), moment):
                seen["killed"] += 1
                with Scalr(repo, ALL) as scalr:
                    scalr.recover()
            run(str(repo), moment)
            with Scalr(repo, ALL) as scalr:
                published = workspace_of(scalr).ledger.batches(BatchState.PUBLISHED)
                if len(published) > 1 and draw.random() < 0.1:
                    scalr.retire(draw.choice(published).batch_id, why="drawn")
                    seen["retired"] += 1
                if draw.random() < 0.05:
                    users = pc.unique(known_by(moment)["user_id"]).to_pylist()
                    erased.append(draw.choice(sorted(set(users) - set(erased))))
                    scalr.erase([erased[-1]], why="asked to")
                if draw.random() < 0.1:
                    scalr.compact()
            if number % CHECK_EACH == 0 or number == ROUNDS:
                assert_sound(repo, moment, erased)
                sys.stdout.write(f"{number} of {ROUNDS}: {dict(seen)}, {len(erased)} erased\n")
    with Scalr(repo, ALL) as scalr:
        states = Counter(batch.state for batch in workspace_of(scalr).ledger.batches())
    assert states[BatchState.PUBLISHED] > 0
