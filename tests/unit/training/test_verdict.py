"""The verdict's decision table, cell by cell, and a null world in which nothing may help."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.lift import ArmResult, Interval, Verdict, judge, paired_lift
from training.verdict import MIN_USERS, Reading, read

GAIN = Interval(estimate=0.2, low=0.1, high=0.3)
LOSS = Interval(estimate=-0.2, low=-0.3, high=-0.1)
NOTHING = Interval(estimate=0.01, low=-0.04, high=0.05)
UNCLEAR = Interval(estimate=0.1, low=-0.3, high=0.6)
UNDEFINED = Interval(estimate=math.nan, low=math.nan, high=math.nan)
READINGS = {"gain": GAIN, "nothing": NOTHING, "loss": LOSS, "unclear": UNCLEAR}
MANY = {"all": 1000, "hidden": 500, "warm": 500}


def verdict_of(real, placebo, users=MANY):
    over_real, over_placebo = (
        {segment: {"recall_at_20": UNCLEAR, "ndcg_at_20": lift} for segment, lift in lifts.items()}
        for lifts in (real, placebo)
    )
    return judge(over_real, over_placebo, users=users)


def segments(every, hidden=NOTHING, warm=NOTHING):
    return {"all": every, "hidden": hidden, "warm": warm}


@pytest.mark.parametrize(
    ("interval", "reading"),
    [
        (GAIN, Reading.GAIN),
        (LOSS, Reading.LOSS),
        (NOTHING, Reading.NOTHING),
        (UNCLEAR, Reading.UNCLEAR),
        (UNDEFINED, Reading.UNCLEAR),
        (Interval(estimate=0.1, low=0.0, high=0.2), Reading.NOTHING),
        (Interval(estimate=-0.1, low=-0.2, high=0.0), Reading.NOTHING),
        (Interval(estimate=0.0, low=-0.25, high=0.25), Reading.NOTHING),
        (Interval(estimate=0.0, low=-0.25, high=0.26), Reading.UNCLEAR),
        (Interval(estimate=math.inf, low=0.5, high=math.inf), Reading.GAIN),
        (Interval(estimate=math.inf, low=0.0, high=math.inf), Reading.UNCLEAR),
    ],
)
def test_an_interval_is_read_by_where_it_lies_and_how_wide_it_is(interval, reading):
    assert read(interval) is reading


TABLE = {
    "gain": ["helps", "no_effect", "no_effect", "cannot_tell"],
    "nothing": ["no_effect", "no_effect", "no_effect", "no_effect"],
    "loss": ["harms", "harms", "harms", "harms"],
    "unclear": ["cannot_tell", "cannot_tell", "cannot_tell", "cannot_tell"],
}


@pytest.mark.parametrize(
    ("real", "placebo", "expected"),
    [
        (real, placebo, expected)
        for real, row in TABLE.items()
        for placebo, expected in zip(READINGS, row, strict=True)
    ],
)
def test_all_users_are_read_by_the_table(real, placebo, expected):
    verdict, sentence = verdict_of(segments(READINGS[real]), segments(READINGS[placebo]))
    assert verdict == expected
    assert sentence.endswith(".")
    assert "%" in sentence


@pytest.mark.parametrize("every", [NOTHING, UNCLEAR])
def test_a_gain_of_hidden_users_over_real_and_placebo_helps(every):
    verdict, sentence = verdict_of(segments(every, hidden=GAIN), segments(NOTHING, hidden=GAIN))
    assert verdict is Verdict.HELPS
    assert "help users without target history" in sentence
    assert "+20 % [+10 %, +30 %]" in sentence


def test_a_gain_of_hidden_users_that_the_placebo_gives_too_does_not_help():
    verdict, _ = verdict_of(segments(NOTHING, hidden=GAIN), segments(NOTHING, hidden=NOTHING))
    assert verdict is Verdict.NO_EFFECT


@pytest.mark.parametrize("every", [NOTHING, UNCLEAR])
@pytest.mark.parametrize("harmed", ["hidden", "warm"])
def test_a_harmed_segment_harms_whatever_another_gains(every, harmed):
    real = segments(every, hidden=GAIN, warm=GAIN) | {harmed: LOSS}
    verdict, sentence = verdict_of(real, segments(GAIN, hidden=GAIN, warm=GAIN))
    assert verdict is Verdict.HARMS
    assert "-20 % [-30 %, -10 %]" in sentence


def test_a_harmed_segment_is_a_caution_where_all_users_gain():
    verdict, sentence = verdict_of(segments(GAIN, warm=LOSS), segments(GAIN))
    assert verdict is Verdict.HELPS
    assert "Caution: warm users lose (-20 % [-30 %, -10 %])." in sentence


def test_too_few_users_cannot_tell():
    few = {"all": MIN_USERS - 1, "hidden": 20, "warm": 29}
    verdict, sentence = verdict_of(segments(GAIN), segments(GAIN), few)
    assert verdict is Verdict.CANNOT_TELL
    assert "49 test users" in sentence


def test_a_small_segment_is_not_read_but_named():
    users = {"all": 520, "hidden": 500, "warm": 20}
    verdict, sentence = verdict_of(segments(GAIN, warm=LOSS), segments(GAIN), users)
    assert verdict is Verdict.HELPS
    assert "lose" not in sentence
    assert "20 warm users are too few to be judged" in sentence


def test_segments_that_are_absent_are_not_needed():
    verdict, _ = verdict_of({"all": GAIN}, {"all": GAIN}, {"all": 100})
    assert verdict is Verdict.HELPS


def test_a_null_world_is_not_said_to_help():
    # Synthetic and placebo come from one distribution, and both lift hidden users over real only.
    rng = np.random.default_rng(11)
    users, runs, found = 400, 120, []
    hidden = np.arange(users) % 2 == 1
    masks = {"all": np.ones(users, dtype=bool), "hidden": hidden, "warm": ~hidden}
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    for run in range(runs):
        taste = rng.exponential(size=users)
        boost = np.where(hidden, 1.5, 1.0)
        real, synthetic, placebo = (
            _arm(taste * factor * rng.uniform(0.4, 1.6, (2, users))) for factor in (1, boost, boost)
        )
        over_real = paired_lift(synthetic, real, masks, bootstrap=150, seed=run)
        over_placebo = paired_lift(synthetic, placebo, masks, bootstrap=150, seed=run)
        found.append(judge(over_real, over_placebo, users=counts)[0])
    # Two segments may each cross a one-sided 2.5 % bound by chance.
    assert found.count(Verdict.HELPS) <= 0.08 * runs
    assert found.count(Verdict.NO_EFFECT) + found.count(Verdict.CANNOT_TELL) >= 0.85 * runs


def _arm(ndcg):
    top = np.zeros((*ndcg.shape, 1), dtype=np.int64)
    return ArmResult(top=top, ndcg=ndcg, recall=ndcg, catalogue_size=1)
