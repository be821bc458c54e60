"""A year of runs: late events, retirements, erasures and kills; hours, so not in CI (`make soak`).

Every tenth round everything must be whole and sets that were pinned long ago what they were, and
what `gc` leaves on disk and what memory holds is printed.

```
SCALR_TEST_ROUNDS=200 SCALR_TEST_SEED=1 python -m pytest tests/integration/simulated_year.py
```
"""

from __future__ import annotations

import gc
import os
import random
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from feast import FeatureStore
from killing import killed_after
from marks import OPENS_FEAST
from quick_repos import files_below, holding, workspace_of
from scheduled_runs import SETTINGS, TIME, import_into, make_repo, small_log
from wholeness import assert_whole

from scalr_ray import Scalr
from scalr_ray.core.clock import EPOCH
from scalr_ray.core.errors import DataError, MassReached, TooLittleData
from scalr_ray.jobs.collect import collect
from scalr_ray.ledger import BatchState
from scalr_ray.offline_store import open_feature_store
from scalr_ray.offline_store.cluster import ray_session
from scalr_ray.offline_store.feature_store import close_feature_store
from training import build_mixed_dataset
from training.dataset import MixedDataset
from training.saved import load

pytestmark = [*OPENS_FEAST, pytest.mark.ray]

ROUNDS = int(os.environ.get("SCALR_TEST_ROUNDS", "200"))
SEED = int(os.environ.get("SCALR_TEST_SEED", "1"))
YEAR = timedelta(days=365)
LOG = small_log(days=500, users=160, seed=SEED)
START = pc.max(LOG["event_timestamp"]).as_py().replace(hour=0, minute=0) - YEAR
CHECK_EACH, PIN_EACH = 10, 20
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


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A training set that was pulled and saved at some round.

    Attributes:
        as_of: its as-of time.
        snapshot_id: of the synthetic events that it has read.
        rows: its rows as they were pulled.
        erased: how many users had been erased by then.
    """

    name: str
    as_of: datetime
    snapshot_id: int
    rows: pa.Table
    erased: int

    def assert_unchanged(self, repo: Path, erased: list[str]) -> None:
        """Saved and pulled again it is what it was, without the users who were erased since.

        A snapshot that showed one of them is gone; then what was saved is all that there is.
        """
        gone = pc.is_in(self.rows["user_id"], value_set=pa.array(erased, pa.string()))
        left = self.rows.filter(pc.invert(gone))
        store = open_feature_store(repo)
        try:
            assert load(store, self.name).to_arrow().equals(left)
            again = pulled(store, self.as_of, snapshot_id=self.snapshot_id).to_arrow()
            assert again.equals(left)
        except DataError:
            if len(erased) == self.erased:
                raise
        finally:
            close_feature_store(store)


def pulled(store: FeatureStore, as_of: datetime, **pin: int) -> MixedDataset:
    service = "mixed_training_v1"
    return build_mixed_dataset(store, service=service, start=EPOCH, end=as_of, as_of=as_of, **pin)


def pin(repo: Path, name: str, as_of: datetime, erased: list[str]) -> Pinned:
    """Pull a training set, and save it."""
    store = open_feature_store(repo)
    try:
        dataset = pulled(store, as_of)
        dataset.save(name)
    finally:
        close_feature_store(store)
    return Pinned(
        name=name,
        as_of=as_of,
        snapshot_id=dataset.manifest["snapshot_id"],
        rows=dataset.to_arrow(),
        erased=len(erased),
    )


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a repository and the process that runs it hold, once `gc` has removed what is old.

    Attributes:
        batches: that are published.
        lake_files: below the warehouse: rows, manifests, table metadata.
        lake_mib: their size.
        else_mib: all other files of the data: events, features, sets, translators, the database.
        process_mib: memory of this process that it does not share.
    """

    batches: int
    lake_files: int
    lake_mib: float
    else_mib: float
    process_mib: float

    @classmethod
    def by(cls, repo: Path) -> Held:
        with Scalr(repo, ALL) as scalr:
            workspace = workspace_of(scalr)
            # A round is some days of the year, and seconds here.
            collect(workspace, now=datetime.now(UTC) + 2 * timedelta(days=1))
            batches = len(workspace.ledger.batches(BatchState.PUBLISHED))
        lake = files_below(Path(workspace.layout.warehouse))
        other = files_below(workspace.layout.data) - lake
        gc.collect()
        memory = psutil.Process().memory_info()
        return cls(
            batches=batches,
            lake_files=len(lake),
            lake_mib=mib(lake),
            else_mib=mib(other),
            process_mib=(memory.rss - memory.shared) / 2**20,
        )

    def __str__(self) -> str:
        return (
            f"{self.batches} batches, {self.lake_files} files of {self.lake_mib:.2f} MiB in the "
            f"lake, {self.else_mib:.2f} MiB else, {self.process_mib:.0f} MiB of memory"
        )


def mib(files: set[str]) -> float:
    return sum(Path(file).stat().st_size for file in files) / 2**20


@pytest.mark.timeout(24 * 3600)
def test_a_year_of_runs_leaves_everything_whole(tmp_path: Path) -> None:
    draw = random.Random(SEED)  # noqa: S311 - no secret
    repo = make_repo(tmp_path, known_by(START))
    seen, erased, pins, held = Counter[str](), list[str](), list[Pinned](), list[Held]()
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
                for pinned in pins:
                    pinned.assert_unchanged(repo, erased)
                if published and number % PIN_EACH == 0:
                    pins.append(pin(repo, f"round_{number}", moment, erased))
                did = f"{dict(seen)}, {len(erased)} erased, {len(pins)} sets pinned"
                held.append(Held.by(repo))
                sys.stdout.write(f"{number} of {ROUNDS}: {did}; {held[-1]}\n")
                sys.stdout.flush()
    with Scalr(repo, ALL) as scalr:
        states = Counter(batch.state for batch in workspace_of(scalr).ledger.batches())
    assert states[BatchState.PUBLISHED] > 0
    half, end = held[len(held) // 2 - 1], held[-1]
    assert end.process_mib < 1.25 * half.process_mib
    # What lies in the lake is the batches, and next to nothing of what was done with them.
    assert end.lake_files * half.batches < 1.25 * half.lake_files * end.batches
    assert end.lake_mib * half.batches < 1.25 * half.lake_mib * end.batches
