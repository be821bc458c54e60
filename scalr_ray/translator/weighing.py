"""How the users of a count were weighed, so that others are weighed alike, and one is taken out.

A translator is asked about users it was counted with. What such a user gave to the counts follows
from their own events, exactly, so that it can be left out at any time: `taken_out`. How much each
of their source events says today is another question, answered by `event_weights`.

Legend: B users, N events of all of them, H their distinct items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.errors import ConfigError
from scalr_ray.translator.counts import ONE, TYPE_ONE, PairRules
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.histories import EventLists

_DAY_MICROS = 86_400_000_000


@dataclass(frozen=True, kw_only=True)
class UserItems:
    """The distinct items of B users that count, user by user.

    Attributes:
        offsets: (B + 1,) where each user's items begin; the last is H.
        items: (H,) item codes, ascending within a user.
        firsts: (H,) time of the first event on each, microseconds since 1970.
        units: (H,) the largest type weight of its events, in units of 1 / `TYPE_ONE`.
        says: (H,) the largest of its events' weights as evidence.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    firsts: NDArray[np.int64]
    units: NDArray[np.int64]
    says: NDArray[np.float64]

    def matrix(self, width: int) -> sparse.csr_matrix:
        """(B, width) how much each item says of each user."""
        shape = (len(self.offsets) - 1, width)
        return sparse.csr_matrix((self.says, self.items, self.offsets), shape=shape)

    def units_by_user(self) -> NDArray[np.float64]:
        """(B,) the sum of the type weights of each user's items, in users."""
        total = np.concatenate(([0], np.cumsum(self.units)))
        return np.asarray(np.diff(total[self.offsets]) / TYPE_ONE)


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """What counts were made under, and how much a source event says when it is used.

    Attributes:
        rules: what one user adds to a pair.
        event_types: vocabulary of the type codes of the users that are asked about.
        history_half_life_days: in which a source event loses half of its say; None: it keeps it.
        min_users: pairs of fewer users were dropped.
        noisy: noise was put on the pairs. It hides what a user gave, so nothing is taken out.
        most_source_items: users with more distinct source items were not counted; None: all were.
        most_target_items: the same of target items.
    """

    rules: PairRules = field(default_factory=PairRules)
    event_types: Vocabulary = field(
        default_factory=lambda: Vocabulary(ids=pa.array([], pa.string()))
    )
    history_half_life_days: float | None = None
    min_users: int = 1
    noisy: bool = False
    most_source_items: int | None = None
    most_target_items: int | None = None

    def __post_init__(self) -> None:
        half_life = self.history_half_life_days
        if half_life is not None and not 0 < half_life < np.inf:
            raise ConfigError(
                f"translator.history_half_life_days is {half_life}; "
                "give a number of days above 0, or null"
            )
        for name in ("min_users", "most_source_items", "most_target_items"):
            count = getattr(self, name)
            if not (count is None and name != "min_users") and not (
                isinstance(count, int) and count >= 1
            ):
                raise ConfigError(f"translator.{name} is {count!r}; give a whole number above 0")

    @property
    def is_plain(self) -> bool:
        """Whether every user, event and pair counts alike."""
        every_pair = self.min_users <= 1 and not self.noisy
        return self.rules.is_plain and self.history_half_life_days is None and every_pair

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "event_weights": dict(self.rules.event_weights),
            "pair_half_life_days": self.rules.half_life_days,
            "event_types": self.event_types.ids.to_pylist(),
            "history_half_life_days": self.history_half_life_days,
            "min_users": self.min_users,
            "noisy": self.noisy,
            "most_source_items": self.most_source_items,
            "most_target_items": self.most_target_items,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Weighing:
        """What `to_json` gave."""
        return cls(
            rules=PairRules(
                event_weights=saved["event_weights"], half_life_days=saved["pair_half_life_days"]
            ),
            event_types=Vocabulary(ids=pa.array(saved["event_types"], pa.string())),
            history_half_life_days=saved["history_half_life_days"],
            min_users=saved["min_users"],
            noisy=saved["noisy"],
            most_source_items=saved.get("most_source_items"),
            most_target_items=saved.get("most_target_items"),
        )

    def counted(self, history: sparse.csr_matrix, own: sparse.csr_matrix) -> NDArray[np.bool_]:
        """(B,) whether users were counted, or left out because they have too many items.

        Args:
            history: (B, S) which source items they have.
            own: (B, I) which target items.
        """
        counted = np.ones(history.shape[0], dtype=bool)
        for most, having in ((self.most_source_items, history), (self.most_target_items, own)):
            if most is not None:
                counted &= np.diff(having.indptr) <= most
        return counted

    def event_weights(self, events: EventLists, as_of: int) -> NDArray[np.float64]:
        """(N,) how much each event says as of a time (microseconds since 1970)."""
        weight = self._units(events) / TYPE_ONE
        if self.history_half_life_days is not None:
            days = (as_of - events.times) / _DAY_MICROS
            weight = weight * np.exp2(-np.maximum(days, 0.0) / self.history_half_life_days)
        return np.asarray(weight)

    def user_items(self, events: EventLists, as_of: int) -> UserItems:
        """The distinct items of each user, without those whose events do not count."""
        units, says = self._units(events), self.event_weights(events, as_of)
        counts = np.flatnonzero(units > 0)
        row, item = events.rows[counts], events.items[counts]
        order = np.lexsort((item, row))
        counts, row, item = counts[order], row[order], item[order]
        starts = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(item, prepend=-1) != 0))
        return UserItems(
            offsets=np.searchsorted(row[starts], np.arange(len(events) + 1)),
            items=item[starts],
            firsts=np.minimum.reduceat(events.times[counts], starts),
            units=np.maximum.reduceat(units[counts], starts),
            says=np.maximum.reduceat(says[counts], starts),
        )

    def taken_out(
        self,
        source: UserItems,
        own: UserItems,
        weight: sparse.csr_matrix,
        users: sparse.csr_matrix | None,
    ) -> NDArray[np.float64]:
        """(H,) by how much each source item's total of counts falls without the user.

        A pair that the user alone holds at the floor goes with all its weight.

        Args:
            source: the users' source items, H of them.
            own: the same users' target items.
            weight: (S, I) weight of the pairs that were kept, in users.
            users: (S, I) users of the pairs that were kept; None without a floor.
        """
        if self.noisy:
            return np.zeros(len(source.items), dtype=np.float64)
        own_items = np.diff(own.offsets)
        of_source = np.repeat(np.arange(len(source.offsets) - 1), np.diff(source.offsets))
        pairs = own_items[of_source]
        left = np.repeat(np.arange(len(source.items)), pairs)
        within = np.arange(len(left)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        right = own.offsets[of_source][left] + within
        gap = own.firsts[right] - source.firsts[left]
        given = self.rules.contributions(source.units[left], own.units[right], gap) / ONE
        if self.min_users > 1 and len(left):
            assert users is not None
            places = source.items[left], own.items[right]
            holders = np.asarray(users[places]).ravel()
            whole = np.asarray(weight[places], dtype=np.float64).ravel()
            given = np.where(holders > self.min_users, given, whole)
        return np.asarray(np.bincount(left, weights=given, minlength=len(source.items)))

    def _units(self, events: EventLists) -> NDArray[np.int64]:
        return self.rules.weights_of(self.event_types)[events.types]
