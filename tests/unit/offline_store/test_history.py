"""Histories against a brute-force oracle: late arrivals, ties, duplicates, nulls, unknown users."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import TIMESTAMP
from scalr_ray.offline_store import history
from scalr_ray.offline_store.history import HistoryIndex, history_lists

T0 = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Event:
    user_id: str | None
    event_timestamp: datetime | None
    available_at: datetime | None
    event_id: str
    place: int = -1


def oracle(events, user, t, *, length, cut_off) -> list[int]:
    """Where the last events before t stand in `events`, oldest first."""
    if user is None or t is None:
        return []
    seen = [
        event
        for event in events
        if event.user_id == user
        and event.event_timestamp is not None
        and event.event_timestamp < t
        and (not cut_off or (event.available_at is not None and event.available_at <= t))
    ]
    late = {event.place: event.available_at if cut_off else T0 for event in seen}
    seen.sort(key=lambda e: (e.event_timestamp, late[e.place], e.event_id, e.place))
    return [event.place for event in seen][-length:]


def table(events) -> pa.Table:
    columns = {
        "user_id": pa.string(),
        "event_timestamp": TIMESTAMP,
        "available_at": TIMESTAMP,
        "event_id": pa.string(),
        "place": pa.int64(),
    }
    return pa.table(
        {
            name: pa.array([getattr(event, name) for event in events], kind)
            for name, kind in columns.items()
        }
    )


users = st.sampled_from(["1", "11", "", "é", None])
times = st.one_of(
    st.none(),
    st.builds(
        lambda days, micros: T0 + timedelta(days=days, microseconds=micros),
        st.integers(-3, 3),
        st.integers(-1, 1),
    ),
    st.integers(-3, 3).map(lambda days: T0 + days * DAY),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Events on few instants; most are known at once, the others any time before or after."""
    events = []
    for place in range(draw(st.integers(0, 30))):
        happened = draw(times)
        known = draw(st.one_of(st.just(happened), st.just(happened), times))
        event_id = draw(st.sampled_from("abc"))
        events.append(Event(draw(users), happened, known, event_id, place))
    return events


queries = st.lists(st.tuples(st.one_of(users, st.just("nobody")), times), max_size=15)
lengths = st.sampled_from([1, 2, 3, 5, 10**6])


def ask(events, asked, *, length, cut_off) -> list[list[int]]:
    lists = history_lists(
        table(events),
        pa.array([user for user, _ in asked], pa.string()),
        pa.array([t for _, t in asked], TIMESTAMP),
        columns=["place"],
        length=length,
        cut_off=cut_off,
    )
    return lists["place"].to_pylist()


@given(events=histories(), asked=queries, length=lengths, cut_off=st.booleans())
@settings(max_examples=800, deadline=None)
def test_lists_are_what_the_oracle_says(events, asked, length, cut_off) -> None:
    expected = [oracle(events, *query, length=length, cut_off=cut_off) for query in asked]
    assert ask(events, asked, length=length, cut_off=cut_off) == expected


@given(events=histories(), asked=queries, length=lengths)
@settings(max_examples=300, deadline=None)
def test_every_span_is_a_slice_of_the_laid_out_arrays(events, asked, length) -> None:
    index = HistoryIndex.of(table(events))
    spans = index.spans(
        pa.array([user for user, _ in asked], pa.string()),
        pa.array([t for _, t in asked], TIMESTAMP),
        length=length,
    )
    assert spans.start.dtype == spans.end.dtype == spans.copies.dtype == np.int64
    laid_out = spans.lay_out(index.events["place"].to_numpy())
    found = [
        laid_out[start:end].tolist() for start, end in zip(spans.start, spans.end, strict=True)
    ]
    assert found == [oracle(events, *query, length=length, cut_off=True) for query in asked]


@given(
    late=st.sets(st.integers(0, 199)),
    days=st.lists(st.integers(0, 450), min_size=1, max_size=12),
    length=st.sampled_from([1, 50, 100, 1000]),
    walk=st.sampled_from([1, 3, 64]),
    walkers=st.sampled_from([1, 5, 10_000]),
)
@settings(max_examples=100, deadline=None)
def test_long_histories_with_many_late_events(late, days, length, walk, walkers) -> None:
    events = [
        Event(user, T0 + day * DAY, T0 + (day + (200 if day in late else 0)) * DAY, str(day), place)
        for place, (day, user) in enumerate((day, user) for day in range(200) for user in "ab")
    ]
    asked = [(user, T0 + day * DAY) for day in days for user in "ab"]
    expected = [oracle(events, *query, length=length, cut_off=True) for query in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "_WALK", walk)
        patch.setattr(history, "_WALKERS", walkers)
        assert ask(events, asked, length=length, cut_off=True) == expected


def test_an_event_never_sees_its_own_instant() -> None:
    events = [Event("u", T0, T0, "a", 0), Event("u", T0, T0, "b", 1)]
    just_after = T0 + timedelta(microseconds=1)
    found = ask(events, [("u", T0), ("u", just_after)], length=5, cut_off=True)
    assert found == [[], [0, 1]]


def test_days_as_times_do_not_see_the_same_day() -> None:
    events = table([Event("u", T0, T0, "a", 0), Event("u", T0 + DAY, T0 + DAY, "b", 1)])
    day = events["event_timestamp"].cast(pa.date32())
    dated = events.set_column(1, "event_timestamp", day).set_column(2, "available_at", day)
    asked = pa.array([date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)])
    lists = history_lists(dated, pa.array(["u"] * 3), asked, columns=["event_id"], length=9)
    assert lists["event_id"].to_pylist() == [[], ["a"], ["a", "b"]]


def test_a_late_event_comes_into_its_place_once_it_is_known() -> None:
    events = [
        Event("u", T0, T0, "first", 0),
        Event("u", T0 + DAY, T0 + 5 * DAY, "late", 1),
        Event("u", T0 + 2 * DAY, T0 + 2 * DAY, "last", 2),
    ]
    asked = [("u", T0 + 4 * DAY), ("u", T0 + 5 * DAY)]
    assert ask(events, asked, length=2, cut_off=True) == [[0, 2], [1, 2]]
    assert ask(events, asked, length=2, cut_off=False) == [[1, 2], [1, 2]]


def test_examples_that_see_the_same_share_one_copy() -> None:
    events = [
        Event("u", T0 + day * DAY, T0 + (100 if day == 5 else day) * DAY, "", day)
        for day in range(11)
    ]
    times = pa.array([T0 + timedelta(days=20, minutes=minute) for minute in range(1000)], TIMESTAMP)
    spans = HistoryIndex.of(table(events)).spans(pa.array(["u"] * 1000), times, length=8)
    assert len(spans.copies) == 8
    assert set(spans.end - spans.start) == {8}


def test_a_late_event_out_of_reach_costs_no_copy() -> None:
    events = [
        Event("u", T0 + day * DAY, T0 + (100 if day == 1 else day) * DAY, "", day)
        for day in range(11)
    ]
    asked = pa.array([T0 + 20 * DAY], TIMESTAMP)
    spans = HistoryIndex.of(table(events)).spans(pa.array(["u"]), asked, length=4)
    assert len(spans.copies) == 0
    assert (spans.start.tolist(), spans.end.tolist()) == ([7], [11])


def test_integer_users_are_found_from_floats_and_from_categories() -> None:
    events = table([Event("7", T0, T0, "a", 0), Event("-1", T0, T0, "b", 1)])
    numbered = events.set_column(0, "user_id", events["user_id"].cast(pa.int64()))
    asked = pa.array([T0 + DAY] * 3, TIMESTAMP)
    floats = pa.array([-1.0, None, 7.0])
    categories = pa.array(["-1", None, "7"]).dictionary_encode()
    coded = events.set_column(0, "user_id", events["user_id"].combine_chunks().dictionary_encode())
    for rows, people in ((numbered, floats), (events, categories), (coded, categories)):
        lists = history_lists(rows, people, asked, columns=["place"], length=1)
        assert lists["place"].to_pylist() == [[1], [], [0]]


def test_nothing_in_gives_nothing_out() -> None:
    assert ask([], [("u", T0)], length=3, cut_off=True) == [[]]
    assert ask([Event("u", T0, T0, "a", 0)], [], length=3, cut_off=True) == []


def test_unusable_calls_are_refused_in_one_line() -> None:
    events = table([Event("u", T0, T0, "a", 0)])
    index = HistoryIndex.of(events)
    user, t = pa.array(["u"]), pa.array([T0], TIMESTAMP)
    with pytest.raises(UsageError, match="at least 1"):
        index.spans(user, t, length=0)
    with pytest.raises(UsageError, match="2 users but 1 times"):
        index.spans(pa.array(["u", "v"]), t, length=1)
    with pytest.raises(DataError, match="times is int64, not a timestamp"):
        index.spans(user, pa.array([1]), length=1)
    with pytest.raises(DataError, match="users are int64, but 'user_id' of the events is string"):
        index.spans(pa.array([1]), t, length=1)
    with pytest.raises(DataError, match="no column 'price'"):
        index.lists(index.spans(user, t, length=1), "price")
    with pytest.raises(DataError, match=r"lack the column\(s\) available_at"):
        HistoryIndex.of(events.drop_columns("available_at"))
    with pytest.raises(DataError, match="'event_timestamp' is string"):
        HistoryIndex.of(events.set_column(1, "event_timestamp", pc.cast(events[1], pa.string())))


def test_two_million_events_answer_half_a_million_queries() -> None:
    """About 2 s and 0.4 GB; the bounds only catch a step that has become quadratic."""
    rng = np.random.default_rng(0)
    events, queries, people = 2_000_000, 500_000, 50_000
    happened = rng.integers(0, 365 * 86_400, events) * 1_000_000
    late = np.where(rng.random(events) < 0.05, rng.integers(0, 30 * 86_400_000_000, events), 0)
    rows = pa.table(
        {
            "user_id": rng.integers(0, people, events),
            "event_timestamp": pa.array(happened).cast(TIMESTAMP),
            "available_at": pa.array(happened + late).cast(TIMESTAMP),
            "event_id": np.arange(events),
        }
    )
    asked = pa.array(rng.integers(0, 400 * 86_400, queries) * 1_000_000).cast(TIMESTAMP)
    began = time.monotonic()
    spans = HistoryIndex.of(rows).spans(
        pa.array(rng.integers(0, people, queries)), asked, length=50
    )
    assert time.monotonic() - began < 60
    assert spans.end.max() <= events + len(spans.copies)
    assert len(spans.copies) < events
