from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from pathlib import Path

import pytest

from scalr_ray.cli.session import Session, _interval, _label
from scalr_ray.core.plain import plain


def session(**options) -> Session:
    defaults = {"repo": Path("repo"), "overrides": (), "as_json": False, "verbose": False}
    return Session(**{**defaults, **options})


class State(StrEnum):
    STAGED = "staged"


class Number(Enum):
    ONE = 1


@dataclass(frozen=True, kw_only=True)
class Inner:
    state: State
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    paths: dict[str, Path]
    pairs: tuple[tuple[str, int], ...]
    nothing: None = None


RECORD = Outer(
    inner=Inner(state=State.STAGED, at=datetime(2026, 3, 1, tzinfo=UTC)),
    paths={"a": Path("/data/x")},
    pairs=(("x", 1), ("[bold]", 2)),
)
PLAIN = {
    "inner": {"state": "staged", "at": "2026-03-01T00:00:00+00:00"},
    "paths": {"a": "/data/x"},
    "pairs": [["x", 1], ["[bold]", 2]],
    "nothing": None,
}


def test_records_become_plain_values():
    assert plain(RECORD) == PLAIN
    assert type(plain(State.STAGED)) is str
    assert plain(Number.ONE) == 1
    assert plain({1: [Path("a")]}) == {"1": ["a"]}
    assert plain(0.5) == 0.5


def test_a_record_is_shown_as_json(capsys):
    session(as_json=True).show(RECORD)
    assert json.loads(capsys.readouterr().out) == PLAIN


def test_a_record_is_shown_as_rows_and_nothing_is_taken_for_markup(capsys):
    session().show(RECORD)
    shown = capsys.readouterr().out
    assert '[["x", 1], ["[bold]", 2]]' in shown
    assert '{"a": "/data/x"}' in shown


def test_labels_and_intervals():
    assert [_label(name) for name in ("ndcg_at_20", "recall_at_5", "coverage_at_10")] == [
        "NDCG@20",
        "Recall@5",
        "Coverage@10",
    ]
    assert _interval({"estimate": 0.5, "low": -0.1, "high": None}) == "+50 % \\[-10, -]"
    assert _interval({"estimate": None, "low": None, "high": None}) == "-"
    assert _interval(None) == "-"


def noise() -> tuple[int, tuple]:
    return logging.root.manager.disable, tuple(warnings.filters)


def test_the_libraries_are_silent_inside_and_as_before_outside():
    before = noise()
    with session().quiet():
        warnings.warn("ignored, though warnings are errors here", DeprecationWarning, stacklevel=1)
        warnings.warn("the same", UserWarning, stacklevel=1)
        assert not logging.getLogger("feast").isEnabledFor(logging.WARNING)
        assert logging.getLogger("feast").isEnabledFor(logging.ERROR)
    assert noise() == before


def fail_inside() -> None:
    with session().quiet():
        raise RuntimeError("inside")


def test_an_error_inside_restores_them_too():
    before = noise()
    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert noise() == before


def test_verbose_lets_the_libraries_speak(monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    before = noise()
    with session(verbose=True).quiet():
        assert logging.getLogger("feast").isEnabledFor(logging.INFO)
        assert noise() == before


def test_json_shows_no_progress(capfd):
    progress = session(as_json=True).progress()
    with progress.stage("quiet"):
        pass
    assert capfd.readouterr() == ("", "")


def test_progress_goes_to_standard_error(capfd):
    with session().progress().stage("loud"):
        pass
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("✓ loud ")
