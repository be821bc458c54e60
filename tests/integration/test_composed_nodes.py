"""The commands of `infra/compose.yaml`, run as they stand there: a cluster comes of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import requests
from composed_nodes import Composed, Nodes, composed_nodes
from marks import OPENS_FEAST
from postgres_server import PASSWORD, Database
from s3_server import s3_fixture, s3_server_fixture  # noqa: F401 - the fixture `s3`
from scheduled_runs import DEFINITIONS, SETTINGS, middle_of, small_log

pytestmark = [*OPENS_FEAST, pytest.mark.ray]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("data", "__pycache__")
    return Path(shutil.copytree(DEFINITIONS, tmp_path / "repo", ignore=ignored))


@pytest.fixture
def composed(tmp_path: Path, repo: Path, postgres_database: Database, s3) -> Composed:
    return Composed.on_this_machine(
        tmp_path,
        AWS_ENDPOINT_URL_S3=s3.endpoint,
        FEAST_FS_YAML_FILE_PATH=str(repo / "feature_store.cluster.yaml"),
        PGPASSWORD=PASSWORD,
        SCALR_DATABASE=postgres_database.plain_url,
        SCALR_DATA_DIR=str(tmp_path / "data"),
    )


@pytest.fixture
def nodes(composed: Composed) -> Iterator[Nodes]:
    program, *arguments = composed.command("bucket")
    assert program == "python"
    environment = composed.environment("bucket")
    subprocess.run([sys.executable, *arguments], env=environment, check=True)
    with composed_nodes(composed) as started:
        yield started


def test_a_job_of_the_composed_head_has_its_tasks_done_by_the_composed_worker(
    nodes, repo, tmp_path
):
    def scalr(*arguments: str) -> tuple[str, str]:
        options = ["--repo", str(repo), *(f"--set={setting}" for setting in SETTINGS)]
        code, out, err = nodes.head.call("scalr", *options, *arguments)
        assert code == 0, out + err
        return out, err

    (head,), (worker,) = (
        [node for node in nodes.told("nodes") if node["is_head_node"] is is_head]
        for is_head in (True, False)
    )
    assert "CPU" not in head["resources_total"]
    assert worker["resources_total"]["CPU"] == 2
    log = small_log()
    pq.write_table(log, tmp_path / "log.parquet")
    scalr("import", str(tmp_path / "log.parquet"))
    scalr("apply")
    out, err = scalr("--json", "submit", "train", "--as-of", f"{middle_of(log):%Y-%m-%d}")
    state = json.loads(out)
    assert (state["status"], state["exit_code"]) == ("SUCCEEDED", 0)
    trained = json.loads(err[err.index("{\n") : err.rindex("}") + 1])
    assert (tmp_path / "data" / "translators" / trained["version"]).is_dir()
    tasks = [task for task in nodes.told("tasks") if task["type"] == "NORMAL_TASK"]
    assert {task["node_id"] for task in tasks} == {worker["node_id"]}
    for url in nodes.metrics:
        assert "ray_node_cpu_count" in requests.get(url, timeout=10).text
