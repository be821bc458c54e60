"""What pages make of texts, values and parts of lists, and to which names they are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.ui.guard import Names
from scalr_ray.ui.lists import PER_PAGE, Part
from scalr_ray.ui.rendering import code, figure, leaves, moment, render, segment, took

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def error_page(told: str) -> str:
    return render(
        "error", at="/", project="scalr", version="1", now=NOW, title="Not found", told=told
    )


@given(st.text())
def test_no_text_becomes_markup(text: str):
    page, empty = error_page(text), error_page("")
    allowed = text.count("`") // 2
    assert page.count("<") - empty.count("<") <= 2 * allowed
    assert page.count("<code>") <= allowed
    assert "<" not in code(text).replace("<code>", "").replace("</code>", "")


def test_no_page_has_a_secret():
    for told in ("postgresql://me:hunter2@host/db", "password=hunter2"):
        assert "hunter2" not in error_page(told)
        assert "***" in error_page(told)


def test_where_to_log_in_is_kept_back():
    settings = {"database": "postgresql://scalr@db/scalr", "prior": {"window_days": 30}}
    assert list(leaves(settings)) == [
        ("database", "set, and not shown here", False),
        ("prior.window_days", "30", True),
    ]
    assert list(leaves({"database": None})) == [("database", "–", False)]  # noqa: RUF001 - a dash


def test_values_of_all_kinds_are_told():
    tree = {"a": {"b": 0.123456, "c": True}, "d": [1, "x"], "e": {}, "f": "y" * 3_000}
    told = {name: (text, number) for name, text, number in leaves(tree)}
    assert told["a.b"] == ("0.1235", True)
    assert told["a.c"] == ("yes", False)
    assert told["d"] == ('[1, "x"]', False)
    assert told["e"] == ("{}", False)
    assert len(told["f"][0]) == 2_001
    many = list(leaves({str(slot): slot for slot in range(5_000)}))
    assert (len(many), many[-1]) == (1_001, ("…", "more than 1,000 values", False))


def test_times_and_figures():
    assert moment(NOW) == (
        '<time datetime="2026-03-01T12:00:00+00:00">2026-03-01\u00a012:00:00\u00a0UTC</time>'
    )
    assert [took(timedelta(seconds=s)) for s in (0.04, 59.94, 61)] == [
        "0.0 s",
        "59.9 s",
        "1 min 1 s",
    ]
    assert [figure(value) for value in (None, 2.0, 0.31271)] == ["–", "2", "0.3127"]  # noqa: RUF001
    assert segment("../a b") == "..%2Fa%20b"


@given(st.integers(0, 200), st.integers(1, 5))
def test_parts_give_each_record_once(total: int, number: int):
    records = list(range(total))
    part = Part.of(str(number), lambda count, skip: records[skip : skip + count])
    wanted = records[PER_PAGE * (number - 1) : PER_PAGE * number]
    if not wanted and number > 1:
        assert part is None
        return
    assert part == Part(records=wanted, number=number, older=total > PER_PAGE * number)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "x", "١", "99999999", " 1"])  # noqa: RUF001
def test_what_is_no_number_of_a_part_gives_none(text: str):
    assert Part.of(text, lambda _count, _skip: [1]) is None


@pytest.mark.parametrize(
    ("host", "answered", "refused"),
    [
        ("127.0.0.1", ["localhost", "localhost.", "127.0.0.1:80", "[::1]:8400"], ["10.0.0.1"]),
        ("ledger.example", ["ledger.example:1", "Ledger.Example", "localhost"], ["a.example"]),
        ("::", ["10.0.0.1:80", "[fe80::1]", "localhost"], ["a.example", "10.0.0.1.example"]),
    ],
)
def test_a_server_answers_to_its_own_names(host, answered, refused):
    names = Names.of(host)
    assert [name for name in answered if not names.allow(name)] == []
    broken = ["", "localhost:", "localhost:x", "localhost:1:2", "a@localhost", "[::1", "a b"]
    assert [name for name in (*refused, *broken) if names.allow(name)] == []
