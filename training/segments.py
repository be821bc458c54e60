"""Finer segments: where a lift comes from, and who pays for it.

Users by how much history they have in the target and in the source domain, items by how popular
they are. So many questions find something by chance, so the intervals are wider: with m of them
each is at the level 1 - 0.05 / m (Bonferroni), and all of them hold together in 95 of 100
measurements.

Shapes: `U` test users, `I` items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from scalr_ray.core.keyed import stream_seed
from training.bootstrap import Draws, Interval, mean_lifts
from training.lift import ArmResult
from training.metrics import ndcg_at_k

LIGHT_EVENTS = 5  # from so many target events on a user is no light one
_LEAST_USERS = 50
_ERROR = 0.05
_THIRDS = ("low", "medium", "high")
_ITEMS = ("head", "torso", "tail")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Users, and which of their items count.

    Attributes:
        users: (U,) mask.
        items: (I,) mask of the items that count as relevant; None counts all.
    """

    users: NDArray[np.bool_]
    items: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentLift:
    """What NDCG gains in a segment, at the level of its `SegmentLifts`.

    Attributes:
        users: how many.
        over_real: lift over real events alone.
        over_placebo: lift over the placebo.
    """

    users: int
    over_real: Interval
    over_placebo: Interval


@dataclass(frozen=True, kw_only=True)
class SegmentLifts:
    """What NDCG gains in every segment that is large enough.

    Attributes:
        level: probability content of each interval, such that all hold together at 0.95.
        segments: by name.
    """

    level: float
    segments: Mapping[str, SegmentLift]

    @property
    def harmed(self) -> list[str]:
        """The segments that lose, all comparisons taken into account."""
        return [name for name, found in self.segments.items() if found.over_real.high < 0]

    def to_json(self) -> dict[str, Any]:
        """Plain values: the level, and of every segment its users and both lifts."""
        return {
            "level": self.level,
            "segments": {
                name: {
                    "users": found.users,
                    "over_real": found.over_real.to_json(),
                    "over_placebo": found.over_placebo.to_json(),
                }
                for name, found in self.segments.items()
            },
        }


def segments_of(
    target_events: NDArray[np.int64],
    source_events: NDArray[np.int64],
    item_events: NDArray[np.int64],
    relevant: sp.csr_matrix,
) -> dict[str, Segment]:
    """The segments of test users, by what was known before the cut.

    Args:
        target_events: (U,) of each test user.
        source_events: (U,) of each test user.
        item_events: (I,) target events on each item.
        relevant: (U, I) the outcomes.

    Returns:
        `light` and `rich` users, by target events; users of `low`, `medium` and `high source
        activity`, a third each or as ties allow; outcomes on `head`, `torso` and `tail items`,
        which carry a third of all events each, the most popular first.
    """
    light = (target_events > 0) & (target_events < LIGHT_EVENTS)
    found = {
        "light users": Segment(users=light),
        "rich users": Segment(users=target_events >= LIGHT_EVENTS),
    }
    bounds = np.quantile(source_events, (1 / 3, 2 / 3)) if len(source_events) else (0, 0)
    third = np.searchsorted(bounds, source_events, side="left")
    for number, name in enumerate(_THIRDS):
        found[f"{name} source activity"] = Segment(users=third == number)
    order = np.argsort(-item_events, kind="stable")
    before = np.cumsum(item_events[order]) - item_events[order]
    group = np.empty(len(item_events), dtype=np.int64)
    group[order] = np.minimum(before * 3 // max(int(item_events.sum()), 1), 2)
    for number, name in enumerate(_ITEMS):
        items = group == number
        users = np.asarray(relevant[:, items].sum(axis=1)).ravel() > 0
        found[f"{name} items"] = Segment(users=users, items=items)
    return found


def segment_lifts(
    synthetic: ArmResult,
    real: ArmResult,
    placebo: ArmResult,
    relevant: sp.csr_matrix,
    segments: Mapping[str, Segment],
    *,
    bootstrap: int,
    seed: int,
) -> SegmentLifts:
    """The lift of NDCG in every segment of at least 50 users, corrected for their number.

    Args:
        synthetic: the arm of interest.
        real: real events alone.
        placebo: as many events from the prior.
        relevant: (U, I) the outcomes of the users whom the arms rank.
        segments: as `segments_of` gives them.
        bootstrap: number of draws.
        seed: of the draws.
    """
    judged = {
        name: segment
        for name, segment in segments.items()
        if np.count_nonzero(segment.users) >= _LEAST_USERS
    }
    level = 1.0 - _ERROR / max(len(judged), 1)
    found = {}
    for name, segment in judged.items():
        ndcg, control, other = (_ndcg(arm, relevant, segment) for arm in (synthetic, real, placebo))
        seeds, users = ndcg.shape
        draws = Draws(
            seed=stream_seed(seed, "segment", name),
            users=users,
            seeds=seeds,
            count=bootstrap,
            level=level,
        )
        (over_real,), (over_placebo,) = (
            mean_lifts(np.stack([ndcg, base])[:, None], draws) for base in (control, other)
        )
        found[name] = SegmentLift(users=users, over_real=over_real, over_placebo=over_placebo)
    return SegmentLifts(level=level, segments=found)


def _ndcg(arm: ArmResult, relevant: sp.csr_matrix, segment: Segment) -> NDArray[np.float64]:
    """(S, users) of the same rankings, by what counts in the segment."""
    if segment.items is None:
        return arm.ndcg[:, segment.users]
    counted = relevant[segment.users].multiply(segment.items).tocsr()
    counted.eliminate_zeros()
    return np.stack([ndcg_at_k(top[segment.users], counted) for top in arm.top])
