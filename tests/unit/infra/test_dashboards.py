"""The dashboard and the alerts ask for what the code tells Prometheus, and for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from scalr_ray.jobs.metrics import EXPORTED_PREFIX, METRICS

INFRA = Path(__file__).parents[3] / "infra"
DASHBOARD = json.loads((INFRA / "grafana" / "scalr.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
LABELS = {EXPORTED_PREFIX + metric.name: {"project", *metric.labels} for metric in METRICS}

PANELS = DASHBOARD["panels"]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
ASKED = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
ASKED += [(rule["alert"], rule["expr"]) for rule in RULES]

_NAME = re.compile(r"\bray_\w+")
_BY = re.compile(r"by \(([^)]*)\)")
_MATCHED = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")


@pytest.mark.parametrize(("title", "asked"), ASKED)
def test_a_query_names_metrics_and_labels_that_are_told(title, asked):
    named = _NAME.findall(asked)
    assert named, title
    assert set(named) <= LABELS.keys()
    labels = set.intersection(*(LABELS[name] for name in named))
    grouped = {label.strip() for group in _BY.findall(asked) for label in group.split(",")}
    assert grouped | set(_MATCHED.findall(asked)) <= labels
    # gone 20 s after a stage: a query that does not look back finds nothing
    assert "_over_time(" in asked
    assert asked.count("(") == asked.count(")")


def test_all_that_is_told_is_on_the_dashboard():
    shown = {
        name
        for panel in PANELS
        for target in panel["targets"]
        for name in _NAME.findall(target["expr"])
    }
    assert shown == LABELS.keys()


def test_panels_are_told_apart_and_do_not_lie_upon_each_other():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_legends_and_variables_are_there():
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "project"}
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            grouped = {
                name.strip() for text in _BY.findall(target["expr"]) for name in text.split(",")
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped
    (project,) = [item for item in DASHBOARD["templating"]["list"] if item["name"] == "project"]
    assert set(_NAME.findall(project["query"])) <= LABELS.keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_happened_and_what_to_do(rule):
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "warn")
    assert rule["annotations"].keys() == {"summary", "do"}
    grouped = {name.strip() for text in _BY.findall(rule["expr"]) for name in text.split(",")}
    told = " ".join(rule["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", told)) <= grouped
