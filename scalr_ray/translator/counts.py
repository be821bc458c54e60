"""The co-occurrence table: whole numbers, so that tables add and subtract exactly.

A user who has source item j and target item i puts one into `users` of the pair (j, i), and into
its `weight`

    w(user, j) * w(user, i) * 2^(-|gap| / half_life)

in units of 1 / `ONE`. w is the largest weight of the event types of the user's visible events on
that item, the gap lies between the first of these events on either side. All of it is rounded to
whole units for each user and pair, before anything is summed: in whatever order or partition users
are counted, the table is the same, and what a user gave can be taken out again.

One user moves a pair by one user and by at most `PairRules.most_units`, whatever they do.

Legend: P pairs, S source items, I target items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.errors import ConfigError, DataError
from scalr_ray.translator.encode import Vocabulary

ONE = 1 << 16
TYPE_ONE = 1 << 8  # a product of two type weights is in units of ONE
_MOST_WEIGHT = 256.0
_STEPS = 64  # in which recency falls, per half-life
_LAST_STEP = 16 * _STEPS  # 2^-16 is one unit; the next rounds to none
_DAY_MICROS = 86_400_000_000


@dataclass(frozen=True, kw_only=True)
class PairRules:
    """What one user adds to a pair.

    Attributes:
        event_weights: event type -> weight, from 0 (such events do not count) to 256; a type that
            is not named weighs 1.
        half_life_days: in which a pair loses half of its weight, by the time between its events;
            None counts all alike.

    Raises:
        ConfigError: a weight or the half-life is out of its range.
    """

    event_weights: Mapping[str, float] = field(default_factory=dict)
    half_life_days: float | None = None

    def __post_init__(self) -> None:
        for name, weight in self.event_weights.items():
            if not 0 <= weight <= _MOST_WEIGHT:
                raise ConfigError(
                    f"translator.event_weights: {name!r} weighs {weight}; "
                    f"a weight lies between 0 and {_MOST_WEIGHT:g}"
                )
        if self.half_life_days is not None and not 0 < self.half_life_days < np.inf:
            raise ConfigError(
                f"translator.pair_half_life_days is {self.half_life_days}; "
                "give a number of days above 0, or null"
            )

    @property
    def is_plain(self) -> bool:
        """Whether every user counts alike, so that weight is `ONE` times users."""
        return self.half_life_days is None and set(self.type_units.values()) <= {TYPE_ONE}

    @cached_property
    def type_units(self) -> dict[str, int]:
        """Event type -> weight in units of 1 / `TYPE_ONE`."""
        return {name: round(weight * TYPE_ONE) for name, weight in self.event_weights.items()}

    @property
    def most_units(self) -> int:
        """The most that one user can add to the weight of one pair."""
        return max([TYPE_ONE, *self.type_units.values()]) ** 2

    @property
    def step_us(self) -> int | None:
        """The length of a step in which recency falls, in microseconds; None: it does not."""
        if self.half_life_days is None:
            return None
        return max(1, round(self.half_life_days * _DAY_MICROS / _STEPS))

    @cached_property
    def recency_units(self) -> NDArray[np.int64]:
        """(1025,) what is left after each step, in units of 1 / `ONE`; nothing after the last."""
        left = np.round(ONE * np.exp2(-np.arange(_LAST_STEP + 1) / _STEPS)).astype(np.int64)
        left[_LAST_STEP] = 0
        return left

    def weights_of(self, types: Vocabulary) -> NDArray[np.int64]:
        """(V + 1,) units of 1 / `TYPE_ONE` of each type code; the last is that of no type, -1."""
        units = [self.type_units.get(str(name), TYPE_ONE) for name in types.ids.to_pylist()]
        return np.array([*units, TYPE_ONE], dtype=np.int64)

    def contributions(
        self,
        source: NDArray[np.int64],
        target: NDArray[np.int64],
        gap_us: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """(P,) what a user adds to the weight of each of their pairs, in units of 1 / `ONE`.

        Args:
            source: (P,) type weight of the source item, units of 1 / `TYPE_ONE`.
            target: (P,) the same of the target item.
            gap_us: (P,) time between the first events on both, of either sign, microseconds.
        """
        product = source * target
        if self.step_us is None:
            return product
        step = np.minimum(np.abs(gap_us) // self.step_us, _LAST_STEP)
        return np.asarray((product * self.recency_units[step]) >> 16)


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """Who has what with what, in canonical order: equal counts make equal tables.

    Attributes:
        pairs: (P rows) `source`, `target`, `users` and `weight` (int64, above); ordered by source,
            then target; every pair has a user.
        targets: (at most I rows) `target`, `users`, `weight`: of each target item, the users that
            are active in both domains, and the sum of their type weights, in units of 1 / `ONE`.
    """

    pairs: pa.Table
    targets: pa.Table

    @classmethod
    def of(cls, rows: pa.Table) -> PairCounts:
        """Sum rows of `source`, `target`, `users`, `weight`; those without a source are of targets.

        Raises:
            DataError: a sum is negative, or weighs something without a user.
        """
        sources = Vocabulary.of(pc.drop_null(rows["source"]))
        targets = Vocabulary.of(rows["target"])
        width = max(len(targets), 1)
        # Rows of targets come first: they have no source, which is code -1.
        places = sources.codes(rows["source"]) * width + targets.codes(rows["target"])
        order = np.argsort(places)
        ordered = places[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-width - 1))
        distinct = ordered[starts]
        users, weight = (
            np.add.reduceat(rows[name].to_numpy()[order], starts) for name in ("users", "weight")
        )
        if ((users < 0) | (weight < 0) | ((users == 0) & (weight != 0))).any():
            raise DataError(
                "the pair counts hold less than what is taken from them; "
                "they are of other events or other settings: count all events again"
            )
        kept = users > 0
        table = pa.table(
            {
                "source": sources.ids.take(_codes_or_null(distinct[kept] // width)),
                "target": targets.ids.take(pa.array(distinct[kept] % width)),
                "users": users[kept],
                "weight": weight[kept],
            }
        )
        without_source = table["source"].null_count
        return cls(
            pairs=table.slice(without_source),
            targets=table.slice(0, without_source).drop_columns("source"),
        )

    def rows(self) -> pa.Table:
        """What `of` makes this table of."""
        nothing = pa.nulls(self.targets.num_rows, self.pairs.schema.field("source").type)
        return pa.concat_tables([self.pairs, self.targets.add_column(0, "source", nothing)])

    def plus(self, other: PairCounts) -> PairCounts:
        """The counts of the users of both; no user may be in each."""
        return PairCounts.of(pa.concat_tables([self.rows(), other.rows()]))

    def minus(self, other: PairCounts) -> PairCounts:
        """The counts without the users of `other`.

        Raises:
            DataError: `other` holds something that is not in here.
        """
        taken = other.rows()
        for name in ("users", "weight"):
            at = taken.schema.get_field_index(name)
            taken = taken.set_column(at, name, pc.negate(taken[name]))
        return PairCounts.of(pa.concat_tables([self.rows(), taken]))

    def with_floor(self, min_users: int) -> PairCounts:
        """The counts without the pairs of fewer than `min_users` distinct users.

        Targets stay: they say as much as the prior does, of items and not of pairs.
        """
        kept = self.pairs.filter(pc.greater_equal(self.pairs["users"], min_users))
        return PairCounts(pairs=kept.combine_chunks(), targets=self.targets)

    def coded(self, source_items: Vocabulary, target_items: Vocabulary) -> PairCounts:
        """The same counts under the codes of two vocabularies, which must hold all items.

        Raises:
            DataError: an item is in neither.
        """
        source = source_items.codes(self.pairs["source"])
        target = target_items.codes(self.pairs["target"])
        marginal = target_items.codes(self.targets["target"])
        if any(codes.min(initial=0) < 0 for codes in (source, target, marginal)):
            raise DataError("the pair counts hold items that are in no event; count all again")
        return PairCounts(
            pairs=self.pairs.set_column(0, "source", pa.array(source)).set_column(
                1, "target", pa.array(target)
            ),
            targets=self.targets.set_column(0, "target", pa.array(marginal)),
        )

    def matrix(self, shape: tuple[int, int], column: str = "weight") -> sparse.csr_matrix:
        """(S, I) canonical CSR, float32: the weights in users, or the `users`; of coded counts."""
        values = self.pairs[column].to_numpy() / (ONE if column == "weight" else 1)
        places = (self.pairs["source"].to_numpy(), self.pairs["target"].to_numpy())
        matrix = sparse.csr_matrix((values.astype(np.float32), places), shape=shape)
        matrix.sort_indices()
        return matrix

    def marginal(self, items: int) -> NDArray[np.float64]:
        """(I,) the weight of each target item in users; of coded counts."""
        total = np.zeros(items)
        total[self.targets["target"].to_numpy()] = self.targets["weight"].to_numpy() / ONE
        return total


def _codes_or_null(codes: NDArray[np.int64]) -> pa.Array:
    return pa.array(codes, mask=codes < 0)
