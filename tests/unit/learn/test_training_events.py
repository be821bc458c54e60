from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import day, event_table

from scalr_ray.core.clock import from_micros, to_micros
from scalr_ray.core.errors import DataError
from scalr_ray.learn import TrainingEvents

MOMENTS = st.integers(0, 6)
# (user, item, happened, known): few of each, so that repeats and ties are common.
row = st.tuples(
    st.sampled_from(["u1", "u2", "u3"]), st.sampled_from(["a", "b"]), MOMENTS, MOMENTS
).map(lambda r: (*r[:3], max(r[2], r[3])))
rows = st.lists(row, max_size=14)
ANCHOR = [("u0", "a", 0)]  # somebody in both domains, so that every world is valid


def code(source, target):
    return TrainingEvents.of(
        event_table([*ANCHOR, *source], "books"), event_table([*ANCHOR, *target], "music")
    )


def decoded(events, side):
    """Set of (user, item, time, known from, event id), as a reader sees it."""
    part = getattr(events, side)
    items = (events.source_items if side == "source" else events.target_items).ids.to_pylist()
    users = events.users.ids.to_pylist()
    return [
        (users[user], items[item].split("\x1f")[-1], time, known, event_id)
        for user, item, time, known, event_id in zip(
            part.users,
            part.items,
            part.times,
            part.known_from,
            part.event_ids.to_pylist(),
            strict=True,
        )
    ]


def first_visible(rows, prefix, cut):
    """Of what was visible as of `cut`, the first event of each pair, in order of time and id."""
    visible = [
        (user, item, to_micros(day(time)), to_micros(day(known)), f"{prefix}-{at:05d}")
        for at, (user, item, time, known) in enumerate([(*ANCHOR[0], 0), *rows])
        if time < cut and known <= cut
    ]
    firsts = {}
    for event in sorted(visible, key=lambda event: (event[2], event[4])):
        firsts.setdefault(event[:2], event)
    return list(firsts.values())


@given(rows, rows, MOMENTS)
def test_as_of_is_the_first_visible_event_of_each_pair(source, target, cut):
    events = code(source, target).as_of(day(cut))
    assert decoded(events, "source") == first_visible(source, "books", cut)
    assert decoded(events, "target") == first_visible(target, "music", cut)


@given(rows, MOMENTS, MOMENTS)
def test_as_of_after_a_later_as_of_is_the_earlier_one(source, one, other):
    events = code(source, [])
    twice = events.as_of(day(max(one, other))).as_of(day(min(one, other)))
    assert decoded(twice, "source") == decoded(events.as_of(day(min(one, other))), "source")


@given(rows, rows)
def test_uncut_events_are_the_first_of_each_pair(source, target):
    events = code(source, target)
    assert decoded(events, "source") == first_visible(source, "books", cut=99)
    assert decoded(events, "target") == first_visible(target, "music", cut=99)


@given(rows, rows, st.randoms(use_true_random=False))
def test_the_order_of_input_rows_never_matters(source, target, random):
    def shuffled(table):
        order = list(range(table.num_rows))
        random.shuffle(order)
        return table.take(pa.array(order))

    tables = event_table([*ANCHOR, *source], "books"), event_table([*ANCHOR, *target], "music")
    one, other = TrainingEvents.of(*tables), TrainingEvents.of(*map(shuffled, tables))
    for name in ("users", "source_items", "target_items"):
        assert getattr(one, name).ids.equals(getattr(other, name).ids)
    for side in ("source", "target", "source_log", "target_log"):
        ours, theirs = getattr(one, side), getattr(other, side)
        assert ours.event_ids.equals(theirs.event_ids)
        for name in ("users", "items", "times", "known_from"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))


@given(rows, rows)
def test_incidence_says_who_has_what(source, target):
    events = code(source, target)
    have = {(user, item) for user, item, *_ in decoded(events, "source")}
    history = events.history().toarray()
    for at, user in enumerate(events.users.ids.to_pylist()):
        for code_of, key in enumerate(events.source_items.ids.to_pylist()):
            assert history[at, code_of] == ((user, key.split("\x1f")[1]) in have)
    assert events.own().sum() == len(events.target)


@given(rows, MOMENTS, MOMENTS)
def test_between_takes_its_start_and_leaves_its_end(target, one, other):
    start, end = min(one, other), max(one, other)
    events = code([], target)
    between = events.target.between(day(start), day(end))
    expected = [
        e for e in decoded(events, "target") if day(start) <= from_micros(int(e[2])) < day(end)
    ]
    assert between.event_ids.to_pylist() == [event[-1] for event in expected]


@given(rows, rows, st.sets(st.sampled_from(["u0", "u1", "u2", "u3"])))
def test_hidden_users_lose_their_target_events_and_nothing_else(source, target, hidden):
    events = code(source, target)
    mask = np.array([user in hidden for user in events.users.ids.to_pylist()])
    stripped = events.without_target_of(mask)
    assert decoded(stripped, "source") == decoded(events, "source")
    assert decoded(stripped, "target") == [
        event for event in decoded(events, "target") if event[0] not in hidden
    ]


@given(rows, rows, MOMENTS)
def test_compact_keeps_the_events_and_drops_unused_ids(source, target, cut):
    events = code(source, target).as_of(day(cut))
    compact = events.compact()
    for side in ("source", "target"):
        assert decoded(compact, side) == decoded(events, side)
    used = {event[0] for side in ("source", "target") for event in decoded(events, side)}
    assert compact.users.ids.to_pylist() == sorted(used)
    assert len(compact.target_items) == len({event[1] for event in decoded(events, "target")})
    assert len(compact.source_items) == len({event[1] for event in decoded(events, "source")})


def test_a_late_known_earlier_event_hides_nothing_from_those_who_ask_before():
    events = code([], [("u1", "b", 1, 6), ("u1", "b", 2, 2)])
    assert "music-00002" in events.as_of(day(4)).target.event_ids.to_pylist()
    assert "music-00001" in events.as_of(day(6)).target.event_ids.to_pylist()
    assert len(events.as_of(day(6)).target) == 2


def test_equal_times_are_broken_by_event_id():
    tables = event_table([("u1", "a", 1), ("u1", "a", 1)], "books"), event_table(ANCHOR, "music")
    flipped = tables[0].take(pa.array([1, 0]))
    anchor = event_table(ANCHOR, "books", prefix="anchor")
    for source in (tables[0], flipped):
        events = TrainingEvents.of(pa.concat_tables([anchor, source]), tables[1])
        assert events.source.event_ids.to_pylist() == ["anchor-00000", "books-00000"]


@pytest.mark.parametrize("empty", ["source", "target"])
def test_an_empty_domain_is_refused_by_name(empty):
    tables = {"source": event_table(ANCHOR, "books"), "target": event_table(ANCHOR, "music")}
    tables[empty] = tables[empty].slice(0, 0)
    with pytest.raises(DataError, match=f"no {empty} events") as caught:
        TrainingEvents.of(**tables)
    assert "\n" not in str(caught.value)


def test_domains_without_a_common_user_are_refused():
    with pytest.raises(DataError, match="both domains") as caught:
        TrainingEvents.of(
            event_table([("u1", "a", 1)], "books"), event_table([("u2", "a", 1)], "music")
        )
    assert "\n" not in str(caught.value)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 9), st.integers(0, 9)))
)
def test_the_first_to_appear_is_what_anybody_finds_at_any_time(drawn):
    rows = [
        (f"u{user}", f"i{item}", happened, max(happened, known))
        for user, item, happened, known in [(0, 0, 0, 0), *drawn]
    ]
    log = TrainingEvents.of(event_table(rows, "source"), event_table(rows, "target")).target_log
    kept = log.first_to_appear()
    for moment in range(12):
        found = kept.as_of(day(moment))
        pairs = list(zip(found.users.tolist(), found.items.tolist(), strict=True))
        seen = log.as_of(day(moment))
        assert sorted(pairs) == sorted(
            set(zip(seen.users.tolist(), seen.items.tolist(), strict=True))
        )
