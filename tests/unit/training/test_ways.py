"""Mixed in or folded in: which is named, by which intervals, and in what words."""

from __future__ import annotations

import math

import pytest

from training.lift import Interval
from training.ways import Way, better_way

BETTER = Interval(estimate=0.2, low=0.1, high=0.3)
WORSE = Interval(estimate=-0.2, low=-0.3, high=-0.1)
ALIKE = Interval(estimate=0.01, low=-0.04, high=0.05)
WIDE = Interval(estimate=0.1, low=-0.3, high=0.6)
UNDEFINED = Interval(estimate=math.nan, low=math.nan, high=math.nan)
MANY = {"all": 1000, "hidden": 500, "warm": 500}


def lifts(every, hidden=ALIKE, warm=ALIKE):
    found = {"all": every, "hidden": hidden, "warm": warm}
    return {name: {"recall_at_5": WIDE, "ndcg_at_5": lift} for name, lift in found.items()}


NEITHER = lifts(ALIKE)


def way_of(every, hidden=ALIKE, warm=ALIKE, users=MANY, folded=NEITHER, rows=NEITHER):
    measured = lifts(every, hidden, warm)
    return better_way(measured, folded_over_real=folded, rows_over_real=rows, users=users)


@pytest.mark.parametrize(
    ("segments", "way"),
    [
        ((BETTER, ALIKE, ALIKE), Way.FOLD_IN),
        ((ALIKE, ALIKE, BETTER), Way.FOLD_IN),
        ((WIDE, BETTER, ALIKE), Way.FOLD_IN),
        ((WORSE, ALIKE, ALIKE), Way.ROWS),
        ((ALIKE, WORSE, ALIKE), Way.ROWS),
        ((ALIKE, WORSE, BETTER), Way.DEPENDS),
        ((BETTER, BETTER, WORSE), Way.DEPENDS),
        ((ALIKE, ALIKE, ALIKE), Way.NO_DIFFERENCE),
        ((WIDE, ALIKE, ALIKE), Way.CANNOT_TELL),
        ((UNDEFINED, UNDEFINED, UNDEFINED), Way.CANNOT_TELL),
    ],
)
def test_a_way_is_better_where_its_interval_lies_on_its_side(segments, way):
    assert way_of(*segments)[0] is way


def test_the_sentence_names_who_and_by_how_much():
    _, sentence = way_of(ALIKE, hidden=WORSE, warm=BETTER)
    assert sentence == (
        "Folding in is better for warm users +20 % [+10 %, +30 %]; mixing in is better for users "
        "without target history -20 % [-30 %, -10 %] (NDCG, folded in over mixed in)."
    )


def test_the_lesser_harm_is_called_one():
    both = lifts(ALIKE, WORSE)
    _, sentence = way_of(ALIKE, hidden=WORSE, folded=both, rows=both)
    assert sentence == (
        "Mixing in is better for users without target history -20 % [-30 %, -10 %], who lose by it "
        "too, -20 % [-30 %, -10 %] over real events alone (NDCG, folded in over mixed in)."
    )
    # What the other way costs is not what this one does.
    assert "lose" not in way_of(ALIKE, hidden=WORSE, folded=both)[1]
    assert "lose" not in way_of(ALIKE, hidden=BETTER, rows=both)[1]
    assert "lose" in way_of(ALIKE, hidden=BETTER, folded=both)[1]


@pytest.mark.parametrize("every", [ALIKE, WIDE, UNDEFINED])
def test_where_no_interval_decides_no_way_is_called_better(every):
    _, sentence = way_of(every)
    assert "better" not in sentence
    assert "folded in over mixed in" in sentence


def test_a_segment_of_few_users_decides_nothing():
    users = {"all": 520, "hidden": 500, "warm": 20}
    assert way_of(ALIKE, warm=BETTER, users=users)[0] is Way.NO_DIFFERENCE


def test_few_users_cannot_tell():
    way, sentence = way_of(BETTER, users={"all": 49, "hidden": 20, "warm": 29})
    assert way is Way.CANNOT_TELL
    assert "Too few test users" in sentence
