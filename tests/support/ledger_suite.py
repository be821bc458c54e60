"""What the ledger promises on every database.

A folder of tests that has the fixtures `ledger_url` and `ledger` runs it by importing all of it:
`from ledger_suite import *`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from threading import Barrier

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.ledger import (
    BatchRecord,
    BatchState,
    ErasureState,
    Finding,
    Ledger,
    Owner,
    RunStatus,
    TranslatorRecord,
)

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

DRIFT = Finding(check="psi", passed=False, value=1.5, threshold=1.0, detail="item drift")
ROWS = Finding(check="rows", passed=True)


def start(ledger: Ledger, verb: str = "train") -> str:
    return ledger.start_run(verb, {"seed": 1}, "f" * 64, 1).run_id


def add_translator(ledger: Ledger, version: str = "t1", **changes: object) -> TranslatorRecord:
    values: dict[str, object] = {
        "kind": "frequency",
        "train_cutoff": CUT,
        "config_fingerprint": "c",
        "data_fingerprint": "d",
        "metrics": {"ndcg_at_20": 0.25},
        "path": "/translators/t1",
        **changes,
    }
    if "run_id" not in values:
        values["run_id"] = start(ledger)
    return ledger.add_translator(version=version, **values)


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
    assert [run.run_id for run in ledger.runs(limit=2, skip=1)] == ids[2:0:-1]
    assert [run.run_id for run in ledger.runs(limit=None)] == ids[::-1]
    assert [run.run_id for run in ledger.runs(verb="nothing")] == []


def test_batches_and_translators_are_found_by_what_made_them_and_in_parts(ledger: Ledger) -> None:
    runs = [start(ledger) for _ in range(2)]
    for slot in range(4):
        add_translator(ledger, f"t{slot}", run_id=runs[slot % 2])
        add_batch(ledger, f"b{slot}", run_id=runs[slot % 2], translator_version=f"t{slot // 2}")
    made = [record.version for record in ledger.translators(run_id=runs[0])]
    assert made == ["t2", "t0"]
    assert [batch.batch_id for batch in ledger.batches(run_id=runs[1])] == ["b3", "b1"]
    assert [batch.batch_id for batch in ledger.batches(translator="t0")] == ["b1", "b0"]
    assert [batch.batch_id for batch in ledger.batches(limit=2, skip=1)] == ["b2", "b1"]
    assert [record.version for record in ledger.translators(skip=3)] == ["t0"]


def test_records_are_frozen_and_outlive_the_ledger(ledger_url: str) -> None:
    with Ledger(ledger_url) as ledger:
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
        ledger.judge_batch("b1", findings=[DRIFT], to=REJECTED, reason="psi")
    with pytest.raises(UsageError, match="no batch b1"):
        ledger.move_batch("b1", expected=STAGED, to=ACCEPTED)
    assert ledger.batches() == []


def test_the_database_enforces_foreign_keys(ledger: Ledger) -> None:
    batch_in(ledger, STAGED)
    with (
        pytest.raises(IntegrityError, match=r"(?i)foreign key"),
        ledger._engine.begin() as connection,
    ):
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


def test_only_what_was_rejected_can_be_forced_and_why_stays(ledger: Ledger) -> None:
    batch_in(ledger, STAGED)
    with pytest.raises(UsageError, match="b1 is staged, not rejected"):
        ledger.force_batch("b1", rows=3, why="an order")
    assert ledger.forcing("b1") is None
    ledger.judge_batch("b1", findings=[DRIFT], to=REJECTED, reason="psi")
    forced = ledger.force_batch("b1", rows=3, why="an order")
    assert (forced.state, forced.rows, forced.reason) == (ACCEPTED, 3, "forced: an order")
    ledger.move_batch("b1", expected=ACCEPTED, to=PUBLISHED)
    with pytest.raises(UsageError, match="b1 is published, not rejected"):
        ledger.force_batch("b1", rows=3, why="another")
    kept = ledger.forcing("b1")
    assert kept is not None
    assert (kept.check, kept.passed, kept.detail) == ("forced", True, "an order")
    assert [verdict.check for verdict in ledger.verdicts("b1")] == [DRIFT.check, "forced"]


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


def test_of_many_movers_exactly_one_wins(ledger_url: str) -> None:
    count = 8
    ledgers = [Ledger(ledger_url) for _ in range(count)]
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


def test_a_batch_is_judged_with_its_verdicts(ledger: Ledger) -> None:
    batch_in(ledger, STAGED)
    judged = ledger.judge_batch("b1", findings=[DRIFT, ROWS], to=REJECTED, reason="item drift")
    assert (judged.state, judged.reason) == (REJECTED, "item drift")
    drift, rows = ledger.verdicts("b1")
    assert (drift.check, drift.passed, drift.value, drift.threshold, drift.detail) == (
        "psi", False, 1.5, 1.0, "item drift",
    )  # fmt: skip
    assert (rows.check, rows.passed, rows.value, rows.detail) == ("rows", True, None, "")
    assert ledger.verdicts("b2") == []


@pytest.mark.parametrize("state", [ACCEPTED, PUBLISHED, RETIRED, REJECTED])
def test_who_judges_too_late_leaves_no_verdict(ledger: Ledger, state: BatchState) -> None:
    batch_in(ledger, state)
    with pytest.raises(UsageError, match=f"b1 is {state}, not staged"):
        ledger.judge_batch("b1", findings=[ROWS], to=ACCEPTED, reason=None)
    assert ledger.verdicts("b1") == []
    assert ledger.batch("b1").state is state


def test_a_batch_is_judged_once(ledger_url: str) -> None:
    with Ledger(ledger_url) as ledger:
        batch_in(ledger, STAGED)
        barrier = Barrier(4)

        def judge(number: int) -> bool:
            to = REJECTED if number % 2 else ACCEPTED
            barrier.wait()
            try:
                ledger.judge_batch("b1", findings=[ROWS, DRIFT], to=to, reason=None)
            except UsageError:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(judge, range(4))) == 1
        assert len(ledger.verdicts("b1")) == 2


@pytest.mark.parametrize("state", BatchState)
def test_only_what_is_not_published_is_resized(ledger: Ledger, state: BatchState) -> None:
    batch_in(ledger, state)
    if state in (STAGED, ACCEPTED):
        assert ledger.resize_batch("b1", 7, "an erasure").rows == 7
        assert ledger.batch("b1").reason == "an erasure"
    else:
        with pytest.raises(UsageError, match=f"b1 is {state}; its rows can no longer change"):
            ledger.resize_batch("b1", 7, "an erasure")
        assert ledger.batch("b1").rows == 10


def test_a_run_says_which_process_runs_it(ledger: Ledger) -> None:
    run = ledger.run(start(ledger))
    assert run.owner == Owner.of_this_process()
    assert run.owner.pid == os.getpid()
    assert run.owner.started_at <= run.started_at


def test_a_run_that_died_is_abandoned_once(ledger: Ledger) -> None:
    first, second = start(ledger), start(ledger)
    assert [run.run_id for run in ledger.running_runs()] == [first, second]
    abandoned = ledger.abandon_run(first, "its process is gone")
    assert (abandoned.status, abandoned.error_code) == (RunStatus.FAILED, "interrupted")
    assert [run.run_id for run in ledger.running_runs()] == [second]
    with pytest.raises(UsageError, match="it is failed"):
        ledger.abandon_run(first, "again")


def test_a_flag_stays_with_its_first_reason(ledger: Ledger) -> None:
    assert add_translator(ledger).flagged is None
    assert ledger.flag_translator("t1", "somebody was erased").flagged == "somebody was erased"
    assert ledger.flag_translator("t1", "somebody else").flagged == "somebody was erased"
    with pytest.raises(UsageError, match="no translator t2"):
        ledger.flag_translator("t2", "x")


def test_a_name_is_pinned_once(ledger: Ledger) -> None:
    pinned = ledger.pin("spring", snapshot_id=2**62, path="/sets/spring", manifest_fingerprint="m")
    again = ledger.pin("spring", snapshot_id=2**62, path="/sets/spring", manifest_fingerprint="m")
    assert again == pinned == ledger.pin_of("spring")
    with pytest.raises(UsageError, match="another training set 'spring'"):
        ledger.pin("spring", snapshot_id=2**62, path="/sets/spring", manifest_fingerprint="n")
    ledger.pin("autumn", snapshot_id=None, path="/sets/autumn", manifest_fingerprint="m")
    assert [pin.name for pin in ledger.pins()] == ["autumn", "spring"]


def test_a_pin_moves_and_goes(ledger: Ledger) -> None:
    first = ledger.pin("spring", snapshot_id=1, path="/sets/spring", manifest_fingerprint="m")
    moved = ledger.repin("spring", snapshot_id=None, manifest_fingerprint="n")
    assert (moved.snapshot_id, moved.manifest_fingerprint, moved.path) == (None, "n", first.path)
    assert moved.updated_at > moved.created_at == first.created_at
    ledger.unpin("spring")
    ledger.unpin("spring")
    assert ledger.pins() == []
    for call in (ledger.pin_of, lambda name: ledger.repin(name, snapshot_id=1, manifest_fingerprint="m")):  # fmt: skip  # noqa: E501
        with pytest.raises(UsageError, match="no saved training set 'spring'"):
            call("spring")


def test_an_erasure_counts_from_its_beginning_and_ends_once(ledger: Ledger) -> None:
    assert ledger.erased_subjects() == frozenset()
    begun = ledger.begin_erasure(["h2", "h1", "h2"], "asked for")
    assert (begun.state, begun.subjects, begun.report) == (ErasureState.BEGUN, ("h1", "h2"), {})
    ledger.begin_erasure(["h3"], "asked for")
    assert ledger.erased_subjects() == {"h1", "h2", "h3"}
    done = ledger.finish_erasure(begun.erasure_id, {"rows": 3})
    assert (done.state, done.report) == (ErasureState.DONE, {"rows": 3})
    assert done.finished_at is not None
    assert ledger.finish_erasure(begun.erasure_id, {"rows": 0}) == done
    assert [record.state for record in ledger.erasures()] == [ErasureState.DONE, ErasureState.BEGUN]
    with pytest.raises(UsageError, match="no erasure e9"):
        ledger.finish_erasure("e9", {})


def test_what_is_recorded_last_is_newest_though_a_clock_is_behind(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_translator(ledger)
    first = add_batch(ledger, "b1")

    class Behind(datetime):
        @classmethod
        def now(cls, tz=None):
            return (first.created_at - timedelta(hours=1)).astimezone(tz)

    monkeypatch.setattr("scalr_ray.ledger.database.datetime", Behind)
    assert add_translator(ledger, "t0") == ledger.latest_translator()
    last = add_batch(ledger, "b0")
    assert last == ledger.latest_batch()
    assert last.created_at > first.created_at
    assert ledger.runs()[0].run_id == last.run_id
