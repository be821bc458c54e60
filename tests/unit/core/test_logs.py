from __future__ import annotations

import contextvars
import json
import logging
import threading
from collections.abc import Iterator
from datetime import datetime

import pytest

from scalr_ray.core import logs
from scalr_ray.core.config import load_config
from scalr_ray.core.errors import ConfigError
from scalr_ray.jobs.progress import Progress

OURS = logging.getLogger("scalr_ray.jobs.anything")


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Structured logs, and afterwards logging as it was."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, root.manager.disable)
    monkeypatch.setenv("SCALR_LOG", "json")
    context = contextvars.copy_context()
    yield
    for variable in contextvars.copy_context():
        if variable.name == "where":
            variable.set(context.get(variable, {}))
    root.handlers[:], root.level, root.manager.disable = before
    for name in ("scalr_ray", "training"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    shown = capsys.readouterr()
    assert shown.out == ""
    return [json.loads(line) for line in shown.err.splitlines()]


@pytest.mark.usefixtures("as_json")
def test_a_line_tells_when_where_and_what(capsys):
    logs.set_up(rank=3)
    with logs.telling(run="r1", stage="train"):
        OURS.info("%d rows", 7, extra=logs.fields(seconds=0.5))
    OURS.info("after")
    first, second = lines(capsys)
    moment = datetime.fromisoformat(first.pop("time"))
    assert moment.utcoffset() is not None
    assert first == {
        "level": "info",
        "logger": "scalr_ray.jobs.anything",
        "message": "7 rows",
        "run": "r1",
        "stage": "train",
        "rank": 3,
        "seconds": 0.5,
    }
    assert (second["rank"], "run" in second) == (3, False)


@pytest.mark.usefixtures("as_json")
def test_an_error_brings_its_traceback_in_the_same_line(capsys):
    logs.set_up()
    try:
        int("of two\nlines")
    except ValueError:
        OURS.exception("it ended")
    (told,) = lines(capsys)
    assert told["message"] == "it ended"
    assert told["error"].startswith("Traceback")
    assert "ValueError: invalid literal" in told["error"]


@pytest.mark.usefixtures("as_json")
def test_what_was_silenced_is_heard_of_ours_alone(capsys):
    logging.disable(logging.WARNING)
    logs.set_up()
    logs.set_up()
    logging.getLogger("feast").warning("much")
    OURS.info("little")
    logging.getLogger("feast").error("wrong")
    assert [told["message"] for told in lines(capsys)] == ["little", "wrong"]


@pytest.mark.usefixtures("as_json")
def test_stages_and_notes_are_logged_instead_of_shown(capsys):
    progress = Progress()
    with progress.stage("Draw [all]", total=3) as advance:
        advance(3)
        progress.note("a note")
    note, stage = lines(capsys)
    assert (note["message"], stage["message"]) == ("a note", "Draw [all]")
    assert stage["seconds"] >= 0
    assert list(progress.timings_s) == ["Draw [all]"]


def test_without_the_variable_nothing_is_set_up(capsys):
    before = logging.getLogger().handlers[:]
    logs.set_up(rank=1)
    assert logging.getLogger().handlers == before
    OURS.info("unheard")
    assert capsys.readouterr() == ("", "")


def test_another_value_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("SCALR_LOG", "xml")
    with pytest.raises(ConfigError, match="SCALR_LOG=xml is not known; set it to json or text"):
        Progress()


def test_it_is_no_setting_of_the_configuration(tmp_path):
    (tmp_path / "scalr.yaml").write_text("project: p\n")
    assert load_config(tmp_path, environ={"SCALR_LOG": "json"}).project == "p"


@pytest.mark.usefixtures("as_json")
def test_each_thread_tells_its_own_run(capsys):
    logs.set_up()

    def work(run: str) -> None:
        with logs.telling(run=run):
            OURS.info("at work")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told["run"] for told in lines(capsys)) == ["a", "b"]
