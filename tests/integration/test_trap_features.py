"""Features that hold the answer, and become known after the cut, change nothing of a training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from planted_logs import cut_of, planted_events, write_log

from scalr_ray.core.clock import to_micros
from scalr_ray.jobs.fitting import neural_fit, prior_of, ray_fit
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.sdk import Scalr
from scalr_ray.jobs.train import default_validation_cut
from scalr_ray.jobs.trial import Stage
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.learn.neural.fit import stopping_task
from scalr_ray.learn.neural.task import TrainingTask
from scalr_ray.offline_store.engine import Engine
from scalr_ray.translator.prior_mix import PriorMix

pytestmark = pytest.mark.feast

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
SETTINGS = (
    "translator.neural.features=user_features_v1",
    "translator.neural.item_features=item_features_v1",
)
EVENTS = planted_events(users=150)
AS_OF = cut_of(EVENTS)
KEYS = {"user_source_features": "user_id", "item_popularity": "item_id"}


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trap")
    log = write_log(EVENTS, folder / "events.parquet")
    repo = folder / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    with Scalr(repo, SETTINGS) as scalr:
        scalr.import_events(log)
        scalr.apply()
    return repo


@pytest.fixture
def trap(repo) -> Iterator[Callable[[datetime, datetime], None]]:
    """Puts a snapshot with the answers behind both feature views, and takes it away again."""
    laid: set[Path] = set()

    def lay(stamped: datetime, known: datetime) -> None:
        for view, key in KEYS.items():
            folder = repo / "data" / "features" / view
            honest = pq.read_table(next(folder.glob("part-*.parquet")))
            part = folder / "part-trap.parquet"
            laid.add(part)
            pq.write_table(answers(honest, key, stamped, known), part)

    yield lay
    for part in laid:
        part.unlink()


def answers(honest: pa.Table, key: str, stamped: datetime, known: datetime) -> pa.Table:
    """A snapshot that counts, of each user or item, the target events of the last days of the log.

    Args:
        honest: a snapshot of the same view.
        key: of the view.
        stamped: its event time.
        known: when it was available.
    """
    later = EVENTS.filter(
        pc.and_(
            pc.equal(EVENTS["domain"], "target"),
            pc.greater(EVENTS["event_timestamp"], pa.scalar(AS_OF - timedelta(days=90))),
        )
    )
    counted = later.group_by(key).aggregate([("item_id", "count")])
    number = counted["item_id_count"].cast(pa.int64())
    columns = {}
    for field in honest.schema:
        if field.name == key:
            column = counted[key]
        elif field.name in {"event_timestamp", "available_at"}:
            time = stamped if field.name == "event_timestamp" else known
            column = pa.array(np.full(len(counted), to_micros(time))).cast(field.type)
        elif pa.types.is_list(field.type):
            column = pa.array([[f"answer{n}"] for n in number.to_pylist()])
        else:
            column = pc.add(number, 1_000_000)
        columns[field.name] = column.cast(field.type)
    return pa.table(columns, schema=honest.schema)


def training(repo: Path) -> tuple[TrainingTask, datetime]:
    """All that the first net of `scalr train` learns from, as Feast serves it, and its cut."""
    workspace = Workspace(repo, SETTINGS, Progress())
    try:
        events = workspace.training_events(AS_OF)
        cut = default_validation_cut(workspace, events)
        stage = Stage.of(events, validation_cut=cut, cutoff=AS_OF, seed=0)
        how = neural_fit(workspace, prior_of(workspace, stage))
        return stopping_task(events, validation_cut=cut, how=how, hidden=stage.hidden), cut
    finally:
        workspace.close()


def test_what_becomes_known_after_the_cut_changes_no_bit_of_what_a_net_learns_from(repo, trap):
    plain, cut = training(repo)
    assert plain.shape.user_features is not None
    assert plain.shape.item_features is not None

    def learned_from(stamped: datetime, known: datetime) -> str:
        trap(stamped, known)
        return training(repo)[0].fingerprint

    day, long_before = timedelta(days=1), AS_OF - timedelta(days=120)
    for stamped, known in ((AS_OF + day, AS_OF + day), (long_before, AS_OF + day), (cut, cut)):
        assert learned_from(stamped, known) == plain.fingerprint
    # It is a trap: what was known in time is learned from.
    assert learned_from(long_before, long_before) != plain.fingerprint


def test_rows_may_be_made_on_a_cluster_where_ray_train_takes_them_from_there(repo):
    prior = PriorMix.recent(window_days=90, background=0.1)

    def engine(*settings: str) -> Engine | None:
        workspace = Workspace(repo, (*SETTINGS, *settings), Progress())
        try:
            assert neural_fit(workspace, prior).engine is None
            return ray_fit(workspace, prior).engine
        finally:
            workspace.close()

    found = engine()
    assert found is not None
    assert found.name == "auto"
    assert engine("translator.neural.workers=0") is None
