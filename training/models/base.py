"""What every ranker takes and gives: interactions as integer codes in, a score per item out.

A ranker that learns in steps can be kept after each of them and go on from there.

Shapes: `U` users and `I` items of the vocabularies, `N` interactions, `B` users asked for, `k`
length of a ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import EVENT_TIMESTAMP, TIMESTAMP
from training.metrics import top_k
from training.models.state import State

COLUMNS = ("user_id", "item_id", EVENT_TIMESTAMP, "sample_weight", "is_synthetic")

# The code of a user who is in no vocabulary: scored like one without interactions.
UNSEEN = -1

# Scores of one chunk of users: 16 MB as float32, whatever the catalogue is.
_BLOCK_CELLS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Weighted (user, item) pairs in time, over fixed vocabularies.

    A user or an item of a vocabulary need not occur in any row.

    Attributes:
        users: (U,) distinct ids; a user's code is the place in it.
        items: (I,) distinct ids; an item's code is the place in it.
        rows: (N,) user codes.
        cols: (N,) item codes.
        weights: (N,) how much each row counts, finite and at least 0.
        timestamps: (N,) event times, microseconds since 1970 in UTC.
        is_synthetic: (N,) whether the row was generated rather than observed.
    """

    users: pa.Array
    items: pa.Array
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    weights: NDArray[np.float64]
    timestamps: NDArray[np.int64]
    is_synthetic: NDArray[np.bool_]

    @classmethod
    def from_arrow(
        cls,
        table: pa.Table,
        *,
        users: Sequence[object] | pa.Array | None = None,
        items: Sequence[object] | pa.Array | None = None,
    ) -> Interactions:
        """The interactions in `table`, in an order that does not depend on that of its rows.

        Real rows that repeat a (user, item) pair count once, as the first of them; synthetic rows
        add up, because each is a draw of its own. Rows of weight zero are left out.

        Args:
            table: has the columns in `COLUMNS`; others are ignored.
            users: the vocabulary; None takes the users of `table`, sorted.
            items: the vocabulary; None takes the items of `table`, sorted.

        Raises:
            DataError: a column is missing, a value is null, a weight is negative or not finite, or
                an id is not in its vocabulary.
        """
        table = _checked(table)
        user_ids, rows = _encoded(table, "user_id", users)
        item_ids, cols = _encoded(table, "item_id", items)
        weights = table["sample_weight"].to_numpy()
        timestamps = table[EVENT_TIMESTAMP].cast(pa.int64()).to_numpy()
        is_synthetic = table["is_synthetic"].to_numpy()
        # Weight breaks the tie of a pair that was observed twice at one instant.
        order = np.lexsort((-weights, timestamps, is_synthetic, cols, rows))
        order = order[~_repeats_a_real_row(rows[order], cols[order], is_synthetic[order])]
        return cls(
            users=user_ids,
            items=item_ids,
            rows=rows[order],
            cols=cols[order],
            weights=weights[order],
            timestamps=timestamps[order],
            is_synthetic=is_synthetic[order],
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(U, I)."""
        return len(self.users), len(self.items)

    def refuse_empty(self) -> None:
        """Check that a row counts.

        Raises:
            DataError: there are no interactions to learn from.
        """
        if not self.weights.any():
            raise DataError("there are no interactions to learn from")

    def part(self, kept: NDArray[np.bool_]) -> Interactions:
        """The rows that are `kept` (N,), over the same vocabularies."""
        columns = ("rows", "cols", "weights", "timestamps", "is_synthetic")
        return replace(self, **{name: getattr(self, name)[kept] for name in columns})

    def real(self) -> Interactions:
        """The rows that were observed."""
        return self.part(~self.is_synthetic)

    def for_fold_in(self) -> Interactions:
        """The real rows, and the synthetic ones of users who have no real row."""
        known = np.zeros(len(self.users), dtype=np.bool_)
        known[self.rows[~self.is_synthetic & (self.weights > 0)]] = True
        return self.part(~(self.is_synthetic & known[self.rows]))

    def newcomers(self) -> tuple[NDArray[np.intp], sp.csr_matrix]:
        """The codes of users with synthetic rows only, (V,), and their summed weights, (V, I)."""
        rows = self.for_fold_in()
        weights = rows.part(rows.is_synthetic).matrix()
        codes = np.flatnonzero(weights.getnnz(axis=1))
        return codes, weights[codes]

    def matrix(self) -> sp.csr_matrix:
        """The summed weight of every pair, (U, I) float64; pairs without weight are not stored."""
        summed = sp.csr_matrix((self.weights, (self.rows, self.cols)), shape=self.shape)
        summed.eliminate_zeros()
        return summed

    def merged(self) -> Interactions:
        """Equal rows as one with their summed weight, without rows of weight zero, in fixed order.

        Draws and batches that follow from this cannot tell a row of weight 2 from two rows.
        """
        kept = self.weights > 0
        columns = (self.rows, self.cols, self.timestamps, self.is_synthetic)
        keys = np.stack([column[kept].astype(np.int64) for column in columns], axis=1)
        distinct, place = np.unique(keys, axis=0, return_inverse=True)
        summed = np.bincount(place.ravel(), weights=self.weights[kept], minlength=len(distinct))
        rows, cols, timestamps, synthetic = np.ascontiguousarray(distinct.T)
        return replace(
            self,
            rows=rows,
            cols=cols,
            weights=summed.astype(np.float64),
            timestamps=timestamps,
            is_synthetic=synthetic.astype(np.bool_),
        )

    def digest(self) -> str:
        """Tells these rows and the sizes of the vocabularies from any others, 16 hex digits."""
        digest = blake2b(repr(self.shape).encode(), digest_size=8)
        for column in (self.rows, self.cols, self.weights, self.timestamps, self.is_synthetic):
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()


class Ranker(Protocol):
    """A trainer that ranks the whole catalogue.

    A row counts as much as its weight says: weight 2 is the row twice, weight 0 is no row.
    """

    def fit(self, interactions: Interactions, *, seed: int) -> None:
        """Learn from `interactions`, forgetting what was learnt before; `seed` decides all draws.

        Raises:
            DataError: there are no interactions to learn from.
        """

    def scores(self, user_codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """The score of every item for every asked user, (B, I), finite, higher is better.

        The array may be read-only. Users and items without interactions have scores too, and so
        has `UNSEEN`.

        Raises:
            UsageError: the ranker has not been fitted.
        """

    def state(self) -> State:
        """All that scoring needs, and going on where there is anything to go on with.

        Raises:
            UsageError: the ranker has not been fitted.
        """

    def restore(self, state: State) -> None:
        """Be the ranker that gave `state`.

        Raises:
            UsageError: it is of another kind of ranker or has other settings.
        """


Checkpoint = Callable[[State], None]

# How synthetic rows enter a factorisation: as rows like any others; or real rows alone decide what
# items and users are, and the synthetic ones then only say who the users without real rows are.
WayIn = Literal["rows", "fold-in"]


def deciding_rows(interactions: Interactions, way: str) -> Interactions:
    """The rows that decide what items are, and users who are not folded in."""
    return interactions.real() if way == "fold-in" else interactions


def checked_way(way: str, ways: tuple[str, ...]) -> None:
    """Refuse a way in for synthetic rows that a ranker does not have.

    Raises:
        UsageError: it is none of `ways`.
    """
    if way not in ways:
        raise UsageError(f"synthetic is {way!r}; it is one of {', '.join(ways)}")


class Iterative(Ranker, Protocol):
    """A ranker that learns in steps: epochs, sweeps or trees."""

    def fit(
        self, interactions: Interactions, *, seed: int, checkpoint: Checkpoint | None = None
    ) -> None:
        """As `Ranker.fit`; `checkpoint` is given the state after every step."""

    def resume(self, interactions: Interactions, *, checkpoint: Checkpoint | None = None) -> None:
        """Go on from the restored state to where an uninterrupted `fit` ends.

        Raises:
            UsageError: nothing was restored, or these are not the rows that it learnt from.
        """


def same_rows(interactions: Interactions, digest: object) -> None:
    """Refuse to go on with other rows than those of `digest`.

    Raises:
        UsageError: they are others.
    """
    if interactions.digest() != digest:
        raise UsageError(
            "training goes on with the interactions that it began with; these are others: fit anew"
        )


def rows_or_zero(table: NDArray[np.float32], codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """The rows of `table` (U, D) at `codes`, zeros for `UNSEEN`, (B, D).

    Raises:
        UsageError: a code is neither of a user nor `UNSEEN`.
    """
    checked_codes(codes, len(table))
    found = table[codes]
    found[codes == UNSEEN] = 0.0
    return found


def checked_codes(codes: NDArray[np.int64], users: int) -> None:
    """Refuse codes that are neither of one of `users` users nor `UNSEEN`.

    Raises:
        UsageError: there is one.
    """
    strange = codes[(codes < UNSEEN) | (codes >= users)]
    if len(strange):
        raise UsageError(
            f"user code {strange[0]} is asked for; the codes of {users} users start at 0, and "
            f"{UNSEEN} is for users who are not among them"
        )


def rank_users(
    ranker: Ranker,
    user_codes: NDArray[np.int64],
    k: int,
    *,
    known: sp.csr_matrix | None,
    rankable: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """The `k` best items of every user, (B, k) codes, as `training.metrics.top_k` gives them.

    Args:
        ranker: a fitted one.
        user_codes: (B,).
        k: length of a ranking.
        known: (B, I), true where the item is already the user's own; None excludes nothing.
        rankable: (I,), true where the item may be recommended at all.

    Raises:
        DataError: the shapes do not fit, or `k` is below 1.
    """
    if known is not None and known.shape != (len(user_codes), len(rankable)):
        raise DataError(
            f"known items are given as {known.shape}; {len(user_codes)} users are asked for, "
            f"and {len(rankable)} items may be ranked"
        )
    step = max(1, _BLOCK_CELLS // max(len(rankable), 1))
    chunks = [slice(start, start + step) for start in range(0, len(user_codes), step)]
    tops = [
        top_k(
            ranker.scores(user_codes[chunk]),
            k,
            excluded=None if known is None else known[chunk],
            rankable=rankable,
        )
        for chunk in chunks
    ]
    return np.concatenate([np.empty((0, k), dtype=np.int64), *tops])


def _checked(table: pa.Table) -> pa.Table:
    """The needed columns in their types, without the rows that have no weight."""
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise DataError(f"the training set has no column {missing[0]!r}; build it with `mixed`")
    table = table.select(COLUMNS)
    if empty := [name for name in COLUMNS if table[name].null_count]:
        raise DataError(f"column {empty[0]!r} of the training set holds nulls")
    table = table.set_column(2, EVENT_TIMESTAMP, table[EVENT_TIMESTAMP].cast(TIMESTAMP))
    weights = table["sample_weight"].cast(pa.float64())
    sound = pc.and_(pc.is_finite(weights), pc.greater_equal(weights, 0.0))
    if not pc.all(sound, min_count=0).as_py():
        worst = weights.filter(pc.invert(sound))[0]
        raise DataError(f"a sample weight is {worst}; weights are finite and at least 0")
    return table.set_column(3, "sample_weight", weights).filter(pc.greater(weights, 0.0))


def _encoded(
    table: pa.Table, name: str, vocabulary: Sequence[object] | pa.Array | None
) -> tuple[pa.Array, NDArray[np.int64]]:
    """The vocabulary of a column, and the column as codes in it."""
    ids = table[name]
    if vocabulary is None:
        distinct = pc.unique(ids)
        known = distinct.take(pc.sort_indices(distinct))
    else:
        known = pa.array(vocabulary, type=ids.type)
        if len(pc.unique(known)) != len(known) or known.null_count:
            raise DataError(f"the vocabulary of {name!r} holds an id twice, or a null")
    codes = pc.index_in(ids, value_set=known)
    if codes.null_count:
        stranger = ids.filter(pc.is_null(codes))[0]
        raise DataError(f"{name} {stranger} of the training set is not in the given vocabulary")
    return known, codes.cast(pa.int64()).to_numpy()


def _repeats_a_real_row(
    rows: NDArray[np.int64], cols: NDArray[np.int64], is_synthetic: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Where a real row follows one of the same pair; the real ones come first within a pair."""
    repeats = np.zeros(len(rows), dtype=np.bool_)
    repeats[1:] = (rows[1:] == rows[:-1]) & (cols[1:] == cols[:-1]) & ~is_synthetic[1:]
    return repeats
