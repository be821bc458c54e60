"""Cuts of a log that are moved into the past see nothing of what came after their test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bench.amazon import CUTS, read_split

EVENTS, USERS, ITEMS, DAYS = 1200, 60, 30, 200


def split(folder, windows_back, *, strange_from=None):
    """Of a log of two domains in which, from a time on, others take other things."""
    random = np.random.default_rng(0)
    pairs = random.choice(USERS * ITEMS, EVENTS, replace=False)
    days = np.sort(random.integers(0, DAYS, EVENTS)).astype("timedelta64[D]")
    times = pa.array(np.datetime64("2026-01-01", "us") + days, pa.timestamp("us", tz="UTC"))
    strange = np.zeros(EVENTS, dtype=int)
    if strange_from:
        strange = np.array([1000 * (time.as_py() >= strange_from) for time in times])
    log = pa.table(
        {
            "user_id": pairs // ITEMS + strange,
            "item_id": pairs % ITEMS + strange,
            "event_timestamp": times,
            "domain": np.where(random.random(EVENTS) < 0.5, "near", "far"),
        }
    )
    (folder / "log").mkdir(exist_ok=True)
    pq.write_table(log, folder / "log" / "events.parquet")
    return read_split(folder, "log", ["far"], "near", windows_back=windows_back)


def seen(split):
    """All arrays that a split holds."""
    logs = [split.events.source_log, split.events.target_log]
    test = [split.test.users, split.test.known.toarray(), split.test.relevant.toarray()]
    return [*test, *(getattr(log, name) for log in logs for name in ("users", "items", "times"))]


def same(one, other):
    return all(map(np.array_equal, seen(one), seen(other)))


@pytest.mark.parametrize("back", range(1, len(CUTS) - 1))
def test_what_came_after_the_test_changes_nothing(tmp_path, back):
    plain, later = split(tmp_path, back), split(tmp_path, back - 1)
    assert plain.cut == later.validation_cut
    assert same(plain, split(tmp_path, back, strange_from=later.cut))
    during = plain.cut + (later.cut - plain.cut) / 2
    assert not same(plain, split(tmp_path, back, strange_from=during))


def test_unmoved_the_test_goes_on_to_the_end_of_the_log(tmp_path):
    plain = split(tmp_path, 0)
    last = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=DAYS - 5)
    assert plain.cut < last
    assert not same(plain, split(tmp_path, 0, strange_from=last))
