"""Watermarks and replacements of batches, on every database.

Run like `ledger_suite`, by importing all of it where there is a fixture `ledger`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from ledger_suite import add_translator

from scalr_ray.core.errors import UsageError
from scalr_ray.ledger import BatchState, Ledger

CUT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
DAY = timedelta(days=1)
ACCEPTED, PUBLISHED = BatchState.ACCEPTED, BatchState.PUBLISHED


def add_batch(
    ledger: Ledger,
    batch_id: str,
    *,
    as_of: datetime = CUT,
    state: BatchState = PUBLISHED,
    **seen: datetime,
) -> str:
    run = ledger.start_run("run", {}, "f", 1).run_id
    add_translator(ledger, run_id=run)
    ledger.add_batch(batch_id=batch_id, run_id=run, translator_version="t1", as_of=as_of, rows=1)
    at = BatchState.STAGED
    for to in (ACCEPTED, PUBLISHED):
        if at is not state:
            at = ledger.move_batch(batch_id, expected=at, to=to).state
    ledger.set_watermarks(batch_id, seen)
    return batch_id


def test_a_watermark_is_the_largest_of_its_own_domain(ledger: Ledger) -> None:
    add_batch(ledger, "b1", books=CUT, games=CUT - DAY)
    add_batch(ledger, "b2", books=CUT - DAY, games=CUT + DAY)
    assert ledger.watermarks() == {"books": CUT, "games": CUT + DAY}
    assert ledger.batch_watermarks("b1") == {"books": CUT, "games": CUT - DAY}
    assert ledger.batch_watermarks("b2") == {"books": CUT - DAY, "games": CUT + DAY}


def test_only_batches_in_the_states_asked_for_count(ledger: Ledger) -> None:
    add_batch(ledger, "b1", books=CUT)
    add_batch(ledger, "b2", state=ACCEPTED, books=CUT + DAY)
    add_batch(ledger, "b3", state=BatchState.STAGED, books=CUT + 2 * DAY)
    assert ledger.watermarks() == {"books": CUT}
    assert ledger.watermarks((PUBLISHED, ACCEPTED)) == {"books": CUT + DAY}
    ledger.move_batch("b1", expected=PUBLISHED, to=BatchState.RETIRED)
    assert ledger.watermarks() == {}


def test_a_time_sees_no_batch_of_later(ledger: Ledger) -> None:
    add_batch(ledger, "b1", as_of=CUT, books=CUT - DAY)
    add_batch(ledger, "b2", as_of=CUT + DAY, books=CUT)
    assert ledger.watermarks(as_of=CUT + DAY) == {"books": CUT}
    assert ledger.watermarks(as_of=CUT) == {"books": CUT - DAY}
    assert ledger.watermarks(as_of=CUT - timedelta(microseconds=1)) == {}


def test_recording_again_overwrites(ledger: Ledger) -> None:
    add_batch(ledger, "b1", books=CUT, games=CUT)
    ledger.set_watermarks("b1", {"books": CUT + DAY})
    assert ledger.batch_watermarks("b1") == {"books": CUT + DAY}


def test_what_cannot_be_recorded_is_refused(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="no batch b9"):
        ledger.set_watermarks("b9", {"books": CUT})
    add_batch(ledger, "b1", books=CUT)
    with pytest.raises(UsageError, match=r"watermark of books .*no time zone"):
        ledger.set_watermarks("b1", {"books": CUT.replace(tzinfo=None)})
    assert ledger.batch_watermarks("b1") == {"books": CUT}
    assert ledger.batch_watermarks("b9") == {}


def test_replacements_are_remembered_once(ledger: Ledger) -> None:
    for name in ("b1", "b2", "b3"):
        add_batch(ledger, name)
    ledger.replace_batches("b3", ["b2", "b1"])
    ledger.replace_batches("b3", ["b1"])
    assert [batch.batch_id for batch in ledger.replaced_by("b3")] == ["b1", "b2"]
    assert ledger.replaced_by("b1") == []
    with pytest.raises(UsageError, match="b1 cannot replace itself"):
        ledger.replace_batches("b1", ["b1"])
    with pytest.raises(UsageError, match="no batch b9"):
        ledger.replace_batches("b1", ["b9"])


def test_translators_are_listed_newest_first(ledger: Ledger) -> None:
    add_batch(ledger, "b1")
    run = ledger.start_run("train", {}, "f", 1).run_id
    ledger.add_translator(
        version="t0",
        run_id=run,
        kind="frequency",
        train_cutoff=CUT - DAY,
        config_fingerprint="c",
        data_fingerprint="d",
        metrics={},
        path="/t0",
    )
    assert [found.version for found in ledger.translators()] == ["t0", "t1"]
    assert ledger.latest_translator() == ledger.translators()[0]
