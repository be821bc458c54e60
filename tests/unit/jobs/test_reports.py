from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ledger_suite import add_translator

from scalr_ray.jobs import reports
from scalr_ray.jobs.reports import evaluations_of, has_report, read_report, told_of_report
from scalr_ray.ledger import Ledger, RunRecord
from training.report import HTML_NAME

Recording = Callable[..., RunRecord]


@pytest.fixture(name="ledger")
def ledger_fixture(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{tmp_path / 'scalr.db'}") as opened:
        yield opened


@pytest.fixture(name="ran")
def ran_fixture(ledger: Ledger) -> Recording:
    def ran(verb: str = "evaluate", **metrics: Any) -> RunRecord:
        with ledger.running(verb, {}, "f", 0) as run:
            run.metrics.update(metrics)
        return ledger.run(run.run_id)

    return ran


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / HTML_NAME).write_bytes(b"<h1>It helps</h1>")
    return folder


def test_a_report_is_found_by_its_run(ran: Recording, folder: Path):
    run = ran(**told_of_report(["b1"], folder))
    assert has_report(run)
    assert read_report(run) == b"<h1>It helps</h1>"


def test_a_run_without_one_has_none(ran: Recording, folder: Path):
    told = told_of_report(["b1"], folder)
    for run in (ran(), ran("train", **told), ran(report=7), ran(report=None)):
        assert not has_report(run)
        assert read_report(run) is None


@pytest.mark.parametrize("place", ["/nowhere", "/a\0b", "", ".", "/" + "x" * 5_000])
def test_a_place_where_none_lies_gives_none(ran: Recording, place: str):
    assert read_report(ran(report=place)) is None


def test_links_folders_pipes_and_huge_files_are_no_reports(
    ran: Recording, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = ran(**told_of_report(["b1"], folder))
    monkeypatch.setattr(reports, "MOST_BYTES", 3)
    assert read_report(run) is None
    monkeypatch.undo()
    secret = tmp_path / "secret"
    secret.write_text("root:")
    (folder / HTML_NAME).unlink()
    (folder / HTML_NAME).symlink_to(secret)
    assert read_report(run) is None
    (folder / HTML_NAME).unlink()
    (folder / HTML_NAME).mkdir()
    assert read_report(run) is None
    (folder / HTML_NAME).rmdir()
    os.mkfifo(folder / HTML_NAME)
    assert read_report(run) is None


def test_the_evaluations_of_a_batch_are_found_newest_first(
    ledger: Ledger, ran: Recording, folder: Path
):
    run = ran("generate")
    add_translator(ledger, run_id=run.run_id)
    batch = ledger.add_batch(
        batch_id="b1", run_id=run.run_id, translator_version="t1", as_of=run.started_at, rows=1
    )
    measured = (["b1"], ["b2"], ["b1"], ["b3", "b2", "b1"], ["b3", "b2"])
    made = [ran(**told_of_report(names, folder)).run_id for names in measured]
    found = [run.run_id for run in evaluations_of(ledger, batch)]
    assert found == [made[3], made[2], made[0]]
