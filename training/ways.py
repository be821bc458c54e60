"""Which way of using the synthetic events is better for whom: mixed in as rows, or folded in?

Read off NDCG of the folded-in arm over the mixed-in one, paired, in the segments that
`training.verdict` reads. One way is better where its interval lies on its side of zero in some
segment, and the other's in none.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from training.bootstrap import Interval
from training.verdict import READER, Reading, describe, ndcg_of, read, segments_read


class Way(StrEnum):
    """Which way is better; the first two are called as the trainers' `synthetic` calls them."""

    FOLD_IN = "fold-in"
    ROWS = "rows"
    DEPENDS = "depends"
    NO_DIFFERENCE = "no_difference"
    CANNOT_TELL = "cannot_tell"


Lifts = Mapping[str, Mapping[str, Interval]]


def better_way(
    folded_over_rows: Lifts,
    *,
    folded_over_real: Lifts,
    rows_over_real: Lifts,
    users: Mapping[str, int],
) -> tuple[Way, str]:
    """The better way, and one sentence that names it by what was measured.

    Where users lose by the better way too, over real events alone, the sentence says so.

    Args:
        folded_over_rows: segment to metric to lift, of the folded-in arm over the mixed-in one.
        folded_over_real: the same of the folded-in arm over real only.
        rows_over_real: the same of the mixed-in arm over real only.
        users: number of test users per segment.
    """
    names = segments_read(users)
    if names is None:
        return Way.CANNOT_TELL, "Too few test users to tell mixed in from folded in."
    found = {name: ndcg_of(folded_over_rows[name]) for name in names}
    folded, rows = (
        [name for name, interval in found.items() if read(interval) is reading]
        for reading in (Reading.GAIN, Reading.LOSS)
    )
    measured = f"NDCG of {READER['all']} {describe(found['all'])} folded in over mixed in"
    if not folded and not rows:
        if read(found["all"]) is Reading.NOTHING:
            return (
                Way.NO_DIFFERENCE,
                f"Mixed in or folded in makes no measurable difference: {measured}.",
            )
        return Way.CANNOT_TELL, f"It cannot be told whether to mix them in or fold in: {measured}."
    said = [
        f"{way} is better for {_listed(better, found, over_real)}"
        for way, better, over_real in (
            ("folding in", folded, folded_over_real),
            ("mixing in", rows, rows_over_real),
        )
        if better
    ]
    sentence = f"{'; '.join(said)} (NDCG, folded in over mixed in)."
    way = Way.DEPENDS if folded and rows else Way.FOLD_IN if folded else Way.ROWS
    return way, sentence[0].upper() + sentence[1:]


def _listed(names: list[str], found: Mapping[str, Interval], over_real: Lifts) -> str:
    return ", ".join(
        f"{READER[name]} {describe(found[name])}{_still_lost(ndcg_of(over_real[name]))}"
        for name in names
    )


def _still_lost(over_real: Interval) -> str:
    if read(over_real) is not Reading.LOSS:
        return ""
    return f", who lose by it too, {describe(over_real)} over real events alone"
