from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.translator.prior import (
    DAY_MICROS,
    PopularityIndex,
    PriorMix,
    prior_mix_shares,
    window_shares,
)
from scalr_ray.translator.prior_mix import MIN_ALL_TIME

ITEMS = 4
MIXES = [
    PriorMix(windows_days=(None,), weights=(1.0,)),
    PriorMix(windows_days=(2, 10, None), weights=(0.5, 0.3, 0.2)),
    PriorMix(windows_days=(3, None), weights=(1.0 - MIN_ALL_TIME, MIN_ALL_TIME)),
    PriorMix.recent(window_days=10, background=0.01),
]
# Whole days and their neighbours by a microsecond: the edges of a window are where it goes wrong.
moments = st.builds(
    lambda day, shift: day * DAY_MICROS + shift, st.integers(0, 16), st.integers(-2, 2)
)
delays = st.sampled_from([-DAY_MICROS, 0, 1, 2, DAY_MICROS, 5 * DAY_MICROS])
event = st.builds(
    lambda item, time, delay: (item, time, time + delay),
    st.integers(0, ITEMS - 1),
    moments,
    delays,
)
events = st.lists(event, max_size=25)


def columns(rows):
    return tuple(np.array([row[at] for row in rows], dtype=np.int64) for at in range(3))


def index_of(rows, mix, items=ITEMS):
    return PopularityIndex.of(*columns(rows), items=items, mix=mix)


def visible(rows, moment):
    """The (item, appearance) pairs that are visible: before the moment, and known by then."""
    return [
        (item, max(time + 1, known))
        for item, time, known in rows
        if time < moment and known <= moment
    ]


def oracle(rows, moment, mix):
    """The prior of each item by its definition, in plain Python."""
    seen = visible(rows, moment)
    inside = [
        [item for item, appears in seen if days is None or appears > moment - days * DAY_MICROS]
        for days in mix.windows_days
    ]
    if mix.per_event:
        mass = [
            sum(w * items.count(i) for w, items in zip(mix.weights, inside, strict=True))
            for i in range(ITEMS)
        ]
        return [value / sum(mass) if sum(mass) else 0.0 for value in mass]
    prior, carried = [0.0] * ITEMS, 0.0
    for weight, items in zip(mix.weights, inside, strict=True):
        carried += weight
        if items:
            prior = [p + carried * items.count(i) / len(items) for i, p in enumerate(prior)]
            carried = 0.0
    return prior


@given(events, st.lists(moments, min_size=1, max_size=6), st.sampled_from(MIXES))
def test_index_against_a_plain_count(rows, times, mix):
    got = index_of(rows, mix).log_prior(np.arange(ITEMS), np.array(times)[:, None])
    assert got.shape == (len(times), ITEMS)
    assert got.dtype == np.float32
    expected = np.array([oracle(rows, moment, mix) for moment in times])
    np.testing.assert_allclose(np.exp(got.astype(float)), expected, rtol=1e-5)
    assert (np.isneginf(got) == (expected == 0)).all()


@given(events, moments, st.sampled_from(MIXES))
def test_cut_and_index_agree_on_the_whole_catalogue(rows, moment, mix):
    codes, times, known = columns(rows)
    appears = np.maximum(times + 1, known)
    shares = prior_mix_shares(codes, appears, items=ITEMS, as_of_micros=moment, mix=mix)
    with np.errstate(divide="ignore"):
        expected = np.log(shares).astype(np.float32)
    assert index_of(rows, mix).log_prior_all(moment).tobytes() == expected.tobytes()
    assert shares.sum() == pytest.approx(1.0 if visible(rows, moment) else 0.0)


@given(events, events, moments, st.sampled_from(MIXES))
def test_events_at_or_after_the_moment_change_nothing_bit_for_bit(rows, others, moment, mix):
    later = [(item, max(time, moment), known) for item, time, known in others]
    late = [(item, time, max(known, moment + 1)) for item, time, known in others]
    before = index_of(rows, mix).log_prior_all(moment)
    assert index_of(rows + later + late, mix).log_prior_all(moment).tobytes() == before.tobytes()


@given(events, st.lists(st.tuples(st.integers(-2, ITEMS + 2), moments)), st.sampled_from(MIXES))
def test_aligned_pairs_agree_with_the_catalogue_and_unknown_items_were_never_seen(rows, pairs, mix):
    index = index_of(rows, mix)
    items = np.array([item for item, _ in pairs], dtype=np.int64)
    times = np.array([moment for _, moment in pairs], dtype=np.int64)
    expected = [
        index.log_prior_all(moment)[item] if 0 <= item < ITEMS else -np.inf
        for item, moment in pairs
    ]
    assert index.log_prior(items, times).tolist() == expected


@given(events, moments, st.integers(0, 2**32 - 1))
def test_order_of_events_does_not_matter(rows, moment, seed):
    shuffled = [rows[at] for at in np.random.default_rng(seed).permutation(len(rows))]
    one, other = (index_of(some, MIXES[1]).log_prior_all(moment) for some in (rows, shuffled))
    assert one.tobytes() == other.tobytes()


@given(events, moments)
def test_shares_of_the_windows_are_those_of_the_index(rows, moment):
    codes, times, known = columns(rows)
    windows = (2, 10, None)
    got = window_shares(
        codes,
        np.maximum(times + 1, known),
        items=ITEMS,
        as_of_micros=moment,
        windows_days=windows,
    )
    index = index_of(rows, MIXES[0])
    assert got.tobytes() == index.window_shares(np.arange(ITEMS), moment, windows).tobytes()
    mixed = index_of(rows, MIXES[1]).log_prior_all(moment)
    np.testing.assert_allclose(np.array(MIXES[1].weights) @ got, np.exp(mixed), rtol=1e-5)


def test_window_is_over_appearances_so_that_late_news_is_recent_news():
    late = (0, 0, 9 * DAY_MICROS)
    index = index_of([late, (1, 1, 1)], PriorMix.recent(window_days=1, background=0.01))
    assert np.exp(index.log_prior_all(9 * DAY_MICROS))[0] == pytest.approx(1.01 / 1.02)


def test_memory_is_that_of_the_events_whatever_the_catalogue():
    index = index_of([(0, 1, 1), (2**40, 5, 5)], MIXES[1], items=2**41)
    assert index.log_prior(np.array([0, 2**40, 7]), 6).tolist() == pytest.approx(
        [np.log(0.5), np.log(0.5), -np.inf]
    )


@pytest.mark.parametrize("windows", [(), (7,), (None, 7), (7, 7, None), (0, None), (30, 7, None)])
def test_windows_ascend_to_all_time(windows):
    with pytest.raises(ValueError, match="all time"):
        PriorMix(windows_days=windows, weights=(0.5,) * len(windows))


@pytest.mark.parametrize(
    ("weights", "per_event"),
    [
        ((1.0,), False),
        ((0.5, 0.4), False),
        ((1.0, 0.0), False),
        ((-0.5, 1.5), False),
        ((1.0, 0.0), True),
    ],
)
def test_weights_fit_the_windows(weights, per_event):
    with pytest.raises(ValueError, match="weight"):
        PriorMix(windows_days=(7, None), weights=weights, per_event=per_event)
