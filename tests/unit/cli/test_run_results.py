"""How the results of runs and backfills are shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scalr_ray.cli.session import Session
from scalr_ray.gate import Check
from scalr_ray.jobs.backfill import Origin
from scalr_ray.jobs.increment import RunOutcome
from scalr_ray.ledger import BatchRecord, BatchState

CUT = datetime(2026, 3, 1, tzinfo=UTC)
CHECK = Check(name="not_empty", passed=True, detail="10 rows are staged")


def session(*, as_json: bool = False) -> Session:
    return Session(repo=Path("repo"), overrides=(), as_json=as_json, verbose=False)


def record(state: BatchState) -> BatchRecord:
    return BatchRecord(
        batch_id="b1",
        run_id="r1",
        translator_version="t1",
        state=state,
        as_of=CUT,
        rows=10,
        reason=None,
        snapshot_id=None,
        created_at=CUT,
        updated_at=CUT,
    )


ORIGINS = [
    Origin(as_of=CUT, translator="t1", batch_id="b1", events=1234, users=56, verdict="published"),
    Origin(as_of=CUT, verdict="too little data: [none] before the cut"),
]


@pytest.mark.parametrize(
    ("state", "accepted"),
    [(None, True), (BatchState.PUBLISHED, True), (BatchState.REJECTED, False)],
)
def test_only_a_refusal_is_not_accepted(state, accepted):
    made = None if state is None else record(state)
    assert RunOutcome(sentence="done", record=made).accepted is accepted


def test_a_run_without_news_is_one_line(capsys):
    session().show_outcome(RunOutcome(sentence="nothing new since then"))
    assert capsys.readouterr().out == "nothing new since then\n"


def test_a_run_shows_what_the_gate_said_and_what_became_of_the_batch(capsys):
    done = RunOutcome(sentence="b1 is published", record=record(BatchState.PUBLISHED))
    session().show_outcome(RunOutcome(**{**vars(done), "checks": (CHECK,)}))
    shown = capsys.readouterr().out
    assert "10 rows are staged" in shown
    assert shown.endswith("b1 is published\n")


def test_a_refusal_is_left_to_the_error_line(capsys):
    refused = record(BatchState.REJECTED)
    session().show_outcome(RunOutcome(sentence="no", record=refused, checks=(CHECK,)))
    assert not capsys.readouterr().out.endswith("no\n")


def test_a_run_as_json_has_the_record_and_the_checks(capsys):
    done = RunOutcome(sentence="done", record=record(BatchState.PUBLISHED), checks=(CHECK,))
    session(as_json=True).show_outcome(done)
    told = json.loads(capsys.readouterr().out)
    assert told["record"]["state"] == "published"
    assert [check["name"] for check in told["checks"]] == ["not_empty"]
    assert (told["sentence"], told["retired"]) == ("done", [])


def test_origins_are_a_table_in_which_nothing_is_taken_for_markup(capsys):
    session().show_origins(ORIGINS)
    shown = capsys.readouterr().out
    header, first, second = [
        line.split() for line in shown.splitlines() if line.strip()[:1].isalnum()
    ]
    assert header == ["origin", "translator", "events", "users", "verdict"]
    assert first == ["2026-03-01", "00:00", "t1", "1,234", "56", "published"]
    assert second[:5] == ["2026-03-01", "00:00", "-", "0", "-"]
    assert "[none]" in shown


def test_origins_as_json(capsys):
    session(as_json=True).show_origins(ORIGINS)
    told = json.loads(capsys.readouterr().out)
    assert [origin["verdict"] for origin in told] == [origin.verdict for origin in ORIGINS]
    assert [origin["users"] for origin in told] == [56, None]
