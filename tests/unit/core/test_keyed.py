from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.core.keyed import keyed_bits, keyed_gumbel, keyed_uniform, stream_seed

WORD = 2**64
ALL_ONES = WORD - 1
GAMMA = 0x9E3779B97F4A7C15
MULTIPLIERS = (0x94D049BB133111EB, 0xBF58476D1CE4E5B9)
SHIFTS = (31, 27, 30)

ids = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=40)


def seed_that_draws(bits: int) -> int:
    """The seed whose keyless draw is `bits`: the mixer, run backwards."""
    word = bits
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, 1), strict=True):
        word = unshift(word, shift) * pow(multiplier, -1, WORD) % WORD
    return (word - GAMMA) % WORD


def unshift(word: int, shift: int) -> int:
    undone = word
    for _ in range(64 // shift):
        undone = word ^ (undone >> shift)
    return undone


@pytest.mark.parametrize("bits", [0, 1, 2**11, 2**12 - 1, 2**63, ALL_ONES - 2**11, ALL_ONES])
def test_a_uniform_lies_strictly_inside_zero_and_one_at_the_extreme_bits(bits: int):
    seed = seed_that_draws(bits)
    assert int(keyed_bits(seed)) == bits
    assert 0.0 < float(keyed_uniform(seed)) < 1.0
    assert math.isfinite(float(keyed_gumbel(seed)))


def test_the_extreme_uniforms_are_symmetric_around_one_half():
    lowest = float(keyed_uniform(seed_that_draws(0)))
    highest = float(keyed_uniform(seed_that_draws(ALL_ONES)))
    assert lowest == 2.0**-53
    assert highest == 1.0 - 2.0**-53


def test_bits_are_the_same_on_every_machine():
    assert stream_seed("world", 7) == 11255370076959670677
    assert keyed_bits(7, [0, 1], 3).tolist() == [6875110694074790513, 9310966790160573980]


def test_another_process_draws_the_same():
    code = (
        "from scalr_ray.core.keyed import keyed_bits, stream_seed;"
        "print(stream_seed('a', 1), *keyed_bits(stream_seed('a', 1), [5, 6], 2))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [stream_seed("a", 1), *keyed_bits(stream_seed("a", 1), [5, 6], 2).tolist()]
    assert [int(word) for word in there.stdout.split()] == here


@given(users=ids, slot=st.integers(0, 1000), data=st.data())
def test_a_draw_depends_on_its_keys_and_not_on_order_or_batching(
    users: list[int], slot: int, data: st.DataObject
):
    whole = keyed_uniform(11, users, slot)
    one_by_one = [float(keyed_uniform(11, user, slot)) for user in users]
    assert whole.tolist() == one_by_one
    order = data.draw(st.permutations(range(len(users))))
    shuffled = keyed_uniform(11, [users[place] for place in order], slot)
    assert shuffled.tolist() == [one_by_one[place] for place in order]


def test_keys_broadcast_and_are_not_interchangeable():
    grid = keyed_bits(1, np.arange(50)[:, None], np.arange(40)[None, :])
    assert grid.shape == (50, 40)
    assert len(np.unique(grid)) == grid.size


def test_streams_differ_by_every_part_of_their_name():
    names = [("a",), ("a", ""), ("", "a"), ("a", 1), ("a1",), (1, "a")]
    assert len({stream_seed(*name) for name in names}) == len(names)


def test_uniforms_are_uniform_and_uncorrelated_between_neighbouring_keys():
    draws = np.asarray([keyed_uniform(3, np.arange(20_000), slot) for slot in range(5)])
    counts = np.histogram(draws, bins=100, range=(0, 1))[0]
    expected = draws.size / 100
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 55 < chi_square < 155  # 99 degrees of freedom: mean 99, standard deviation 14
    assert abs(np.corrcoef(draws) - np.eye(5)).max() < 0.03
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.02


def test_gumbel_draws_have_the_mean_and_spread_of_a_standard_gumbel():
    draws = keyed_gumbel(5, np.arange(100_000))
    assert draws.mean() == pytest.approx(np.euler_gamma, abs=0.02)
    assert draws.var() == pytest.approx(np.pi**2 / 6, abs=0.03)
