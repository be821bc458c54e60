"""The page of a verdict over several cuts: all of them first, then the newest alone."""

from __future__ import annotations

import pytest
from report_pages import written

from training.report_page import render

CUTS = (
    "2026-01-01T00:00:00+00:00",
    "2026-01-08T00:00:00+00:00",
    "2026-01-15T12:30:00.000001+00:00",
)
HOSTILE = "<script>alert(1)</script>"


def interval(estimate, reach=0.125):
    return {"estimate": estimate, "low": estimate - reach, "high": estimate + reach}


def by_segment(hidden, warm, every):
    return {"all": every, "hidden": hidden, "warm": warm}


def row(number, batch_id):
    lift = by_segment(interval(0.5 + number), interval(-0.25), interval(0.25))
    return {
        "batch_id": batch_id,
        "as_of": CUTS[number],
        "until": (*CUTS, None)[number + 1],
        "published": number != 1,
        "verdict": "cannot_tell",
        "test_users": by_segment(60, 40, 100 + number),
        "ndcg": {"real_only": by_segment(0.0123, 0.0456, 0.0256)},
        "lifts": {
            "lift": lift,
            "lift_placebo_over_real": by_segment(interval(0.0625), interval(0), interval(0)),
        },
    }


@pytest.fixture
def result():
    return {
        "verdict": "helps",
        "sentence": "Over 3 cuts: the events help.",
        "published": True,
        "cautions": ["Left out, because nobody can be tested there: b0."],
        "batch_id": "b3",
        "as_of": CUTS[-1],
        "origins": {
            "rows": [row(0, "b1"), row(1, "b2"), row(2, "b3")],
            "left_out": [],
            "published": 2,
            "pooled": {
                "test_users": by_segment(180, 120, 303),
                "ndcg": {"real_only": by_segment(0.0124, 0.0457, 0.0257)},
                "lift": {
                    "all": {"ndcg_at_20": interval(0.75), "recall_at_20": interval(9.0)},
                    "hidden": {"ndcg_at_20": interval(0.875)},
                    "warm": {"ndcg_at_20": {"estimate": 0.5, "low": -1.0, "high": None}},
                },
                "lift_placebo_over_real": {"hidden": {"ndcg_at_20": interval(0.03125)}},
            },
        },
    }


def test_all_cuts_come_first_and_the_newest_alone_after_them(tmp_path, result):
    data, page = written(tmp_path, result)
    assert data == result
    sections = [attrs["id"] for attrs in page.all("section")]
    assert sections[:3] == ["cautions", "origins", "lift"]
    for shown in (
        "Over 3 cuts: the events help.",
        "2 of 3 batches are published.",
        (
            "2026-01-01 00:00 100 0.0123 0.0456 +50.0 % [+37.5, +62.5] +6.2 % [-6.2, +18.8] "
            "-25.0 % [-37.5, -12.5] +25.0 % [+12.5, +37.5]"
        ),
        "2026-01-15 12:30:00.000001 102",
        (
            "all cuts 303 0.0124 0.0457 +87.5 % [+75.0, +100.0] +3.1 % [-9.4, +15.6] "
            "undefined +75.0 % [+62.5, +87.5]"
        ),
        "2026-01-01 00:00 2026-01-08 00:00 b1 yes cannot tell",
        "2026-01-08 00:00 2026-01-15 12:30:00.000001 b2 no cannot tell",
        "all that came b3 yes",
        "All that follows is of the newest cut alone, 2026-01-15 12:30:00.000001, batch b3.",
    ):
        assert shown in page.text, shown
    assert page.text.index("Over several cuts") < page.text.index("All that follows")


def test_the_drawing_is_of_this_page_and_says_what_it_shows(tmp_path, result):
    _, page = written(tmp_path, result)
    (svg,) = page.all("svg")
    assert svg["role"] == "img"
    assert "by cut, each measured up to the next" in svg["aria-label"]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for name in ("all cuts", "2026-01-08 00:00", "hidden users, placebo"):
        assert name in page.text, name


def test_one_cut_has_no_such_section(result):
    del result["origins"]
    page = render(result)
    assert "Over several cuts" not in page
    assert "newest cut" not in page
    assert "Published." in page


def test_no_text_becomes_markup(tmp_path, result):
    _, tame = written(tmp_path / "tame", result)
    for told in result["origins"]["rows"]:
        told["batch_id"] = HOSTILE
    _, page = written(tmp_path / "hostile", result)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in tame.tags]
    assert f"batch {HOSTILE}." in page.text
