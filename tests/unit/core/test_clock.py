from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalr_ray.core.clock import (
    EPOCH,
    as_of_sql,
    duration,
    floor_day,
    from_micros,
    parse_time,
    time_literal,
    to_micros,
)
from scalr_ray.core.duck import duck
from scalr_ray.core.errors import UsageError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

moments = st.datetimes(timezones=st.just(UTC))
# A few instants around the cut, so that equality, the case that matters, is common.
near_noon = st.integers(-2, 2).map(lambda micros: NOON + timedelta(microseconds=micros))


@pytest.mark.parametrize("text", ["2026-03-01T12:00:00", "2026-03-01 12:00", "20260301T120000"])
def test_a_time_without_a_zone_is_refused(text: str):
    with pytest.raises(UsageError, match="no time zone") as caught:
        parse_time(text, "--as-of")
    assert caught.value.message.startswith("--as-of")


def test_an_aware_looking_datetime_object_without_a_zone_is_refused():
    with pytest.raises(UsageError, match="no time zone"):
        parse_time(NOON.replace(tzinfo=None))


@pytest.mark.parametrize("text", ["yesterday", "", "2026-02-30", "2026-03-01T25:00:00Z"])
def test_what_is_no_time_is_refused_in_one_line(text: str):
    with pytest.raises(UsageError) as caught:
        parse_time(text)
    assert "\n" not in caught.value.message
    assert "ISO 8601" in caught.value.message


@pytest.mark.parametrize(
    "text", ["2026-03-01T12:00:00Z", "2026-03-01T14:00:00+02:00", "2026-03-01T06:30:00-05:30"]
)
def test_zones_are_brought_to_utc(text: str):
    parsed = parse_time(text)
    assert parsed == NOON
    assert parsed.tzinfo is UTC


def test_a_bare_date_is_its_midnight_in_utc():
    assert parse_time("2026-03-01") == datetime(2026, 3, 1, tzinfo=UTC)


@given(moments)
def test_microseconds_survive_the_way_there_and_back(moment: datetime):
    assert from_micros(to_micros(moment)) == moment


@given(st.integers(-(10**16), 10**16))
def test_every_microsecond_is_a_time_of_its_own(micros: int):
    assert to_micros(from_micros(micros)) == micros


@given(moments)
def test_text_keeps_microseconds(moment: datetime):
    assert parse_time(moment.isoformat()) == moment


def test_the_day_is_that_of_utc():
    late = datetime(2026, 3, 2, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert floor_day(late) == datetime(2026, 3, 1, tzinfo=UTC)


@settings(max_examples=50, deadline=None)  # opening a session may stall
@given(moments)
def test_the_sql_literal_is_the_moment(moment: datetime):
    with duck(threads=1) as connection:
        row = connection.execute(f"SELECT epoch_us({time_literal(moment)})").fetchone()
    assert row == (to_micros(moment),)
    assert to_micros(EPOCH) == 0


@settings(max_examples=50, deadline=None)  # opening a session may stall
@given(st.lists(st.tuples(near_noon, near_noon), min_size=1, max_size=25))
def test_as_of_in_sql_is_as_of_in_python(rows: list[tuple[datetime, datetime]]):
    visible = [
        index
        for index, (event_timestamp, available_at) in enumerate(rows)
        if event_timestamp < NOON and available_at <= NOON
    ]
    values = ", ".join(
        f"({index}, {time_literal(happened)}, {time_literal(known)})"
        for index, (happened, known) in enumerate(rows)
    )
    table = f"(VALUES {values}) AS e(row, event_timestamp, available_at)"
    with duck(threads=1) as connection:
        for alias in ("", "e"):
            query = f"SELECT row FROM {table} WHERE {as_of_sql(NOON, alias)} ORDER BY row"
            assert [row for (row,) in connection.execute(query).fetchall()] == visible


@pytest.mark.parametrize(
    ("span", "told"),
    [
        (timedelta(0), "0 s"),
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=3, seconds=4), "3 min 4 s"),
        (timedelta(hours=2), "2 h 0 min"),
        (timedelta(days=9, hours=23, minutes=59), "9 d 23 h"),
    ],
)
def test_spans_are_told_in_two_units(span, told):
    assert duration(span) == told
