from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neural_worlds import Event, coded, day, event_table

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import DataError
from scalr_ray.learn.events import TrainingEvents
from scalr_ray.learn.neural.examples import training_queries, training_rows

USERS = 3
EVENTS = st.lists(
    st.tuples(
        st.integers(0, USERS - 1),
        st.integers(0, 5),
        st.integers(0, 12).map(float),
        st.sampled_from([0.0, 0.0, 0.5, 1.0, 4.0]),
    ),
    max_size=25,
)
# Somebody has to be in both domains.
ANCHOR: Event = (0, 0, 0.0, 0.0)


def visible(events: list[Event], user: int, at: float) -> list[Event]:
    """Brute force: the first of each item to appear by the time, in order of appearance."""
    tick = 1e-9
    known = [
        (max(when + tick, when + late), when, item)
        for who, item, when, late in events
        if who == user and when < at and when + late <= at
    ]
    seen: dict[int, tuple[float, float, int]] = {}
    for appeared, when, item in sorted(known):
        seen.setdefault(item, (appeared, when, item))
    return sorted(seen.values())


def text(rows: pa.Table) -> str:
    return str(rows.to_pydict())  # NaN is NaN in text


def unrolled(
    events: TrainingEvents, rows: pa.Table
) -> list[tuple[int, int, int, list[tuple[int, int, int]]]]:
    """Per query: user, time, item, and the (side, time, item id) that its prefix holds."""
    sources = [int(key.split("\x1f")[1]) for key in events.source_items.ids.to_pylist()]
    targets = events.target_items.ids.to_pylist()
    users = events.users.ids.to_pylist()
    out = []
    for row in rows.to_pylist():
        tokens = [
            (side, time, (targets if side else sources)[item])
            for side, time, item in zip(
                row["token_side"], row["token_time"], row["token_item"], strict=True
            )
        ]
        for item, time, prefix in zip(
            row["query_item"], row["query_time"], row["query_prefix"], strict=True
        ):
            assert 0 <= prefix <= len(tokens)
            out.append((users[row["user"]], time, targets[item], tokens[:prefix]))
    return out


def assert_last(
    tokens: list[tuple[int, int, int]], seen: list[tuple[float, int, int, int]]
) -> None:
    """The tokens are the last of those seen, in order of appearance; ties may stand either way."""
    when = {(side, time, item): appeared for appeared, side, time, item in seen}
    assert len(set(tokens)) == len(tokens)
    moments = [when[token] for token in tokens]
    assert moments == sorted(when.values())[len(seen) - len(tokens) :]


@settings(max_examples=80, deadline=None)
@given(source=EVENTS, target=EVENTS, length=st.sampled_from([2, 4, 64]))
def test_a_query_sees_what_brute_force_sees_and_nothing_else(source, target, length):
    source, target = [ANCHOR, *source], [ANCHOR, *target]
    events = coded(source, target)
    rows = training_rows(events, start=day(0), end=day(30), length=length)
    firsts = {}
    for user, item, at, _ in sorted(target, key=lambda event: event[2]):
        firsts.setdefault((user, item), at)
    asked = unrolled(events, rows)
    assert sorted((u, t, i) for u, t, i, _ in asked) == sorted(
        (user, to_micros(day(at)), item) for (user, item), at in firsts.items()
    )
    for user, _, item, tokens in asked:
        at = firsts[(user, item)]
        seen = [
            (appeared, side, to_micros(day(when)), i)
            for side, log in enumerate((source, target))
            for appeared, when, i in visible(log, user, at)
        ]
        assert min(len(seen), length - length // 2) <= len(tokens) <= min(len(seen), length)
        assert_last(tokens, seen)


@settings(max_examples=30, deadline=None)
@given(source=EVENTS, target=EVENTS, seed=st.integers(0, 9))
def test_the_order_of_the_input_does_not_matter(source, target, seed):
    source, target = sorted({ANCHOR, *source}), sorted({ANCHOR, *target})
    shuffled = np.random.default_rng(seed).permutation(len(source))
    one = training_rows(coded(source, target), start=day(0), end=day(30), length=4)
    other = training_rows(
        coded([source[at] for at in shuffled], target[::-1]), start=day(0), end=day(30), length=4
    )
    assert text(one) == text(other)


def test_rows_take_memory_in_proportion_to_events_not_to_examples():
    rng = np.random.default_rng(0)
    many = [(0, item, float(at), 0.0) for item, at in enumerate(np.sort(rng.random(600)) * 100)]
    events = coded(many, many)
    rows = training_rows(events, start=day(0), end=day(101), length=32)
    tokens = sum(len(row) for row in rows["token_item"].to_pylist())
    assert sum(len(row) for row in rows["query_item"].to_pylist()) == 600
    assert tokens <= 2 * 1200 + 32


def test_asked_at_one_time_all_queries_of_a_user_see_the_same():
    source: list[Event] = [(0, 1, 1.0, 0.0), (0, 2, 9.0, 0.0)]
    target: list[Event] = [(0, 5, 2.0, 0.0), (0, 6, 8.0, 0.0), (0, 7, 12.0, 0.0)]
    rows = training_rows(
        coded(source, target), start=day(5), end=day(20), length=8, as_of=day(5)
    ).to_pylist()
    assert len(rows) == 1
    assert rows[0]["query_time"] == [to_micros(day(5))] * 2
    assert rows[0]["query_prefix"] == [2, 2]
    assert rows[0]["token_time"] == [to_micros(day(1)), to_micros(day(2))]


def test_user_features_follow_their_queries():
    target: list[Event] = [(1, 5, 2.0, 0.0), (0, 6, 8.0, 0.0), (0, 7, 4.0, 0.0)]
    events = coded([(0, 1, 1.0, 0.0)], target)
    queries = training_queries(events, start=day(0), end=day(20))
    features = pa.table({"when": queries["time"], "tags": [["a"], [], None]})
    rows = training_rows(events, start=day(0), end=day(20), length=8, features=features)
    for row in rows.to_pylist():
        assert row["feature.when"] == row["query_time"]
    assert rows["feature.tags"].to_pylist() == [[["a"], []], [None]]


def test_nothing_to_learn_from_is_named():
    events = coded([(0, 1, 1.0, 0.0)], [(0, 1, 2.0, 0.0)])
    with pytest.raises(DataError, match="no target events from 2024-01-11"):
        training_rows(events, start=day(10), end=day(20), length=8)


def test_features_of_other_queries_are_refused():
    events = coded([(0, 1, 1.0, 0.0)], [(0, 1, 2.0, 0.0)])
    with pytest.raises(DataError, match="2 rows of user features for 1 queries"):
        training_rows(
            events, start=day(0), end=day(9), length=8, features=pa.table({"age": [1, 2]})
        )


def test_an_event_after_the_end_changes_no_row():
    source, target = [(0, 1, 1.0, 0.0)], [(0, 1, 2.0, 0.0)]
    plain = training_rows(coded(source, target), start=day(0), end=day(9), length=8)
    late = [(0, 1, 9.0, 0.0), (0, 1, 3.0, 7.0)]
    assert event_table("source", late).num_rows == 2
    more = training_rows(coded([*source, *late], target), start=day(0), end=day(9), length=8)
    assert text(plain) == text(more)
