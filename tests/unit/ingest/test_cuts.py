from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_logs import NOON, TARGET, log_file, read, row, sound_rows

from scalr_ray.core.clock import EPOCH
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.keyed import stream_seed
from scalr_ray.ingest import is_odd_user, snapshot_times, target_cut, withhold

DAY = timedelta(days=1)
moments = st.datetimes(
    datetime(2020, 1, 1),  # noqa: DTZ001 - the zone is the next argument's
    datetime(2026, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@settings(max_examples=25, deadline=None)
@given(times=st.lists(moments, min_size=1, max_size=20), quantile=st.floats(0.01, 0.99))
def test_the_cut_is_the_day_of_numpys_quantile_of_the_target_times(
    times: list[datetime], quantile: float
):
    target = [
        row(1, item_id=str(place), event_timestamp=moment) for place, moment in enumerate(times)
    ]
    with TemporaryDirectory() as folder:
        log = read(log_file(Path(folder), [row(0), *target]))
    micros = [(moment - EPOCH) // timedelta(microseconds=1) for moment in times]
    exact = EPOCH + timedelta(microseconds=int(np.quantile(micros, quantile)))
    cut = target_cut(log, TARGET, quantile)
    assert cut == exact.replace(hour=0, minute=0, second=0, microsecond=0)
    assert cut.tzinfo is UTC


def test_a_cut_of_a_domain_without_events_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="'music'"):
        target_cut(read(log_file(tmp_path)), "music", 0.5)


def test_an_integer_user_is_odd_by_parity():
    for kind in (pa.int64(), pa.int8()):
        users = pa.chunked_array([pa.array([-3, -2, -1, 0], kind), pa.array([1, 2, 127], kind)])
        odd = [True, False, True, False, True, False, True]
        assert is_odd_user(users).to_pylist() == odd


@given(st.lists(st.text(max_size=3), max_size=30))
def test_a_text_user_is_odd_by_a_hash_that_others_can_compute(users: list[str]):
    odd = is_odd_user(pa.chunked_array([pa.array(users, pa.string())]))
    assert odd.to_pylist() == [stream_seed(user) % 2 == 1 for user in users]


def test_half_of_the_text_users_are_odd():
    users = pa.chunked_array([[f"user-{number}" for number in range(10_000)]])
    assert 4_700 < sum(is_odd_user(users).to_pylist()) < 5_300


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_only_early_target_events_of_odd_users_are_withheld(tmp_path: Path, kind: pa.DataType):
    rows = [
        row(slot, user_id=user if kind == pa.int64() else str(user), item_id=f"{user}-{slot}")
        for slot in range(8)
        for user in range(6)
    ]
    log = read(log_file(tmp_path, rows, {"user_id": kind}))
    cut = NOON + timedelta(hours=5)  # the time of slot 5, which lies in the target domain
    kept, held = withhold(log, before=cut, hide_users="odd", target=TARGET)
    odd = dict(
        zip(
            log.events["user_id"].to_pylist(),
            is_odd_user(log.events["user_id"]).to_pylist(),
            strict=True,
        )
    )
    expected = [
        event
        for event in log.events.to_pylist()
        if event["domain"] == TARGET and event["event_timestamp"] < cut and odd[event["user_id"]]
    ]
    assert 0 < len(expected) < 12
    assert held.to_pylist() == expected
    assert kept.events.to_pylist() == [
        event for event in log.events.to_pylist() if event not in expected
    ]
    assert kept.events.schema == log.events.schema
    assert (kept.fingerprint, kept.rows_read) == (log.fingerprint, log.rows_read)


def test_nothing_is_withheld_unless_asked(tmp_path: Path):
    log = read(log_file(tmp_path, sound_rows()))
    kept, held = withhold(log, before=NOON + DAY, hide_users="none", target=TARGET)
    assert kept is log
    assert held.num_rows == 0
    assert held.schema == log.events.schema


def test_snapshots_lie_on_a_grid_and_at_the_last_time():
    grid = EPOCH + 700 * 30 * DAY
    assert snapshot_times(grid - DAY, grid + 65 * DAY) == [
        grid, grid + 30 * DAY, grid + 60 * DAY, grid + 65 * DAY,
    ]  # fmt: skip
    assert snapshot_times(grid, grid + 60 * DAY) == [grid, grid + 30 * DAY, grid + 60 * DAY]
    assert snapshot_times(NOON, NOON) == [NOON]
    midnight = NOON.replace(hour=0)
    assert snapshot_times(NOON, NOON + DAY, every_days=1) == [midnight + DAY, NOON + DAY]


@settings(max_examples=50, deadline=None)
@given(first=moments, spans=st.tuples(st.integers(0, 400), st.integers(0, 400)))
def test_later_snapshots_leave_the_earlier_times_as_they_were(first, spans):
    last, later = first + spans[0] * DAY, first + (spans[0] + spans[1]) * DAY
    earlier_times, times = snapshot_times(first, last), snapshot_times(first, later)
    assert [time for time in times[:-1] if time < last] == [
        time for time in earlier_times if time < last
    ]
    assert times == sorted(set(times))


def test_snapshot_times_in_the_wrong_order_or_without_a_zone_are_refused():
    with pytest.raises(UsageError, match="before the first"):
        snapshot_times(NOON, NOON - DAY)
    with pytest.raises(UsageError, match="no time zone"):
        snapshot_times(NOON.replace(tzinfo=None), NOON)
