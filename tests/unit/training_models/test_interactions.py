"""From an Arrow table to codes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import TIMESTAMP
from training.models import Interactions, PopularityConfig
from training.models.popularity import log_popularity

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.int64()),
        ("event_timestamp", TIMESTAMP),
        ("sample_weight", pa.float64()),
        ("is_synthetic", pa.bool_()),
    ]
)


def table(*rows):
    """Rows of (user, item, minutes after noon, weight, is synthetic)."""
    records = [
        (user, item, NOON + timedelta(minutes=minute), weight, synthetic)
        for user, item, minute, weight, synthetic in rows
    ]
    arrays = [
        pa.array([record[place] for record in records], type=field.type)
        for place, field in enumerate(SCHEMA)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def spread_over_days(given_rows):
    """Days after noon in the place of minutes."""
    days = [NOON + timedelta(days=row[2]) for row in given_rows]
    return table(*given_rows).set_column(
        2, "event_timestamp", pa.array(days, type=SCHEMA.field(2).type)
    )


rows = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.integers(1, 4),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
)


def decoded(data):
    minutes = (data.timestamps - to_micros(NOON)) // 60_000_000
    return list(
        zip(
            data.users.take(pa.array(data.rows)).to_pylist(),
            data.items.take(pa.array(data.cols)).to_pylist(),
            minutes.tolist(),
            data.weights.tolist(),
            data.is_synthetic.tolist(),
            strict=True,
        )
    )


def oracle(given_rows):
    kept, seen = [], set()
    for row in sorted(given_rows, key=lambda row: (row[2], -row[3])):
        user, item, _, weight, synthetic = row
        if weight == 0 or (not synthetic and (user, item) in seen):
            continue
        if not synthetic:
            seen.add((user, item))
        kept.append(row)
    return kept


@settings(deadline=None)
@given(st.lists(rows, max_size=15))
def test_the_first_real_row_of_a_pair_and_all_synthetic_rows_are_kept(given_rows):
    assert sorted(decoded(Interactions.from_arrow(table(*given_rows)))) == sorted(
        oracle(given_rows)
    )


@settings(deadline=None)
@given(st.lists(rows, min_size=1, max_size=15), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(given_rows, random):
    shuffled = random.sample(given_rows, len(given_rows))
    first, second = (Interactions.from_arrow(table(*order)) for order in (given_rows, shuffled))
    assert first.users.equals(second.users)
    assert first.items.equals(second.items)
    assert decoded(first) == decoded(second)


def test_vocabularies_are_sorted():
    data = Interactions.from_arrow(table(("b", 9, 0, 1.0, False), ("a", 10, 1, 1.0, False)))
    assert data.users.to_pylist() == ["a", "b"]
    assert data.items.to_pylist() == [9, 10]
    assert data.shape == (2, 2)


def test_a_given_vocabulary_keeps_its_order_and_its_strangers():
    data = Interactions.from_arrow(
        table(("b", 9, 0, 1.0, False)), users=["z", "b", "a"], items=pa.array([9, 3])
    )
    assert data.users.to_pylist() == ["z", "b", "a"]
    assert data.rows.tolist() == [1]
    assert data.matrix().toarray().tolist() == [[0, 0], [1, 0], [0, 0]]


def test_repeated_synthetic_rows_add_up():
    data = Interactions.from_arrow(table(*[("a", 1, minute, 0.25, True) for minute in range(3)]))
    assert data.matrix().toarray().tolist() == [[0.75]]


def test_an_id_outside_its_vocabulary_is_named():
    with pytest.raises(DataError, match="user_id b"):
        Interactions.from_arrow(table(("b", 9, 0, 1.0, False)), users=["a"])


def test_a_vocabulary_with_an_id_twice_is_refused():
    with pytest.raises(DataError, match="twice"):
        Interactions.from_arrow(table(("a", 9, 0, 1.0, False)), users=["a", "a"])


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_means_nothing_is_refused(weight):
    with pytest.raises(DataError, match="sample weight"):
        Interactions.from_arrow(table(("a", 1, 0, 1.0, False), ("a", 2, 0, weight, True)))


@pytest.mark.parametrize("name", SCHEMA.names)
def test_a_missing_column_is_named(name):
    with pytest.raises(DataError, match=name):
        Interactions.from_arrow(table(("a", 1, 0, 1.0, False)).drop_columns([name]))


@pytest.mark.parametrize("name", SCHEMA.names)
def test_a_null_is_refused(name):
    events = table(("a", 1, 0, 1.0, False))
    place = events.column_names.index(name)
    events = events.set_column(place, name, pa.nulls(1, events[name].type))
    with pytest.raises(DataError, match=name):
        Interactions.from_arrow(events)


@settings(deadline=None)
@given(st.lists(rows, min_size=1, max_size=15), st.integers(0, 6), st.integers(1, 3))
def test_popularity_equals_its_definition(given_rows, minute, window_days):
    data = Interactions.from_arrow(spread_over_days(given_rows), items=[1, 2, 3, 4])
    as_of = NOON + timedelta(days=minute)
    mass = np.full(4, 0.0)
    for code, weight, when, synthetic in zip(
        data.cols, data.weights, data.timestamps, data.is_synthetic, strict=True
    ):
        if synthetic or when >= to_micros(as_of):
            continue
        recent = when >= to_micros(as_of - timedelta(days=window_days))
        mass[code] += weight * (recent + 0.01)
    mass = np.maximum(mass, 0.005)
    config = PopularityConfig(as_of=as_of, window_days=window_days)
    np.testing.assert_allclose(log_popularity(data, config), np.log(mass / mass.sum()))


@settings(deadline=None)
@given(st.lists(rows, min_size=1, max_size=15), st.integers(0, 6))
def test_mixed_popularity_equals_its_definition(given_rows, day):
    data = Interactions.from_arrow(spread_over_days(given_rows), items=[1, 2, 3, 4])
    as_of = NOON + timedelta(days=day)
    masses = []
    for days in (1, 3, None):
        mass = np.zeros(4)
        for code, weight, when, synthetic in zip(
            data.cols, data.weights, data.timestamps, data.is_synthetic, strict=True
        ):
            old = days is not None and when < to_micros(as_of - timedelta(days=days))
            if not synthetic and when < to_micros(as_of) and not old:
                mass[code] += weight
        masses.append(mass)
    rows_ever = masses[2].sum()
    ever = masses[2] / max(rows_ever, 0.5)
    longer = masses[1] / masses[1].sum() if masses[1].any() else ever
    recent = masses[0] / masses[0].sum() if masses[0].any() else longer
    config = PopularityConfig(as_of=as_of, mix=((1, 0.6), (3, 0.3), (None, 0.1)))
    wanted = 0.6 * recent + 0.3 * longer + 0.1 * ever
    wanted = np.maximum(wanted, 0.1 * 0.5 / max(rows_ever, 0.5))
    wanted /= wanted.sum()
    np.testing.assert_allclose(log_popularity(data, config), np.log(wanted))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"as_of": NOON, "mix": ((7, 1.0),)}, "mix"),
        ({"as_of": NOON, "mix": ((7, 0.5), (3, 0.2), (None, 0.3))}, "mix"),
        ({"as_of": NOON, "mix": ((7, -0.5), (None, 1.5))}, "mix"),
        ({"as_of": NOON, "mix": ((7, 1.0), (None, 0.0))}, "mix"),
        ({"as_of": NOON.replace(tzinfo=None)}, "time zone"),
        ({"as_of": NOON, "window_days": 0}, "window_days"),
        ({"as_of": NOON, "background": 0.0}, "background"),
    ],
)
def test_settings_without_meaning_are_refused(arguments, word):
    with pytest.raises(UsageError, match=word):
        PopularityConfig(**arguments)
