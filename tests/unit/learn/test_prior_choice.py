"""How far the prior looks back, chosen on a window."""

from __future__ import annotations

import numpy as np
import pytest
from small_worlds import day, event_table

from scalr_ray.core.errors import DataError
from scalr_ray.learn import TrainingEvents, fit_prior

ANCHOR = [("u0", "s", 0)]


def fads(days: int, length: int, seed: int = 0) -> list[tuple]:
    """Each day twenty users take an item of the fad of the moment; a fad lasts so many days."""
    draw = np.random.default_rng(seed)
    return [
        (f"u{at}-{n}", f"i{(at // length) % 9}-{draw.integers(3)}", at + n / 30)
        for at in range(days)
        for n in range(20)
    ]


def coded(target: list[tuple]) -> TrainingEvents:
    source = event_table(ANCHOR, "source")
    return TrainingEvents.of(source, event_table([("u0", "i0-0", 0), *target], "target"))


def test_short_fads_make_it_look_back_for_as_long_as_they_last():
    prior = fit_prior(coded(fads(300, 5)), day(200), day(300))
    assert prior.weights[0] > 0.9


def test_lasting_taste_makes_it_look_back_for_long():
    draw = np.random.default_rng(0)
    taste = [(f"u{at}-{n}", f"i{draw.integers(300)}", at) for at in range(300) for n in range(5)]
    prior = fit_prior(coded(taste), day(200), day(300))
    assert sum(prior.weights[:3]) < 0.2


def test_what_is_not_visible_at_the_end_moves_no_bit():
    target = fads(120, 10)
    plain = fit_prior(coded(target), day(80), day(100))
    late = [("v", "i0-1", 90, 101), ("w", "i1-1", 3, 500)]
    later = [(user, item, at + 100) for user, item, at in fads(40, 7, seed=1)]
    same = fit_prior(coded([*target, *later, *late]), day(80), day(100))
    assert same == plain


def test_a_window_of_new_items_alone_is_refused():
    target = [(f"u{n}", f"new{n}", 50 + n / 10) for n in range(9)]
    with pytest.raises(DataError, match="seen before"):
        fit_prior(coded(target), day(40), day(60))
