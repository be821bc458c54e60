"""Metrics of a whole run, read back from the port where a real Ray exports them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Self
from urllib.request import urlopen

import pytest
from local_ray import local_ray
from marks import OPENS_FEAST
from scheduled_runs import SETTINGS, make_repo, middle_of, small_log

from scalr_ray.jobs import metrics
from scalr_ray.jobs.increment import run
from scalr_ray.jobs.metrics import METRICS, Metric
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState

pytestmark = [*OPENS_FEAST, pytest.mark.ray]

PATIENCE_S = 60.0
_SAMPLE = re.compile(r"^(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@pytest.fixture
def scraped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scraped]:
    """A Ray that exports every second, and what is scraped from it meanwhile."""
    import ray

    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    with local_ray(2):
        (node,) = ray.nodes()
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with Scraped(address) as found:
            yield found


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


def test_a_run_is_read_back_from_the_port_of_ray(tmp_path: Path, scraped: Scraped):
    log = small_log()
    as_of = middle_of(log)
    repo = make_repo(tmp_path, log)
    with closing(Workspace(repo, SETTINGS, Progress())) as workspace:
        outcome = run(workspace, as_of)
        ledger = workspace.ledger
        assert outcome.record is not None
        assert outcome.record.state is BatchState.PUBLISHED
        verdicts = {verdict.check: verdict for verdict in ledger.verdicts(outcome.record.batch_id)}
        watermarks = ledger.watermarks()
        rows = workspace.lake.read(columns=("likelihood",))
    seen = scraped
    seen.wait_for(metrics.PUBLISHED_AT)  # recorded last
    assert seen.of(metrics.ROWS, stage="generate", kind="events") == rows.num_rows
    assert seen.of(metrics.ROWS, stage="publish", kind="events") == rows.num_rows
    assert seen.of(metrics.ROWS_PER_SECOND, stage="generate") > 0
    likelihood = rows["likelihood"].to_numpy().mean()
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
