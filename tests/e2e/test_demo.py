"""`scalr demo` from end to end: a planted world helps and is published, a null world is neither."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from planted_logs import (
    SMALL_SETTINGS,
    bytes_below,
    planted_events,
    with_integer_ids,
    write_log,
)

from scalr_ray.cli.main import main
from scalr_ray.core.config import load_config
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake
from scalr_ray.offline_store.cluster import ray_session

pytestmark = [pytest.mark.feast, pytest.mark.ray, pytest.mark.usefixtures("one_ray")]

SEGMENTS = {"all", "hidden", "warm"}
METRICS = {"ndcg_at_20", "recall_at_20", "coverage_at_20"}
OF_ARMS = METRICS | {"mrr_at_20", "gini_at_20", "novelty_at_20"}
LIFTS = (
    "lift",
    "lift_over_placebo",
    "lift_over_prior",
    "lift_placebo_over_real",
    "lift_folded_over_real",
    "lift_folded_over_rows",
    "lift_upsampled_over_real",
)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The folder of a demo that ended well."""

    out: Path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.out / "report.json").read_text())

    def events(self) -> pa.Table:
        """All published synthetic events, in order of their ids."""
        repo = self.out / "feature_repo"
        lake = SyntheticEventLake.open(Layout.of(repo), load_config(repo, environ={}).ids)
        rows = lake.read()
        lake.close()
        return rows.sort_by("event_id")


def demo(log: Path, out: Path, *settings: str) -> Demo:
    options = [f"--set={setting}" for setting in (*SMALL_SETTINGS, *settings)]
    asked = ["--events", str(log), "--source", "source", "--target", "target", "--out", str(out)]
    assert main([*options, "demo", *asked]) == 0
    return Demo(out=out)


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One session for all demos, which then start none of their own."""
    with ray_session(2):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo of scalr")


@pytest.fixture(scope="module")
def planted_log(folder) -> Path:
    return write_log(planted_events(), folder / "planted.parquet")


@pytest.fixture(scope="module")
def planted(folder, planted_log) -> Demo:
    return demo(planted_log, folder / "planted")


@pytest.fixture(scope="module")
def null(folder) -> Demo:
    log = write_log(planted_events(transfer=0.0), folder / "null.parquet")
    return demo(log, folder / "null")


def measured(values: dict, metrics: set[str] = METRICS) -> bool:
    return set(values) == SEGMENTS and all(set(values[name]) == metrics for name in SEGMENTS)


@pytest.mark.parametrize("world", ["planted", "null"])
def test_the_report_has_the_documented_keys(world, request):
    report = request.getfixturevalue(world).report
    documented = {"verdict", "published", "rankers", "arms", "lift", "lift_over_placebo"}
    documented |= {"lift_over_prior", "counts", "timings_s", "versions", "better_way"}
    documented |= {"lift_folded_over_real", "lift_folded_over_rows", "lift_upsampled_over_real"}
    documented |= {"finer", "examples", "alignment", "volume", "lineage"}
    extra = {"sentence", "cautions", "baselines", "lift_placebo_over_real", "gate", "as_of"}
    extra |= {"batch_id", "translator", "calibration", "popularity", "command"}
    extra |= {"config_fingerprint"} | ({"upkeep"} if world == "planted" else set())
    assert set(report) == documented | extra
    assert report["verdict"] in {"helps", "no_effect", "harms", "cannot_tell"}
    assert set(report["arms"]) == {
        "real_only",
        "synthetic",
        "folded_in",
        "placebo",
        "upsampled",
    }
    assert set(report["rankers"]) == {"prior", "translator"}
    for group in ("arms", "rankers", "baselines"):
        for name, values in report[group].items():
            assert measured(values, OF_ARMS if group == "arms" else METRICS), name
    for name in LIFTS:
        assert measured(report[name]), name
        for segment in SEGMENTS:
            for interval in report[name][segment].values():
                assert set(interval) == {"estimate", "low", "high"}
    for segment in SEGMENTS:
        for arm in report["arms"].values():
            bounded = (value for name, value in arm[segment].items() if "novelty" not in name)
            assert all(0 <= value <= 1 for value in bounded)
    counts = [point["events"] for point in report["volume"]]
    assert counts == sorted(counts)
    assert len(counts) == 3
    full = {segment: metrics["ndcg_at_20"] for segment, metrics in report["lift"].items()}
    assert report["volume"][-1]["lift"] == full
    assert report["counts"]["test_users_all"] == (
        report["counts"]["test_users_hidden"] + report["counts"]["test_users_warm"]
    )
    assert all(seconds >= 0 for seconds in report["timings_s"].values())
    assert {"scalr", "feast", "ray", "python"} <= set(report["versions"])
    assert len({check["check"] for check in report["gate"]}) == len(report["gate"]) > 0


def test_a_planted_world_is_published_and_beats_the_placebo(planted):
    report = planted.report
    assert report["published"] is True
    assert report["verdict"] == "helps"
    assert all(check["passed"] for check in report["gate"])
    assert report["lift"]["hidden"]["ndcg_at_20"]["low"] > 0
    assert report["lift_over_placebo"]["hidden"]["ndcg_at_20"]["low"] > 0
    assert report["lift_over_prior"]["all"]["ndcg_at_20"]["low"] > 0
    left = report["counts"]["synthetic_events"] - report["upkeep"]["synthetic_rows_erased"]
    assert left == planted.events().num_rows > 1000


def test_at_the_end_a_set_is_saved_an_event_traced_and_a_user_erased(planted):
    told = planted.report["upkeep"]
    assert told["repairs_needed"] == 0
    assert (
        told["rows_saved"] > told["rows_erased_from_the_set"] >= told["synthetic_rows_erased"] > 0
    )
    assert told["event"] not in planted.events()["event_id"].to_pylist()
    layout = Layout.of(planted.out / "feature_repo")
    parts = layout.events("source_events").glob("part-*.parquet")
    sources = pa.concat_tables([pq.read_table(part) for part in parts])
    assert told["source_event"] not in sources["event_id"].to_pylist()
    rows = pq.read_table(layout.training_sets / told["training_set"] / "rows.parquet")
    assert rows.num_rows == told["rows_saved"] - told["rows_erased_from_the_set"]


def test_lifts_are_relative_changes_of_the_arms(planted):
    report = planted.report
    pairs = {
        "lift": ("arms", "synthetic", "real_only"),
        "lift_over_placebo": ("arms", "synthetic", "placebo"),
        "lift_placebo_over_real": ("arms", "placebo", "real_only"),
        "lift_folded_over_real": ("arms", "folded_in", "real_only"),
        "lift_folded_over_rows": ("arms", "folded_in", "synthetic"),
        "lift_over_prior": ("rankers", "translator", "prior"),
    }
    for name, (group, treated, control) in pairs.items():
        for segment in SEGMENTS:
            for metric in ("ndcg_at_20", "recall_at_20"):
                ratio = (
                    report[group][treated][segment][metric]
                    / report[group][control][segment][metric]
                )
                interval = report[name][segment][metric]
                assert interval["estimate"] == pytest.approx(ratio - 1)
                assert interval["low"] <= interval["estimate"] <= interval["high"]


@pytest.mark.parametrize("world", ["planted", "null"])
def test_folded_in_warm_users_are_ranked_as_by_real_events_alone(world, request):
    report = request.getfixturevalue(world).report
    arms = report["arms"]
    assert arms["folded_in"]["warm"] == arms["real_only"]["warm"]
    assert arms["folded_in"]["hidden"] != arms["real_only"]["hidden"]
    for interval in report["lift_folded_over_real"]["warm"].values():
        assert set(interval.values()) == {0.0}


def test_the_report_names_the_better_way_by_its_interval(planted):
    report = planted.report
    lift = report["lift_folded_over_rows"]
    folded, rows = (
        any(lift[segment]["ndcg_at_20"][bound] * sign > 0 for segment in SEGMENTS)
        for bound, sign in (("low", 1), ("high", -1))
    )
    named = {(True, False): "fold-in", (False, True): "rows", (True, True): "depends"}
    expected = {named[folded, rows]} if folded or rows else {"no_difference", "cannot_tell"}
    assert report["better_way"] in expected
    assert "folded in over mixed in" in report["sentence"]
    page = (planted.out / "report.html").read_text(encoding="utf-8")
    assert "folded in over real only" in page
    assert report["lift_folded_over_real"]["hidden"]["ndcg_at_20"]["low"] > 0


def test_a_null_world_publishes_nothing(null):
    report = null.report
    assert report["published"] is False
    assert report["verdict"] != "helps"
    failed = {check["check"] for check in report["gate"] if not check["passed"]}
    assert "transfer" in failed
    assert null.events().num_rows == 0
    assert not report["lift_over_prior"]["all"]["ndcg_at_20"]["low"] > 0


class References(HTMLParser):
    """Everything a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            value or "" for name, value in attrs if name in {"src", "href", "srcset", "data"}
        ]
        if tag in {"script", "link", "iframe", "object", "embed"}:
            self.found.append(tag)


@pytest.mark.parametrize("world", ["planted", "null"])
def test_the_page_needs_nothing_but_itself(world, request):
    out = request.getfixturevalue(world).out
    page = (out / "report.html").read_text(encoding="utf-8")
    references = References()
    references.feed(page)
    outside = [
        found for found in references.found if not found.startswith(("#", "data:")) and found
    ]
    assert outside == []
    assert not re.search(r"url\((?!['\"]?(#|data:))|@import", page)
    for plot in ("lift", "coverage", "popularity", "calibration"):
        assert plot in page.lower()
    assert page.count("<svg") + page.count("data:image/png") >= 4


def test_the_folder_holds_a_feature_repository_of_its_own(planted):
    repo = planted.out / "feature_repo"
    config = load_config(repo, environ={})
    assert config.domains.source == ("source",)
    assert config.evaluation.hide_users == "odd"
    assert config.fingerprint == planted.report["config_fingerprint"]
    definitions = {path.name for path in repo.glob("*.py")}
    assert {"entities.py", "sources.py", "events.py", "features.py", "services.py"} <= definitions
    assert (repo / "data" / "scalr.db").exists()


def test_feast_finds_the_demo_from_any_directory(planted, tmp_path):
    command = Path(sys.executable).parent / "feast"
    listed = subprocess.run(
        [command, "--chdir", planted.out / "feature_repo", "feature-views", "list"],
        cwd=tmp_path,
        env=os.environ | {"FEAST_USAGE": "False"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "synthetic_events" in listed.stdout


@pytest.mark.filterwarnings("ignore:::feast", "ignore:::ray", "ignore::ResourceWarning")
def test_the_python_of_the_readme_runs_on_it(planted, tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    (tmp_path / "scalr-demo").symlink_to(planted.out)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        if ".save(" in block:
            names["dataset"].save("ctr_2025_12")  # to compare with
        # The world of `make demo` is longer.
        exec(block.replace("2025-10-01", "2025-05-01"), names)  # noqa: S102 - it is ours
    assert names["dataset"].manifest["counts"]["synthetic"] > 1000
    parts = names["parts"]
    assert min(part.table.num_rows for part in (parts.train, parts.test)) > 1000
    assert next(iter(names["stream"]))["user_id"].shape == (4096,)


def test_no_hidden_history_is_in_the_store_and_no_real_pair_is_drawn(planted, planted_log):
    folder = Layout.of(planted.out / "feature_repo").events("target_events")
    stored = pa.concat_tables([pq.read_table(part) for part in folder.glob("part-*.parquet")])
    log = pq.read_table(planted_log)
    withheld = log.filter(pc.equal(log["domain"], "target")).num_rows - stored.num_rows
    assert withheld > 1000
    drawn = planted.events()
    names = ("user_id", "item_id")
    pairs = set(zip(*(drawn[name].to_pylist() for name in names), strict=True))
    cut = pa.scalar(drawn["available_at"][0].as_py(), stored.schema.field("event_timestamp").type)
    early = stored.filter(pc.less(stored["event_timestamp"], cut))
    assert not pairs & set(zip(*(early[name].to_pylist() for name in names), strict=True))
    with_history = set(early["user_id"].to_pylist())
    assert not with_history & set(drawn["user_id"].to_pylist())


def test_the_same_seed_gives_the_same_events_row_for_row_and_another_others(
    planted, planted_log, folder
):
    first = planted.events()
    again = demo(planted_log, folder / "again").events()
    assert again.equals(first)
    other = demo(planted_log, folder / "again", "seed=1").events()
    names = ["user_id", "item_id"]
    before, after = (set(map(tuple, table_rows(rows, names))) for rows in (first, other))
    assert len(after) > 1000
    assert len(before & after) < 0.9 * len(before)
    assert set(other["batch_id"].to_pylist()).isdisjoint(first["batch_id"].to_pylist())


def table_rows(table: pa.Table, names: list[str]) -> Iterator[tuple]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def test_integer_ids_and_other_column_names_go_the_whole_way(folder, planted):
    log = with_integer_ids(planted_events()).rename_columns(
        {"user_id": "uid", "item_id": "sku", "event_timestamp": "at"}
    )
    file = write_log(log, folder / "integers.parquet")
    out = folder / "integers"
    options = [f"--set={setting}" for setting in SMALL_SETTINGS]
    asked = ["--events", str(file), "--source", "source", "--target", "target", "--out", str(out)]
    named = ["--columns", "user_id=uid,item_id=sku", "--columns", "event_timestamp=at"]
    assert main([*options, "demo", *asked, *named]) == 0
    drawn, report = Demo(out=out).events(), Demo(out=out).report
    assert report["published"] is True
    assert drawn.schema.field("user_id").type == drawn.schema.field("item_id").type == pa.int64()
    assert pc.all(pc.equal(pc.bit_wise_and(drawn["user_id"], 1), 1)).as_py() is False
    assert report["counts"]["users"] > 0.9 * planted.report["counts"]["users"]


def test_a_foreign_folder_is_refused_and_left_alone(planted_log, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    before = bytes_below(tmp_path)
    arguments = ["--events", str(planted_log), "--source", "source", "--target", "target"]
    assert main(["demo", *arguments, "--out", str(tmp_path)]) == 2
    assert "was not made by scalr demo; choose another --out" in capsys.readouterr().err
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert main(["demo", "--null", "--out", str(tmp_path / "thesis.txt")]) == 2
    assert "is a file; choose another --out" in capsys.readouterr().err
    assert bytes_below(tmp_path) == before


def test_the_input_may_not_lie_in_the_folder_that_is_emptied(planted_log, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".scalr-demo").touch()
    inside = out / "events.parquet"
    inside.write_bytes(planted_log.read_bytes())
    arguments = ["--events", str(inside), "--source", "source", "--target", "target"]
    assert main(["demo", *arguments, "--out", str(out)]) == 2
    assert "move it, or choose another --out" in capsys.readouterr().err
    assert inside.read_bytes() == planted_log.read_bytes()
