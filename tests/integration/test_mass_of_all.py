"""`weights.mass_frac` bounds what is published, batch after batch, and says so where it is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from marks import OPENS_FEAST
from scheduled_runs import DAY, SETTINGS, TIME, import_into, make_repo, middle_of, small_log

from scalr_ray import Scalr
from scalr_ray.cli.main import main
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.offline_store.cluster import ray_session

pytestmark = [*OPENS_FEAST, pytest.mark.ray, pytest.mark.usefixtures("one_ray")]

LOG = small_log()
T1 = middle_of(LOG)
MASS_FRAC = 0.0005  # far less than what the scale asks for
BOUNDED = (*SETTINGS, f"weights.mass_frac={MASS_FRAC}")
REPLACE = ("increment.stale=replace", "increment.retrain_days=1")


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    with ray_session(2):
        yield


def mass_and_bound(repo: Path, as_of: datetime) -> tuple[Fraction, Fraction, int]:
    """The exact sum of the weights that are published, what it may be, and of how many batches."""
    with closing(Workspace(repo, BOUNDED, Progress())) as workspace:
        rows = workspace.lake.read()
        pairs = workspace.target_events(as_of).group_by(["user_id", "item_id"]).aggregate([])
    positive = rows.filter(pc.greater(rows["label"], 0.0))
    mass = sum(map(Fraction, positive["sample_weight"].to_pylist()), Fraction(0))
    return mass, Fraction(MASS_FRAC) * pairs.num_rows, pc.count_distinct(rows["batch_id"]).as_py()


def test_no_batch_lifts_the_mass_of_all_above_the_bound(tmp_path, capsys):
    lagging = pc.and_(
        pc.equal(LOG["domain"], "games"),
        pc.greater_equal(LOG["event_timestamp"], pa.scalar(T1 - 10 * DAY, TIME)),
    )
    repo = make_repo(tmp_path, LOG.filter(pc.invert(lagging)))
    with Scalr(repo, BOUNDED) as scalr:
        assert scalr.run(T1).accepted
    mass, bound, batches = mass_and_bound(repo, T1)
    assert (float(mass), batches) == (pytest.approx(float(bound)), 1)

    # The games of these days arrive: new source events, and no room for what comes of them.
    import_into(repo, LOG)
    options = [f"--set={setting}" for setting in BOUNDED]
    assert main(["--repo", str(repo), *options, "run", "--as-of", T1.isoformat()]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "weights.mass_frac allows 0.0005: a new batch would count for nothing" in said
    assert mass_and_bound(repo, T1) == (mass, bound, 1)

    # More happens in the target domain, which makes room.
    later = T1 + 15 * DAY
    with Scalr(repo, BOUNDED) as scalr:
        assert scalr.run(later).accepted
    before, (mass, bound, batches) = mass, mass_and_bound(repo, later)
    assert before < mass <= bound * (1 + Fraction(1, 2**40))
    assert (float(mass), batches) == (pytest.approx(float(bound)), 2)

    # What is replaced leaves its room to what takes its place.
    last = later + 10 * DAY
    with Scalr(repo, (*BOUNDED, *REPLACE)) as scalr:
        assert len(scalr.run(last).retired) == 2
    mass, bound, batches = mass_and_bound(repo, last)
    assert mass <= bound * (1 + Fraction(1, 2**40))
    assert (float(mass), batches) == (pytest.approx(float(bound)), 1)
