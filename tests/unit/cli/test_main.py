from __future__ import annotations

import json
import re
from collections.abc import Callable

import click
import pytest

from scalr_ray import __version__
from scalr_ray.cli.main import cli, main, parse_columns
from scalr_ray.core.errors import (
    ConfigError,
    DataError,
    GateRefused,
    LeakageError,
    RetryLater,
    ScalrError,
    StateUnknown,
    UsageError,
)
from scalr_ray.jobs.calls import exit_code_of
from scalr_ray.jobs.progress import Progress

VERBS = ("import", "apply", "train", "tune", "generate", "gate", "publish", "run", "evaluate")
VERBS += ("backfill", "runs", "demo", "doctor", "recover", "retire", "erase", "gc", "lineage")
VERBS += ("compact", "submit", "jobs", "status", "watch", "ui", "compare")


def test_the_verbs_are_the_ones_that_are_documented():
    assert sorted(cli.commands) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"Usage: scalr {verb} ")
    assert shown.err == ""
    assert cli.commands[verb].help


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"scalr, version {__version__}\n"


def test_without_a_verb_the_help_is_shown(capsys):
    assert main([]) == 2
    assert "Usage: scalr [OPTIONS] COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nonsense"], "No such option.*--nonsense.*`scalr --help`"),
        (["nonsense"], "No such command.*nonsense.*`scalr --help`"),
        (["import"], "Missing argument.*FILE.*`scalr import --help`"),
        (["import", "a.parquet", "b.parquet"], "unexpected extra argument.*b.parquet"),
        (["import", "a.parquet", "--columns", "user_id"], "'user_id' is not of the form"),
        (["import", "a.parquet", "--columns", "user_id="], "'user_id=' is not of the form"),
        (["train", "--as-of"], "--as-of.*requires an argument"),
        (["runs", "--limit", "0"], "--limit.*0 is not in the range"),
        (["runs", "--limit", "many"], "--limit.*'many'"),
        (["demo", "--events", "a.parquet"], "--events needs --source and --target"),
        (["demo", "--events", "a.parquet", "--source", "x"], "--events needs --source and"),
        (["demo", "--events", "a.parquet", "--null"], "--null simulates"),
        (["backfill"], "Missing option.*--from.*`scalr backfill --help`"),
        (["backfill", "--from", "2026-01-01", "--to", "2026-02-01"], "Missing option.*--every"),
        (["erase"], "name the users by --user or in a --file"),
        (["erase", "--user", "u1", "--file", "users.txt"], "one of them"),
        (["retire"], "Missing argument.*BATCH"),
        (["lineage"], "Missing argument.*EVENT_ID"),
        (["compare", "a"], "Missing argument.*RUN.*`scalr compare --help`"),
        (["--set", "--json"], None),
    ],
)
def test_a_wrong_call_gets_one_line_and_exit_code_2(arguments, says, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    if says is not None:
        assert shown.err.count("\n") == 1
        assert shown.err.startswith("scalr: ")
        assert re.search(says, shown.err)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError, 2),
        (ConfigError, 2),
        (DataError, 2),
        (GateRefused, 3),
        (RetryLater, 4),
        (StateUnknown, 5),
        (LeakageError, 1),
        (ScalrError, 1),
    ],
)
def test_every_error_has_its_exit_code_and_one_line(error, code, capsys):
    def fail() -> None:
        raise error("first line,\n  second line")

    assert exit_code_of(fail) == code
    assert capsys.readouterr() == ("", "scalr: first line, second line\n")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, click.Abort])
def test_an_interrupt_is_no_traceback(stop, capsys):
    def interrupted() -> None:
        raise stop

    assert exit_code_of(interrupted) == 130
    assert capsys.readouterr().err == "scalr: interrupted\n"


def test_a_bug_is_not_hidden():
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exit_code_of(broken)


def _raise(error: BaseException) -> Callable[[], None]:
    def raising() -> None:
        raise error

    return raising


@pytest.mark.parametrize(
    ("error", "message", "exit_code"),
    [
        (RetryLater("first line,\n  second line"), "first line, second line", 4),
        (
            click.UsageError("No such option: --x"),
            "No such option: --x; `scalr --help` says more",
            2,
        ),
        (KeyboardInterrupt(), "interrupted", 130),
        (ZeroDivisionError(), "a bug: it ended with an error of Python", 1),
    ],
)
def test_where_logs_are_json_the_last_line_is_too(error, message, exit_code, monkeypatch, capsys):
    monkeypatch.setenv("SCALR_LOG", "json")
    assert exit_code_of(_raise(error)) == exit_code
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["message"], told["exit_code"]) == ("error", message, exit_code)
    assert ("ZeroDivisionError" in told.get("error", "")) == (exit_code == 1)


def test_logs_of_a_kind_that_is_not_known_are_refused_in_a_plain_line(monkeypatch, capsys):
    monkeypatch.setenv("SCALR_LOG", "xml")
    assert exit_code_of(Progress) == 2
    assert capsys.readouterr().err.startswith("scalr: SCALR_LOG=xml is not known")


@pytest.mark.parametrize(("stop", "code"), [(SystemExit(2), 2), (SystemExit("why"), 1)])
def test_a_verb_may_set_its_exit_code(stop, code):
    def stopped() -> None:
        raise stop

    assert exit_code_of(stopped) == code


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ((), {}),
        (("user_id=uid",), {"user_id": "uid"}),
        (
            ("user_id=uid,item_id=iid", "value=x"),
            {"user_id": "uid", "item_id": "iid", "value": "x"},
        ),
        (("user_id=uid, item_id = iid",), {"user_id": "uid", "item_id": "iid"}),
        (("value=a=b",), {"value": "a=b"}),
        (("value=price in $",), {"value": "price in $"}),
    ],
)
def test_columns_are_parsed(pairs, expected):
    assert parse_columns(pairs) == expected


@pytest.mark.parametrize(
    "pairs", [("user_id",), ("=uid",), ("user_id=",), ("user_id=uid,",), (" =uid",), ("user_id= ",)]
)
def test_columns_of_another_form_are_refused(pairs):
    with pytest.raises(click.UsageError, match="OURS=THEIRS"):
        parse_columns(pairs)


def test_a_column_that_is_mapped_twice_is_refused():
    with pytest.raises(click.UsageError, match="user_id twice"):
        parse_columns(("user_id=a", "user_id=b"))
