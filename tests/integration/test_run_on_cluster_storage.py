"""The whole path with PostgreSQL below registry, ledger and catalog, and S3 below the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pytest
from marks import OPENS_FEAST
from s3_server import BUCKET, s3_fixture, s3_server_fixture  # noqa: F401 - the fixture `s3`
from scheduled_runs import DAY, DEFINITIONS, SETTINGS, make_repo, middle_of, small_log

from scalr_ray import Scalr
from scalr_ray.core.clock import EPOCH
from scalr_ray.ledger import BatchState
from scalr_ray.offline_store.cluster import ray_session

pytestmark = [*OPENS_FEAST, pytest.mark.ray]

LOG = small_log(users=200)
T1 = middle_of(LOG)


@pytest.fixture
def repo(tmp_path: Path, postgres_url: str, s3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SCALR_DATABASE", postgres_url)
    monkeypatch.setenv("SCALR_WAREHOUSE", f"s3://{BUCKET}/whole-path")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    settings = DEFINITIONS / "feature_store.cluster.yaml"
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(settings))
    with ray_session(2):  # whose workers inherit where everything is
        yield make_repo(tmp_path, LOG)


def test_events_are_published_kept_retired_and_erased(repo: Path, s3) -> None:
    from training import build_mixed_dataset
    from training.saved import load

    with Scalr(repo, SETTINGS) as scalr:
        outcome = scalr.run(T1)
        assert outcome.accepted
        batch = outcome.record
        assert batch is not None
        store, lake = scalr._workspace.store, scalr._workspace.lake
        published = lake.read()
        assert published.num_rows == batch.rows > 100
        assert any(key.endswith(".parquet") for key in s3.keys("whole-path"))
        asked = {"service": "mixed_training_v1", "start": EPOCH, "end": T1 + DAY, "as_of": T1 + DAY}
        dataset = build_mixed_dataset(store, **asked)
        dataset.save("kept")
        synthetic = dataset.table.filter(dataset.table["is_synthetic"])
        assert set(synthetic["event_id"].to_pylist()) == set(published["event_id"].to_pylist())
        user = published["user_id"][0].as_py()
        scalr.erase([user])
        assert user not in lake.read()["user_id"].to_pylist()
        assert user not in load(store, "kept").table["user_id"].to_pylist()
        for key in s3.keys("whole-path"):
            with s3.files.open_input_stream(f"{BUCKET}/{key}") as file:
                assert user.encode() not in file.read(), key
        left = lake.read()
        scalr.retire(batch.batch_id, why="the test is over")
        assert lake.read().num_rows == 0
        assert pc.count_distinct(left["event_id"]).as_py() == left.num_rows > 0
        assert scalr.recover() == []
        assert [found.state for found in scalr._workspace.ledger.batches()] == [BatchState.RETIRED]
