"""The verdict's decision table, cell by cell, and a null world in which nothing may help."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from scalr_ray.core.errors import UnderpoweredError
from training.lift import ArmResult, Interval, Verdict, judge, paired_lift
from training.verdict import MAX_WIDTH, MIN_USERS, Reading, decides, read

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


def test_where_nothing_was_found_the_sentence_says_what_would_have_been():
    lift = Interval(estimate=0.0, low=-0.14, high=0.14)
    _, sentence = verdict_of(segments(lift), segments(NOTHING))
    # Of 1.96 standard errors to each side, 2.8 are found in four of five.
    assert lift.detectable == pytest.approx(0.2, abs=1e-3)
    assert "A lift of 20 % would be found in four of five such tests." in sentence
    _, sentence = verdict_of(segments(GAIN), segments(GAIN))
    assert "would be found" not in sentence


def test_what_is_detectable_is_detected_in_four_of_five():
    random = np.random.default_rng(0)
    lift = Interval(estimate=0.0, low=-0.1, high=0.1).detectable
    found = random.normal(lift, 0.1 / 1.959964, 100_000) > 0.1
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_asked_to_decide_it_says_yes_or_no_or_that_it_cannot():
    over_real = {"all": {"ndcg_at_20": GAIN}}
    assert decides(Verdict.HELPS, over_real, users=1000)
    for verdict in (Verdict.NO_EFFECT, Verdict.HARMS):
        assert not decides(verdict, over_real, users=1000)
    wide = {"all": {"ndcg_at_20": Interval(estimate=0.1, low=-0.4, high=0.6)}}
    with pytest.raises(UnderpoweredError, match=r"1000 test users cannot decide.*about 4,000"):
        decides(Verdict.CANNOT_TELL, wide, users=1000)
    narrow = {"all": {"ndcg_at_20": NOTHING}}
    with pytest.raises(UnderpoweredError, match="about 50 would do"):
        decides(Verdict.CANNOT_TELL, narrow, users=20)
    with pytest.raises(UnderpoweredError, match="tell nothing"):
        decides(Verdict.CANNOT_TELL, {"all": {"ndcg_at_20": UNDEFINED}}, users=3)


def cuts_that_would_do(cuts, width):
    wide = {
        "all": {"ndcg_at_20": Interval(estimate=0.1, low=0.1 - width / 2, high=0.1 + width / 2)}
    }
    with pytest.raises(UnderpoweredError, match=f"{cuts} cuts cannot decide") as told:
        decides(Verdict.CANNOT_TELL, wide, users=1000, cuts=cuts)
    return int(
        re.search(r"about ([\d,]+) like them would do", told.value.message)[1].replace(",", "")
    )


@pytest.mark.parametrize("cuts", [2, 3, 8])
@pytest.mark.parametrize("width", [0.6, 1.0, 4.0])
def test_over_several_cuts_it_says_how_many_would_narrow_the_interval_enough(cuts, width):
    needed = cuts_that_would_do(cuts, width)

    def width_of(number):
        reach = (stats.t.ppf(0.975, each - 1) / math.sqrt(each) for each in (number, cuts))
        return width * next(reach) / next(reach)

    assert width_of(needed) <= MAX_WIDTH
    assert needed == cuts + 1 or width_of(needed - 1) > MAX_WIDTH


def test_over_several_cuts_it_answers_at_once_however_wide_the_interval_is():
    assert cuts_that_would_do(5, 1e5) > 1e9
    assert cuts_that_would_do(5, 0.4) == 6
    too_few = {"all": {"ndcg_at_20": NOTHING}}
    with pytest.raises(UnderpoweredError, match="about 50 would do"):
        decides(Verdict.CANNOT_TELL, too_few, users=20, cuts=3)
