"""The ledger on real SQLite files."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from scalr_ray.core.errors import ConfigError, DataError, RetryLater, UsageError
from scalr_ray.ledger import BatchRecord, BatchState, Ledger, RunStatus, TranslatorRecord

CUT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
STAGED, ACCEPTED, PUBLISHED, RETIRED, REJECTED = BatchState
LEGAL = {
    (STAGED, ACCEPTED),
    (STAGED, REJECTED),
    (ACCEPTED, PUBLISHED),
    (ACCEPTED, REJECTED),
    (PUBLISHED, RETIRED),
}
PATHS = {
    STAGED: [],
    ACCEPTED: [ACCEPTED],
    PUBLISHED: [ACCEPTED, PUBLISHED],
    RETIRED: [ACCEPTED, PUBLISHED, RETIRED],
    REJECTED: [REJECTED],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "scalr.db"


@pytest.fixture
def ledger(file: Path) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{file}") as opened:
        yield opened


def start(ledger: Ledger, verb: str = "train") -> str:
    return ledger.start_run(verb, {"seed": 1}, "f" * 64, 1).run_id


def add_translator(ledger: Ledger, version: str = "t1", **changes: object) -> TranslatorRecord:
    values: dict[str, object] = {
        "run_id": start(ledger),
        "kind": "frequency",
        "train_cutoff": CUT,
        "config_fingerprint": "c",
        "data_fingerprint": "d",
        "metrics": {"ndcg_at_20": 0.25},
        "path": "/translators/t1",
    }
    return ledger.add_translator(version=version, **{**values, **changes})


def add_batch(ledger: Ledger, batch_id: str = "b1", **changes: object) -> BatchRecord:
    values = {"translator_version": "t1", "as_of": CUT, "rows": 10, **changes}
    if "run_id" not in values:
        values["run_id"] = start(ledger, "generate")
    return ledger.add_batch(batch_id=batch_id, **values)


def batch_in(ledger: Ledger, state: BatchState) -> None:
    add_translator(ledger)
    at = add_batch(ledger).state
    for to in PATHS[state]:
        at = ledger.move_batch("b1", expected=at, to=to).state


def test_a_run_is_started_and_finished(ledger: Ledger) -> None:
    started = ledger.start_run("train", {"a": {"b": [1, None]}}, "f1", 2**63 - 1)
    assert started.status is RunStatus.RUNNING
    assert started.finished_at is None
    assert ledger.run(started.run_id) == started

    finished = ledger.finish_run(started.run_id, {"rows": 3})

    assert finished == ledger.run(started.run_id)
    assert finished.status is RunStatus.DONE
    assert (finished.config, finished.seed) == ({"a": {"b": [1, None]}}, 2**63 - 1)
    assert finished.metrics == {"rows": 3}
    assert finished.finished_at is not None
    assert finished.finished_at >= finished.started_at


def test_a_run_ends_once(ledger: Ledger) -> None:
    run_id = start(ledger)
    assert ledger.fail_run(run_id, "data").error_code == "data"
    with pytest.raises(UsageError, match="it is failed"):
        ledger.finish_run(run_id, {})
    with pytest.raises(UsageError, match="no run r9"):
        ledger.finish_run("r9", {})


def test_the_block_of_a_run_finishes_it(ledger: Ledger) -> None:
    with ledger.running("gate", {}, "f", 0) as run:
        run.metrics["psi"] = 0.1
        assert ledger.run(run.run_id).status is RunStatus.RUNNING
    assert ledger.run(run.run_id).status is RunStatus.DONE
    assert ledger.run(run.run_id).metrics == {"psi": 0.1}


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("x"), "data"), (KeyboardInterrupt(), "KeyboardInterrupt")]
)
def test_an_error_in_the_block_fails_the_run_and_goes_on(
    ledger: Ledger, error: BaseException, code: str
) -> None:
    with pytest.raises(type(error)), ledger.running("gate", {}, "f", 0):
        raise error
    (run,) = ledger.runs()
    assert (run.status, run.error_code) == (RunStatus.FAILED, code)


def test_runs_are_listed_newest_first_up_to_a_limit(ledger: Ledger) -> None:
    ids = [start(ledger) for _ in range(4)]
    assert [run.run_id for run in ledger.runs()] == ids[::-1]
    assert [run.run_id for run in ledger.runs(limit=2)] == ids[:1:-1]


def test_records_are_frozen_and_outlive_the_ledger(file: Path) -> None:
    with Ledger(f"sqlite:///{file}") as ledger:
        record = add_translator(ledger)
    assert record.train_cutoff == CUT
    with pytest.raises(FrozenInstanceError):
        record.version = "t2"  # type: ignore[misc]


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))])
def test_times_come_back_as_utc_to_the_microsecond(ledger: Ledger, zone: timezone) -> None:
    add_translator(ledger, train_cutoff=CUT.astimezone(zone))
    for moment in (ledger.translator("t1").train_cutoff, ledger.translator("t1").created_at):
        assert moment.tzinfo is UTC
    assert ledger.translator("t1").train_cutoff == CUT


def test_naive_times_are_refused(ledger: Ledger) -> None:
    naive = CUT.replace(tzinfo=None)
    with pytest.raises(UsageError, match=r"train_cutoff .* has no time zone"):
        add_translator(ledger, train_cutoff=naive)
    add_translator(ledger)
    with pytest.raises(UsageError, match=r"as_of .* has no time zone"):
        add_batch(ledger, as_of=naive)


def test_the_latest_translator_and_batch_are_the_last_recorded(ledger: Ledger) -> None:
    assert ledger.latest_translator() is None
    assert ledger.latest_batch() is None
    add_translator(ledger, "t1")
    newest = add_translator(ledger, "t0", train_cutoff=CUT - timedelta(days=1))
    assert ledger.latest_translator() == newest
    add_batch(ledger, "b1")
    last = add_batch(ledger, "b0")
    assert ledger.latest_batch() == last
    assert [batch.batch_id for batch in ledger.batches()] == ["b0", "b1"]


def test_recording_again_returns_what_is_there(ledger: Ledger) -> None:
    translator = add_translator(ledger)
    batch = add_batch(ledger)
    ledger.move_batch("b1", expected=STAGED, to=ACCEPTED)
    assert add_translator(ledger) == translator
    again = add_batch(ledger)
    assert again.state is ACCEPTED
    assert (again.run_id, again.created_at) == (batch.run_id, batch.created_at)


def test_an_id_cannot_be_used_for_something_else(ledger: Ledger) -> None:
    add_translator(ledger)
    add_translator(ledger, "t2")
    add_batch(ledger)
    with pytest.raises(UsageError, match="t1 is there with another content"):
        add_translator(ledger, data_fingerprint="e")
    for change in ({"translator_version": "t2"}, {"rows": 11}, {"as_of": CUT + timedelta(days=1)}):
        with pytest.raises(UsageError, match="b1 is there with another content"):
            add_batch(ledger, **change)


def test_references_must_exist(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="no run r9"):
        add_translator(ledger, run_id="r9")
    with pytest.raises(UsageError, match="no translator t1"):
        add_batch(ledger)
    add_translator(ledger)
    with pytest.raises(UsageError, match="no run r9"):
        add_batch(ledger, run_id="r9")
    with pytest.raises(UsageError, match="no batch b1"):
        ledger.add_verdict(batch_id="b1", check="psi", passed=True)
    with pytest.raises(UsageError, match="no batch b1"):
        ledger.move_batch("b1", expected=STAGED, to=ACCEPTED)
    assert ledger.batches() == []


def test_the_database_enforces_foreign_keys(ledger: Ledger) -> None:
    batch_in(ledger, STAGED)
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), ledger._engine.begin() as connection:
        connection.execute(text("DELETE FROM scalr_translators"))


@pytest.mark.parametrize("state", BatchState)
@pytest.mark.parametrize("to", BatchState)
def test_only_legal_transitions_happen(ledger: Ledger, state: BatchState, to: BatchState) -> None:
    batch_in(ledger, state)
    if (state, to) in LEGAL:
        moved = ledger.move_batch("b1", expected=state, to=to, reason="because")
        assert (moved.state, moved.reason) == (to, "because")
        assert moved == ledger.batch("b1")
    else:
        with pytest.raises(UsageError, match=f"b1 is {state}"):
            ledger.move_batch("b1", expected=state, to=to)
        assert ledger.batch("b1").state is state


def test_a_wrong_expectation_names_the_actual_state(ledger: Ledger) -> None:
    batch_in(ledger, REJECTED)
    with pytest.raises(UsageError, match="b1 is rejected, not accepted; it cannot become publish"):
        ledger.move_batch("b1", expected=ACCEPTED, to=PUBLISHED)


def test_the_snapshot_id_stays_when_a_batch_is_retired(ledger: Ledger) -> None:
    batch_in(ledger, ACCEPTED)
    published = ledger.move_batch("b1", expected=ACCEPTED, to=PUBLISHED, snapshot_id=2**62)
    retired = ledger.move_batch("b1", expected=PUBLISHED, to=RETIRED, reason="erased")
    assert (published.snapshot_id, retired.snapshot_id) == (2**62, 2**62)
    assert retired.updated_at > published.updated_at > retired.created_at


def test_batches_can_be_listed_by_state(ledger: Ledger) -> None:
    batch_in(ledger, ACCEPTED)
    add_batch(ledger, "b2")
    assert [batch.batch_id for batch in ledger.batches(ACCEPTED)] == ["b1"]
    assert [batch.batch_id for batch in ledger.batches(STAGED)] == ["b2"]
    assert ledger.batches(RETIRED) == []


def test_of_many_movers_exactly_one_wins(file: Path) -> None:
    count = 8
    ledgers = [Ledger(f"sqlite:///{file}") for _ in range(count)]
    batch_in(ledgers[0], ACCEPTED)
    barrier = Barrier(count)

    def move(number: int) -> str:
        barrier.wait()
        to = PUBLISHED if number % 2 else REJECTED
        try:
            return ledgers[number].move_batch("b1", expected=ACCEPTED, to=to).state
        except UsageError as error:
            return str(error)

    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(move, range(count)))
    final = ledgers[0].batch("b1").state
    losers = [result for result in results if result != final]
    assert len(losers) == count - 1
    assert all(f"b1 is {final}, not accepted" in loser for loser in losers)
    for ledger in ledgers:
        ledger.close()


def test_one_ledger_serves_many_threads(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: start(ledger), range(40)))
    assert {run.run_id for run in ledger.runs()} == set(ids)


def test_verdicts_are_kept_in_order(ledger: Ledger) -> None:
    batch_in(ledger, STAGED)
    drift = ledger.add_verdict(
        batch_id="b1", check="psi", passed=False, value=1.5, threshold=1.0, detail="item drift"
    )
    rows = ledger.add_verdict(batch_id="b1", check="rows", passed=True)
    assert ledger.verdicts("b1") == [drift, rows]
    assert (drift.passed, drift.value, drift.threshold) == (False, 1.5, 1.0)
    assert (rows.passed, rows.value, rows.detail) == (True, None, "")
    assert ledger.verdicts("b2") == []


def test_the_ledger_survives_closing(file: Path) -> None:
    with Ledger(f"sqlite:///{file}") as first:
        run_id = start(first)
    with Ledger(f"sqlite:///{file}") as second:
        assert second.run(run_id).verb == "train"


@pytest.mark.usefixtures("ledger")
def test_a_newer_layout_is_refused(file: Path) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("UPDATE scalr_schema SET version = 3")
        other.commit()
    with pytest.raises(ConfigError, match=r"ledger layout 3 .* knows up to 2; upgrade scalr"):
        Ledger(f"sqlite:///{file}")


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
        with pytest.raises(RetryLater, match="ledger is busy"):
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
