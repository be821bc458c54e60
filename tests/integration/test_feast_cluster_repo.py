"""The definitions as a cluster uses them: PostgreSQL, a warehouse in S3, joins on Ray."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from lake_rows import event
from s3_server import BUCKET, s3_fixture, s3_server_fixture  # noqa: F401 - the fixture `s3`

from scalr_ray.core.config import IdTypes, load_config
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
KNOWN = datetime(2026, 3, 1, 13, tzinfo=UTC)

pytestmark = [pytest.mark.feast, pytest.mark.ray]


@pytest.fixture
def repo(tmp_path: Path, s3, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the definitions; everything that says where things lie is in the environment."""
    repo = tmp_path / "repo"
    ignore = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(DEFINITIONS, repo, ignore=ignore)
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(repo / "feature_store.cluster.yaml"))
    monkeypatch.setenv("SCALR_DATABASE", postgres_url)
    monkeypatch.setenv("SCALR_WAREHOUSE", f"s3://{BUCKET}/cluster")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    subprocess.run(
        [Path(sys.executable).parent / "feast", "apply"], cwd=repo, check=True, capture_output=True
    )
    return repo


def test_published_events_are_seen_on_the_cluster(repo: Path, s3) -> None:
    from scalr_ray.offline_store import open_feature_store
    from scalr_ray.offline_store.feature_store import close_feature_store

    config = load_config(repo)
    schema = synthetic_event_schema("string", "string")
    rows = [event("b1", slot, item_id=f"i{slot}") for slot in range(4)]
    with SyntheticEventLake.open(Layout.of(repo, config), IdTypes()) as lake:
        lake.write_staged("b1", pa.Table.from_pylist(rows, schema=schema))
        lake.publish("b1")

    entities = pd.DataFrame(
        {
            "event_id": ["b1/2", "b1/2", "b1/9"],
            "event_timestamp": [KNOWN - timedelta(microseconds=1), KNOWN, KNOWN],
        }
    )
    store = open_feature_store(repo)
    found = store.get_historical_features(
        entity_df=entities, features=["synthetic_events:item_id"], filter_by_created_timestamp=True
    ).to_arrow()
    close_feature_store(store)

    assert found["item_id"].to_pylist() == [None, "i2", None]
    assert any(key.endswith(".parquet") for key in s3.keys("cluster"))
    assert not (repo / "data" / "scalr.db").exists()
    assert not (repo / "data" / "warehouse").exists()
