"""A whole run as others see it: metrics at the port of a real Ray, and what OpenLineage is told."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import numpy as np
import pytest
from marks import OPENS_FEAST
from scheduled_runs import SETTINGS, make_repo, middle_of, small_log

from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.jobs import metrics
from scalr_ray.jobs.increment import run
from scalr_ray.jobs.metrics import METRICS, Metric
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchRecord, RunRecord, VerdictRecord

pytestmark = [*OPENS_FEAST, pytest.mark.ray]

PATIENCE_S = 60.0
_STORE_BYTES = 200 * 2**20
_SAMPLE = re.compile(r"^(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Scraped:
    """The last value of each of our series, asked for again and again, as Prometheus does."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        self.series: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.text: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._over.wait(0.3):
            with suppress(OSError):  # the agent of a new node takes some seconds
                self._scrape()

    def _scrape(self) -> None:
        with urlopen(self._address) as answer:  # noqa: S310 - of this machine
            lines = answer.read().decode().splitlines()
        for line in lines:
            if line.startswith("#"):
                self.text.add(line)
            elif (found := _SAMPLE.match(line)) and found["name"].startswith("ray_scalr_"):
                labels = frozenset(_LABEL.findall(found["labels"]))
                self.series[found["name"], labels] = float(found["value"])

    def of(self, metric: Metric, **labels: str) -> float:
        """The value of the one series with these labels."""
        name = metrics.EXPORTED_PREFIX + metric.name
        found = [
            value
            for (named, having), value in self.series.copy().items()
            if named == name and labels.items() <= set(having)
        ]
        assert len(found) == 1, (name, labels, found)
        return found[0]

    def wait_for(self, metric: Metric) -> None:
        """Until it was seen."""
        deadline = time.monotonic() + PATIENCE_S
        name = metrics.EXPORTED_PREFIX + metric.name
        while not any(named == name for named, _ in self.series.copy()):
            assert time.monotonic() < deadline, f"{name} did not come"
            time.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class Journey:
    """A run that published, what was scraped from Ray meanwhile, and what OpenLineage was told."""

    repo: Path
    as_of: datetime
    batch: BatchRecord
    verdicts: list[VerdictRecord]
    watermarks: dict[str, datetime]
    runs: list[RunRecord]
    likelihoods: np.ndarray
    seen: Scraped
    told: list[dict[str, Any]]


@contextmanager
def a_cluster() -> Iterator[tuple[str, str]]:
    """A Ray of one node that this process is no part of: its address, and that of its metrics."""
    from ray._common.utils import get_default_ray_temp_dir
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Ray's sockets need a short path
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:
        Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
        cluster = Cluster()
        try:
            node = cluster.add_node(
                num_cpus=2,
                object_store_memory=_STORE_BYTES,
                include_dashboard=False,
                metrics_export_port=port,
                temp_dir=short,
            )
            yield cluster.address, f"http://{node.node_ip_address}:{port}/metrics"
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    folder = tmp_path_factory.mktemp("watched")
    log = small_log()
    repo, as_of, events = make_repo(folder, log), middle_of(log), folder / "lineage.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        patch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
        patch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(events))
        patch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
        with (
            a_cluster() as (address, exported),
            closing(Workspace(repo, SETTINGS, Progress())) as workspace,
        ):
            patch.setenv("RAY_ADDRESS", address)
            with Scraped(exported) as seen:
                batch = run(workspace, as_of).record
                seen.wait_for(metrics.PUBLISHED_AT)  # recorded last
            assert batch is not None
            ledger = workspace.ledger
            return Journey(
                repo=repo,
                as_of=as_of,
                batch=batch,
                verdicts=ledger.verdicts(batch.batch_id),
                watermarks=ledger.watermarks(),
                runs=ledger.runs(),
                likelihoods=workspace.lake.read(columns=("likelihood",))["likelihood"].to_numpy(),
                seen=seen,
                told=[json.loads(line) for line in events.read_text().splitlines()],
            )


def test_metrics_are_read_back_from_the_port_of_ray(journey: Journey):
    seen, rows, as_of, watermarks = (
        journey.seen,
        len(journey.likelihoods),
        journey.as_of,
        journey.watermarks,
    )
    verdicts = {verdict.check: verdict for verdict in journey.verdicts}
    assert seen.of(metrics.ROWS, stage="generate", kind="events") == rows
    assert seen.of(metrics.ROWS, stage="publish", kind="events") == rows
    assert seen.of(metrics.ROWS_PER_SECOND, stage="generate") > 0
    likelihood = journey.likelihoods.mean()
    assert seen.of(metrics.LIKELIHOOD) == pytest.approx(likelihood, rel=1e-9)
    assert seen.of(metrics.DRIFT) == pytest.approx(verdicts["popularity_drift"].value)
    for name, verdict in verdicts.items():
        assert seen.of(metrics.CHECK_PASSED, check=name) == verdict.passed
    assert seen.of(metrics.ACCEPTED) == 1
    assert seen.of(metrics.NEWEST_BATCH) == as_of.timestamp()
    assert seen.of(metrics.PUBLISHED_AT) == pytest.approx(time.time(), abs=300)
    for domain in ("books", "games"):
        assert seen.of(metrics.WATERMARK, domain=domain) == watermarks[domain].timestamp()
    assert 0 < seen.of(metrics.SYNTHETIC_FRAC) < 1
    assert (seen.of(metrics.BATCHES), seen.of(metrics.HALF_DONE)) == (1, 0)
    for stage in ("train", "generate", "gate", "publish"):
        assert seen.of(metrics.STAGE_FAILED, stage=stage) == 0
        assert seen.of(metrics.STAGE_SECONDS, stage=stage) > 0
    # Every metric is exported as it is described, and under no other name.
    described = {name.removeprefix("ray_") for name, _ in seen.series}
    assert described == {metric.name for metric in METRICS}
    for metric in METRICS:
        assert f"# TYPE ray_{metric.name} {metric.kind}" in seen.text
        assert f"# HELP ray_{metric.name} {metric.help}" in seen.text
    for name, having in seen.series:
        (metric,) = [metric for metric in METRICS if metric.name == name.removeprefix("ray_")]
        labels = dict(having)
        assert {"project", *metric.labels} <= labels.keys()
        assert labels["project"] == "scalr"


def test_open_lineage_is_told_what_each_stage_read_and_wrote(journey: Journey):
    layout = Layout.of(journey.repo)
    stages = ["train", "generate", "gate", "publish"]
    told = [
        event for event in journey.told if event["job"]["name"].removeprefix("scalr.") in stages
    ]
    states = [(event["job"]["name"], event["eventType"]) for event in told]
    assert states == [
        (f"scalr.{name}", state) for name in stages for state in ("START", "COMPLETE")
    ]
    assert {event["job"]["namespace"] for event in told} == {"scalr"}
    runs = {run.verb: run.run_id for run in journey.runs}
    for event in told:
        tags = {tag["key"]: tag["value"] for tag in event["run"]["facets"]["tags"]["tags"]}
        assert tags["scalr_run"] == runs[event["job"]["name"].removeprefix("scalr.")]
    train, generate, gate, publish = told[1::2]
    views = [str(layout.events(view)) for view in ("source_events", "target_events")]
    (translator,) = names(train["outputs"])
    assert names(train["inputs"]) == views
    assert translator.endswith(journey.batch.translator_version)
    assert names(generate["inputs"]) == [*views, translator]
    assert names(generate["outputs"]) == names(gate["inputs"]) == [journey.batch.batch_id]
    assert names(publish["inputs"]) == [journey.batch.batch_id]
    (made,) = generate["outputs"]
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == journey.batch.rows
    (judged,) = gate["inputs"]
    assertions = judged["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [(found["assertion"], found["success"]) for found in assertions] == [
        (verdict.check, verdict.passed) for verdict in journey.verdicts
    ]
    (table,) = publish["outputs"]
    assert table["namespace"] == "file"
    assert Path(table["name"]).is_dir()
    assert table["outputFacets"]["outputStatistics"]["rowCount"] == journey.batch.rows
    columns = [column["name"] for column in table["facets"]["schema"]["fields"]]
    assert columns[:2] == synthetic_event_schema("string", "string").names[:2]


def names(data: list[dict[str, Any]]) -> list[str]:
    return [each["name"] for each in data]
