"""The ledger on real SQLite files."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from ledger_suite import *  # noqa: F403 - the promises that hold on every database
from ledger_suite import start

from scalr_ray.core.errors import ConfigError, RetryLater
from scalr_ray.ledger import Ledger


@pytest.fixture
def file(ledger_url: str) -> Path:
    return Path(ledger_url.removeprefix("sqlite:///"))


def test_the_ledger_survives_closing(file: Path) -> None:
    with Ledger(f"sqlite:///{file}") as first:
        run_id = start(first)
    with Ledger(f"sqlite:///{file}") as second:
        assert second.run(run_id).verb == "train"


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scalr.db").write_bytes(b"something else " * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        Ledger(f"sqlite:///{tmp_path / 'scalr.db'}")


def test_tables_of_others_in_the_same_file_stay(file: Path) -> None:
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE registry (x)")
        other.execute("INSERT INTO registry VALUES (1)")
        other.commit()
        with Ledger(f"sqlite:///{file}") as ledger:
            start(ledger)
        assert other.execute("SELECT x FROM registry").fetchall() == [(1,)]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_writer_waits_for_other_writers_of_the_file(file: Path, ledger: Ledger) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert ledger.runs() == []
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(start, ledger)
            with pytest.raises(TimeoutError):
                starting.result(timeout=0.5)
            other.execute("COMMIT")
            assert ledger.run(starting.result(timeout=30)).verb == "train"


def test_creating_the_ledger_waits_for_writers_of_an_older_file(file: Path) -> None:
    file.parent.mkdir()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE registry (x)")
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO registry VALUES (1)")
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(Ledger, f"sqlite:///{file}")
            with pytest.raises(TimeoutError):
                opening.result(timeout=0.5)
            other.execute("COMMIT")
            with opening.result(timeout=30) as ledger:
                start(ledger)
        assert other.execute("SELECT x FROM registry").fetchall() == [(1,)]


def test_a_lock_that_stays_says_try_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalr_ray.ledger.database.LOCK_WAIT_S", 0.01)
    with (
        Ledger(f"sqlite:///{file}") as ledger,
        closing(sqlite3.connect(file, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RetryLater, match="could not write the ledger: the database is busy"):
            start(ledger)
        other.execute("ROLLBACK")
        assert ledger.runs() == []


OPEN = """
import sys
from scalr_ray.ledger import Ledger
with Ledger("sqlite:///" + sys.argv[1]) as ledger:
    ledger.start_run("doctor", {}, "f", 0)
"""


def test_processes_create_the_ledger_at_once(file: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", OPEN, str(file)]
    openers = [subprocess.Popen(command) for _ in range(4)]
    assert [opener.wait(timeout=60) for opener in openers] == [0] * 4
    with Ledger(f"sqlite:///{file}") as ledger:
        assert len(ledger.runs()) == 4


def test_threads_create_the_ledger_at_once(tmp_path: Path) -> None:
    def create(number: int) -> int:
        with Ledger(f"sqlite:///{tmp_path / str(number // 8)}.db") as ledger:
            start(ledger)
            return len(ledger.runs())

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(create, range(40)))
    assert max(counts) == 8
