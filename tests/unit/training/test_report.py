"""The report: strict JSON, and a page that is whole, self-contained and safe."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from report_pages import Page, written

from scalr_ray.core.errors import UsageError
from training.report import write_report
from training.report_page import render

SEGMENTS = ("hidden", "all", "warm")
SECTIONS = [
    *(
        "lift",
        "volume",
        "arms",
        "segments",
        "examples",
        "rankers",
        "coverage",
        "popularity",
        "calibration",
    ),
    *("gate", "run"),
]
HOSTILE = (
    '</style></svg><script src="http://evil.example/x.js">alert(1)</script>&"\'$\\frac{x^$<img>'
)


def metrics(ndcg):
    return {"coverage_at_20": 0.25, "ndcg_at_20": ndcg, "recall_at_20": ndcg * 2}


def lifts(estimate):
    interval = {"estimate": estimate, "low": estimate - 0.125, "high": estimate + 0.125}
    return {name: dict.fromkeys(metrics(0), interval) for name in SEGMENTS}


@pytest.fixture
def result():
    return {
        "verdict": "helps",
        "sentence": "The synthetic events help all users.",
        "published": True,
        "cautions": ["warm users lose"],
        "rankers": {
            "translator": dict.fromkeys(SEGMENTS, metrics(0.0139)),
            "prior": dict.fromkeys(SEGMENTS, metrics(0.0078)),
        },
        "baselines": {"all_time_popularity": dict.fromkeys(SEGMENTS, metrics(0.0019))},
        "arms": {
            "placebo": dict.fromkeys(SEGMENTS, metrics(0.0102)),
            "synthetic": dict.fromkeys(SEGMENTS, metrics(0.0151)),
            "folded_in": dict.fromkeys(SEGMENTS, metrics(0.0162)),
            "real_only": dict.fromkeys(SEGMENTS, metrics(0.0071)),
        },
        "lift": lifts(1.125),
        "lift_over_placebo": lifts(0.5),
        "lift_folded_over_real": lifts(1.25),
        "lift_folded_over_rows": lifts(0.0625),
        "better_way": "fold-in",
        "lift_over_prior": lifts(0.75),
        "finer": {
            "level": 0.975,
            "segments": {
                "light users": {
                    "users": 812,
                    "over_real": {"estimate": 0.5, "low": 0.25, "high": 0.875},
                    "over_placebo": {"estimate": -0.5, "low": -0.75, "high": -0.25},
                },
                "tail items": {
                    "users": 64,
                    "over_real": {"estimate": 0.0, "low": None, "high": None},
                    "over_placebo": {"estimate": 0.0, "low": -0.1, "high": 0.1},
                },
            },
        },
        "volume": [
            {"events": 1500, "lift": {"all": {"estimate": 0.125, "low": 0.0, "high": 0.25}}},
            {"events": 15000, "lift": {"all": {"estimate": 0.5, "low": None, "high": 0.75}}},
        ],
        "lineage": {"batch": "batch-17", "translator": "frequency-2"},
        "examples": [
            {
                "source": [
                    {"domain": "books", "item": "A <b>bold</b> & film", "day": "2026-01-02"}
                ],
                "synthetic": [
                    {"item": "The second film", "likelihood": 0.0125, "taken": True},
                    {"item": "b17", "likelihood": 0.01, "taken": False},
                ],
            }
        ],
        "counts": {"users": 7144, "synthetic": {"published": 71440}},
        "timings_s": {"train": 11.25},
        "versions": {"feast": "0.67.0"},
        "calibration": [
            {"predicted": 0.001, "observed": 0.00125, "count": 4321},
            {"predicted": 0.1, "observed": 0.0, "count": 12},
        ],
        "popularity": {"real": [900, 30, 2, 1, 1], "synthetic": [300, 20, 1]},
        "alignment": {
            "by": "popularity",
            "target": [0.5, 0.5],
            "before": [0.25, 0.75],
            "after": [0.4375, 0.5625],
            "kept_frac": 0.625,
        },
        "gate": [
            {"check": "psi", "passed": True, "value": 0.2, "threshold": 1.0, "detail": "no drift"}
        ],
        "command": "scalr demo --seed 7",
        "config_fingerprint": "ab" * 32,
    }


def test_the_json_holds_the_result_sorted_and_indented(tmp_path, result):
    data, _ = written(tmp_path / "new" / "folder", result)
    assert data == result
    text = (tmp_path / "new" / "folder" / "report.json").read_text()
    assert text == json.dumps(data, indent=2, sort_keys=True) + "\n"


def test_numbers_that_json_cannot_say_become_null_and_numpy_becomes_plain(tmp_path):
    odd = {
        "counts": {"nan": math.nan, "inf": np.float32(np.inf), "users": np.int64(7)},
        "popularity": {"real": np.array([3, 2]), "synthetic": (1,)},
        "published": np.bool_(0),
        "versions": {"where": Path("there")},
    }
    data, _ = written(tmp_path, odd)
    assert data["counts"] == {"nan": None, "inf": None, "users": 7}
    assert data["popularity"] == {"real": [3, 2], "synthetic": [1]}
    assert data["published"] is False
    assert data["versions"] == {"where": "there"}


def test_what_is_no_json_value_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="cannot hold a set"):
        write_report(tmp_path, {"counts": {1, 2}})
    assert list(tmp_path.iterdir()) == []


def test_every_section_is_there_with_its_values(tmp_path, result):
    _, page = written(tmp_path, result)
    assert [attrs["id"] for attrs in page.all("section")] == ["cautions", *SECTIONS]
    for shown in (
        "The synthetic events help",
        "Published.",
        "warm users lose",
        "real only",
        "0.0151",
        "+112.5 % [+100.0, +125.0]",
        "+50.0 % [+37.5, +62.5]",
        "+75.0 % [+62.5, +87.5]",
        "+125.0 % [+112.5, +137.5]",
        "+6.2 % [-6.2, +18.8]",
        "0.0162",
        "Folded in: real events alone decide",
        "0.0139",
        "all time popularity",
        "0.0019",
        "NDCG@20",
        "4,321",
        "no drift",
        "7,144",
        "synthetic.published",
        "71,440",
        "11.25",
        "0.67.0",
        "scalr demo --seed 7",
        "ab" * 32,
    ):
        assert shown in page.text, shown
    assert "Not measured" not in page.text
    assert len(page.all("svg")) == 7


def test_finer_segments_and_example_users_are_told(tmp_path, result):
    _, page = written(tmp_path, result)
    for shown in (
        "at the level of 97.50 %",
        "light users 812 +50.0 % [+25.0, +87.5] -50.0 % [-75.0, -25.0]",
        "tail items 64 undefined +0.0 % [-10.0, +10.0]",
        "User 1: newest source events",
        "A <b>bold</b> & film books 2026-01-02",
        "The second film 0.0125 yes",
        "b17 0.01 no",
        "which kept 62.5 % of them",
        "1,500 +12.5 % [+0.0, +25.0]",
        "15,000 undefined",
        "batch batch-17",
        "2 75.00 56.25 50.00",
    ):
        assert shown in page.text, shown


def test_segments_and_arms_come_in_reading_order(tmp_path, result):
    _, page = written(tmp_path, result)
    table = page.text[page.text.index("Metrics of the downstream model") :]
    order = [table.index(name) for name in ("all users", "hidden users", "warm users")]
    assert order == sorted(order)
    order = [
        table.index(name)
        for name in (
            "real only 0.0071",
            "synthetic 0.0151",
            "folded in 0.0162",
            "placebo 0.0102",
            "synthetic over real only",
            "folded in over real only",
            "folded in over synthetic",
            "synthetic over placebo",
        )
    ]
    assert order == sorted(order)


def test_the_page_refers_to_nothing_outside(tmp_path, result):
    _, page = written(tmp_path, result)
    source = (tmp_path / "report.html").read_text()
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert re.search(r"https?:|//\w|@import|<!ENTITY", source) is None
    targets = re.findall(r"url\(([^)]*)\)", source)
    targets += [
        value or ""
        for _, attrs in page.tags
        for name, value in attrs.items()
        if name in {"src", "href", "xlink:href", "action", "data"}
    ]
    assert targets
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {target.removeprefix("#") for target in targets} <= ids


def test_the_page_can_be_read_by_those_who_cannot_see_it(tmp_path, result):
    _, page = written(tmp_path, result)
    assert page.all("html") == [{"lang": "en"}]
    assert "SCALR report" in page.text
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert len(svg["aria-label"] or "") > 30
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attrs.get("scope") in {"col", "row", "rowgroup"} for attrs in page.all("th"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_hostile_text_never_becomes_markup(tmp_path, result):
    expected = written(tmp_path / "tame", copy.deepcopy(result))[1]
    result["verdict"] = result["sentence"] = result["command"] = HOSTILE
    result["config_fingerprint"] = HOSTILE
    result["cautions"] = [HOSTILE]
    result["gate"] = [dict.fromkeys(("check", "value", "threshold", "detail"), HOSTILE)]
    result["published"] = False
    for key in ("counts", "timings_s", "versions"):
        result[key] = {HOSTILE: HOSTILE}
    for key in ("arms", "rankers", "baselines", "popularity"):
        result[key] = {f"{HOSTILE}{name}": value for name, value in result[key].items()}
    for key in [key for key in result if key.startswith("lift")]:
        result[key] = {f"{HOSTILE}{name}": value for name, value in result[key].items()}
    data, page = written(tmp_path / "hostile", result)
    assert data["sentence"] == HOSTILE
    assert "alert(1)" in page.text
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in expected.tags}
    assert "onerror" not in {name for _, attrs in page.tags for name in attrs}


@pytest.mark.parametrize("verdict", ["helps", "no_effect", "harms", "cannot_tell"])
def test_every_verdict_has_its_own_headline(verdict):
    page = Page(render({"verdict": verdict, "published": False}))
    assert page.all("header") == [{"class": f"verdict {verdict}", "id": "verdict"}]
    assert "Not published." in page.text


def test_a_refusal_names_the_checks_that_failed(result):
    result["published"] = False
    result["gate"].append(
        {"check": "lift", "passed": False, "value": -0.1, "threshold": 0, "detail": "it harms"}
    )
    assert "Not published. The gate refused: lift (it harms)." in Page(render(result)).text


def test_missing_parts_are_named_and_do_not_break_the_page(result):
    for key, part in result.items():
        assert Page(render({key: part})).text.count("Not measured in this run.") >= 5
    for nothing in ({}, dict.fromkeys(result)):
        page = Page(render(nothing))
        assert [attrs["id"] for attrs in page.all("section")] == SECTIONS
        assert page.text.count("Not measured in this run.") == len(SECTIONS)
        assert "None" not in page.text


def test_a_report_from_before_there_was_folding_in_is_shown_as_it_was(result):
    del result["arms"]["folded_in"], result["better_way"]
    del result["lift_folded_over_real"], result["lift_folded_over_rows"]
    page = Page(render(result))
    assert "Not measured" not in page.text
    assert "folded" not in page.text.lower() + str(page.all("svg")).lower()
    assert "+112.5 % [+100.0, +125.0]" in page.text
    assert "+50.0 % [+37.5, +62.5]" in page.text


def test_each_comparison_has_a_colour_and_a_mark_of_its_own(result):
    drawn = render(result)
    lift = drawn[drawn.index('id="lift"') : drawn.index('id="arms"')]
    assert {f"var(--series-{number})" for number in range(1, 6)} <= set(
        re.findall(r"var\(--series-\d\)", lift)
    )
    colours = re.findall(r"--series-\d: (#\w{6})", drawn)
    assert len(set(colours)) == len(colours) == 10


def test_a_run_without_arms_still_shows_the_lift_of_the_translator(result):
    page = Page(render({"lift_over_prior": result["lift_over_prior"]}))
    assert "translator over prior: all users +75.0 % [+62.5, +87.5]" in str(page.all("svg"))


def test_undefined_values_and_lifts_are_shown_as_such(result):
    result["arms"]["synthetic"]["hidden"] = dict.fromkeys(metrics(0))
    undefined = {"estimate": None, "low": None, "high": None}
    result["lift"] = {name: dict.fromkeys(metrics(0), undefined) for name in SEGMENTS}
    result["popularity"] = {"real": [0, 0], "synthetic": []}
    result["calibration"] = [{"predicted": 0.5, "observed": None, "count": 0}]
    page = Page(render(result))
    assert "undefined" in page.text
    assert "None" not in page.text


def test_the_same_result_gives_the_same_bytes(tmp_path, result):
    first, second = (write_report(tmp_path / name, result)[1] for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_an_existing_report_is_replaced_and_nothing_else_is_left(tmp_path, result):
    write_report(tmp_path, {"verdict": "harms"})
    data, _ = written(tmp_path, result)
    assert data["verdict"] == "helps"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path, result):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot be written to .*taken .*choose another folder"):
        write_report(tmp_path / "taken", result)


def test_importing_the_package_and_the_report_does_not_import_what_draws():
    code = (
        "import sys, training, training.report, training.lift\n"
        "heavy = {'matplotlib', 'feast', 'ray', 'torch', 'pandas'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
