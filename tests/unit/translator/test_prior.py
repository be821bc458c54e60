from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.translator import PriorMix
from scalr_ray.translator.prior import DAY_MICROS, prior_mix_shares

ITEMS = 4
CUT = 50 * DAY_MICROS
# Whole days and their neighbours by a microsecond: the edges of a window are where it goes wrong.
moments = st.builds(
    lambda day, shift: day * DAY_MICROS + shift, st.integers(0, 60), st.integers(-1, 1)
)
events = st.lists(st.tuples(st.integers(0, ITEMS - 1), moments), max_size=25)


def popularity(rows, *, window_days=10, background=0.01, items=ITEMS):
    codes = np.array([code for code, _ in rows], dtype=np.int64)
    times = np.array([time for _, time in rows], dtype=np.int64)
    mix = PriorMix.recent(window_days=window_days, background=background)
    return prior_mix_shares(codes, times + 1, items=items, as_of_micros=CUT, mix=mix)


@given(events, st.integers(1, 60), st.sampled_from([0.001, 0.01, 0.5, 1.0]))
def test_prior_against_a_plain_count(rows, window_days, background):
    mass = [0.0] * ITEMS
    for code, time in rows:
        if time < CUT:
            mass[code] += background
            if time >= CUT - window_days * DAY_MICROS:
                mass[code] += 1.0
    expected = [value / sum(mass) if sum(mass) else 0.0 for value in mass]
    got = popularity(rows, window_days=window_days, background=background)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@given(events, st.integers(0, 2**32 - 1))
def test_prior_does_not_depend_on_the_order_of_events(rows, seed):
    shuffled = [rows[at] for at in np.random.default_rng(seed).permutation(len(rows))]
    assert popularity(rows).tobytes() == popularity(shuffled).tobytes()


@pytest.mark.parametrize(
    ("time", "mass"),
    [
        (CUT, 0.0),
        (CUT - 1, 1.01),
        (CUT - 10 * DAY_MICROS, 1.01),
        (CUT - 10 * DAY_MICROS - 1, 0.01),
    ],
)
def test_window_includes_its_start_and_excludes_the_cut(time, mass):
    yardstick = [(1, CUT - 1)]  # of mass 1.01
    share = popularity([(0, time), *yardstick])[0]
    assert share == pytest.approx(mass / (mass + 1.01))


def test_without_events_there_is_no_prior():
    assert popularity([]).tolist() == [0.0] * ITEMS


@given(events.filter(lambda rows: any(time < CUT for _, time in rows)))
def test_items_without_events_do_not_move_the_last_bit_of_the_others(rows):
    wide = popularity([(code * 3, time) for code, time in rows], items=ITEMS * 3)
    assert wide[::3].tobytes() == popularity(rows).tobytes()
    assert wide.sum() == pytest.approx(1.0, abs=1e-12)
