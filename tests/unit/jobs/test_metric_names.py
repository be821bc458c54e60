from __future__ import annotations

import re

import pytest

from scalr_ray.jobs import metrics
from scalr_ray.jobs.metrics import METRICS, Metric, record


def test_all_metrics_are_listed_once():
    defined = [value for value in vars(metrics).values() if isinstance(value, Metric)]
    assert sorted(defined, key=id) == sorted(METRICS, key=id)
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_are_those_of_prometheus(metric):
    assert re.fullmatch(r"scalr(_[a-z]+)+", metric.name)
    assert metric.help[0].isupper() or metric.help[0].isdigit()
    assert not metric.help.endswith(".")
    assert "project" not in metric.labels


def test_without_ray_nothing_is_recorded():
    assert not metrics.is_recording()
    record(metrics.BATCHES, 3, project="p")
    assert not metrics.is_recording()


def test_labels_that_the_metric_has_not_are_a_mistake():
    with pytest.raises(AssertionError, match="scalr_batches"):
        record(metrics.BATCHES, 3, project="p", stage="train")
