"""The verdict: do the synthetic events help, do nothing, or harm?

It is read off NDCG in the segments `all`, `hidden` and `warm`, from the lift over real events alone
(R) and over a placebo of equal size (P). An interval says one of four things:

    gain      it lies above zero
    loss      it lies below zero
    nothing   it contains zero and is at most 0.5 wide (±25 %)
    unclear   it contains zero and is wider, or is not defined

1. Fewer than 50 users in `all`: cannot_tell. A smaller segment among the others is not read.
2. The segment `all` is read, R down and P across:

                  gain         nothing      loss         unclear
    gain          helps        no_effect    no_effect    cannot_tell
    nothing       no_effect    no_effect    no_effect    no_effect
    loss          harms        harms        harms        harms
    unclear       cannot_tell  cannot_tell  cannot_tell  cannot_tell

3. Where that is not `helps` and R is a loss in `hidden` or `warm`: harms. Where it is `helps`, the
   loss is a caution in the sentence.
4. Where it is neither `helps` nor `harms` and both R and P are gains in `hidden`: helps.

So a gain counts only where a placebo does not give it too, and users with history are never traded
for users without unless all of them together gain. Where nothing was found, the sentence says what
would have been: the least lift that is found in four of five such measurements.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from scipy import stats

from scalr_ray.core.errors import UnderpoweredError
from training.bootstrap import Interval

MIN_USERS = 50
MAX_WIDTH = 0.5
SEGMENTS = ("all", "hidden", "warm")
READER = {"all": "all users", "hidden": "users without target history", "warm": "warm users"}

Of = TypeVar("Of")

_METRIC = "ndcg_at_"


class Verdict(StrEnum):
    """What the experiment says about the synthetic events."""

    HELPS = "helps"
    NO_EFFECT = "no_effect"
    HARMS = "harms"
    CANNOT_TELL = "cannot_tell"


class Reading(StrEnum):
    """What one interval says."""

    GAIN = "gain"
    LOSS = "loss"
    NOTHING = "nothing"
    UNCLEAR = "unclear"


def read(interval: Interval) -> Reading:
    """What the interval of a lift says; see the table at the top of this file."""
    if interval.low > 0:
        return Reading.GAIN
    if interval.high < 0:
        return Reading.LOSS
    if interval.high - interval.low <= MAX_WIDTH:
        return Reading.NOTHING
    return Reading.UNCLEAR


def judge(
    lift_over_real: Mapping[str, Mapping[str, Interval]],
    lift_over_placebo: Mapping[str, Mapping[str, Interval]],
    *,
    users: Mapping[str, int],
) -> tuple[Verdict, str]:
    """The verdict and one plain-language explanation of it.

    Args:
        lift_over_real: segment to metric to lift, of the synthetic arm over real only.
        lift_over_placebo: the same over the placebo arm.
        users: number of test users per segment.
    """
    names = segments_read(users)
    if names is None:
        return Verdict.CANNOT_TELL, (
            f"It cannot be told whether the synthetic events help: there are {users['all']} test "
            f"users, and a verdict needs {MIN_USERS}."
        )
    real = {name: ndcg_of(lift_over_real[name]) for name in names}
    placebo = {name: ndcg_of(lift_over_placebo[name]) for name in names}
    verdict = _read_all(read(real["all"]), read(placebo["all"]))
    segment = "all"
    harmed = [name for name in names if read(real[name]) is Reading.LOSS]
    if verdict is not Verdict.HELPS and harmed:
        verdict, segment = Verdict.HARMS, harmed[0]
    elif verdict is not Verdict.HELPS and _helps(real, placebo, "hidden"):
        verdict, segment = Verdict.HELPS, "hidden"
    sentence = _sentence(verdict, segment, real[segment], placebo[segment])
    remarks = [*_found(verdict, real[segment]), *_remarks(verdict, real, harmed, users)]
    return verdict, " ".join([sentence, *remarks])


def decides(
    verdict: Verdict,
    lift_over_real: Mapping[str, Mapping[str, Interval]],
    *,
    users: int,
    cuts: int = 1,
) -> bool:
    """Whether the synthetic events help, yes or no.

    Args:
        verdict: as `judge` gave it.
        lift_over_real: what it was given.
        users: number of test users, of all cuts.
        cuts: over how many it was measured.

    Raises:
        UnderpoweredError: it cannot be told; the message says how many users or cuts it would take.
    """
    if verdict is not Verdict.CANNOT_TELL:
        return verdict is Verdict.HELPS
    lift = ndcg_of(lift_over_real["all"])
    width = lift.high - lift.low
    if not math.isfinite(width):
        raise UnderpoweredError(
            f"{users} test users tell nothing; measure later, or with an earlier cut"
        )
    found = (
        f"of all users' NDCG no lift below {100 * lift.detectable:.0f} % is found in four of five "
        "such measurements"
    )
    if cuts > 1 and users >= MIN_USERS:
        raise UnderpoweredError(
            f"{cuts} cuts cannot decide: {found}; about {_cuts_needed(cuts, width):,} like them "
            "would do: give more batches, or later, when more has happened"
        )
    # The width falls with the root of the number of users.
    needed = max(MIN_USERS, math.ceil(users * max(1.0, width / MAX_WIDTH) ** 2))
    raise UnderpoweredError(
        f"{users} test users cannot decide: {found}; about {needed:,} would do: measure later, or "
        "over several cuts"
    )


def segments_read(users: Mapping[str, int]) -> list[str] | None:
    """The segments with enough users to be read, `all` first; None where not even all are enough.

    Args:
        users: number of test users per segment.
    """
    if users["all"] < MIN_USERS:
        return None
    return [name for name in SEGMENTS if users.get(name, 0) >= MIN_USERS]


def ndcg_of(metrics: Mapping[str, Of]) -> Of:
    """What is told of NDCG among the metrics of a segment, at whatever k."""
    return next(interval for name, interval in metrics.items() if name.startswith(_METRIC))


def _cuts_needed(cuts: int, width: float) -> int:
    """Of so many cuts the interval over them would be narrow enough, were they all alike."""
    most = min(1.0, MAX_WIDTH / width) * _reach(cuts) / math.sqrt(cuts)
    # Student's quantiles lie above the normal one, so fewer cannot do.
    least = max(cuts + 1, math.floor((_reach(math.inf) / most) ** 2))
    return next(
        number for number in itertools.count(least) if _reach(number) <= most * math.sqrt(number)
    )


def _reach(cuts: float) -> float:
    """Half the width of a t-interval over so many cuts, in standard errors."""
    return float(stats.t.ppf(0.975, cuts - 1))


def _helps(real: Mapping[str, Interval], placebo: Mapping[str, Interval], segment: str) -> bool:
    return segment in real and read(real[segment]) is read(placebo[segment]) is Reading.GAIN


def _read_all(real: Reading, placebo: Reading) -> Verdict:
    """The table at the top of this file."""
    match real, placebo:
        case Reading.LOSS, _:
            return Verdict.HARMS
        case Reading.NOTHING, _:
            return Verdict.NO_EFFECT
        case Reading.UNCLEAR, _:
            return Verdict.CANNOT_TELL
        case _, Reading.GAIN:
            return Verdict.HELPS
        case _, Reading.UNCLEAR:
            return Verdict.CANNOT_TELL
        case _:
            return Verdict.NO_EFFECT


def _sentence(verdict: Verdict, segment: str, real: Interval, placebo: Interval) -> str:
    who = READER[segment]
    over_real = f"{describe(real)} over real events alone"
    over_placebo = f"{describe(placebo)} over a placebo of equal size"
    match verdict:
        case Verdict.HELPS:
            return f"The synthetic events help {who}: NDCG {over_real}, and {over_placebo}."
        case Verdict.HARMS:
            return f"The synthetic events harm {who}: NDCG {over_real}."
        case Verdict.CANNOT_TELL:
            return (
                "It cannot be told whether the synthetic events help: the intervals are too wide "
                f"(NDCG of {who} {over_real}, {over_placebo})."
            )
    if read(real) is Reading.GAIN:
        return (
            f"The synthetic events do no more than a placebo: NDCG of {who} {over_real}, but "
            f"{over_placebo}."
        )
    return f"The synthetic events have no measurable effect: NDCG of {who} {over_real}."


def _found(verdict: Verdict, real: Interval) -> list[str]:
    """What would have been found, where nothing was."""
    silent = verdict is Verdict.CANNOT_TELL or read(real) is Reading.NOTHING
    if not silent or not math.isfinite(real.detectable):
        return []
    return [f"A lift of {100 * real.detectable:.0f} % would be found in four of five such tests."]


def _remarks(
    verdict: Verdict, real: Mapping[str, Interval], harmed: list[str], users: Mapping[str, int]
) -> list[str]:
    losses = [
        f"Caution: {READER[name]} lose ({describe(real[name])})."
        for name in harmed
        if verdict is Verdict.HELPS
    ]
    unread = [
        f"Caution: {users[name]} {READER[name]} are too few to be judged."
        for name in SEGMENTS
        if name not in real and users.get(name, 0) > 0
    ]
    return losses + unread


def describe(interval: Interval) -> str:
    """An interval in words, for example `+25 % [+16 %, +34 %]`."""
    return f"{_percent(interval.estimate)} [{_percent(interval.low)}, {_percent(interval.high)}]"


def _percent(value: float) -> str:
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else "unbounded"
    return f"{100 * value:+.0f} %"
