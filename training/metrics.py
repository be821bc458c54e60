"""Full-catalogue ranking metrics under a global time cut.

Every rankable item of the target domain competes for every test user: sampled negatives reorder
models (Krichene and Rendle 2020), so there are none here. All functions work on integer codes and
treat users independently, so a caller may feed them the users in chunks.

Shapes: `U` test users, `I` items, `k` length of a ranking. A ranking holds distinct item codes,
best first; `NO_ITEM` pads its end when fewer than `k` items could be ranked.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from scalr_ray.core.errors import DataError

NO_ITEM = -1

# The ranking holds a handful of temporaries of this many cells, whatever U and I are.
_BLOCK_CELLS = 1 << 22


def top_k(
    scores: NDArray[np.floating],
    k: int,
    *,
    excluded: sp.csr_matrix | None,
    rankable: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """The `k` best items of every user, (U, k) codes, best first, padded with `NO_ITEM`.

    Of equal scores the lower item code wins, so a ranking never depends on how the users were
    chunked. A score of minus infinity keeps an item out.

    Args:
        scores: (U, I); higher is better; left unchanged.
        k: length of a ranking, at least 1; it may exceed I.
        excluded: (U, I), true where the item is already the user's own; None excludes nothing.
        rankable: (I,), true where the item may be recommended at all.

    Raises:
        DataError: the shapes do not fit, `k` is below 1, or a score is NaN.
    """
    users, items = scores.shape
    if k < 1:
        raise DataError(f"k is {k}; a ranking needs at least one place")
    if rankable.shape != (items,) or (excluded is not None and excluded.shape != scores.shape):
        raise DataError(f"the scores are {scores.shape}; what is excluded or rankable is not")
    top = np.full((users, k), NO_ITEM, dtype=np.int64)
    step = max(1, _BLOCK_CELLS // max(items, 1))
    for start in range(0, users, step):
        rows = slice(start, start + step)
        block = _costs(scores[rows], None if excluded is None else excluded[rows], rankable)
        best = _best_columns(block, min(k, items))
        top[rows, : best.shape[1]] = best
    return top


def ndcg_at_k(top: NDArray[np.int64], relevant: sp.csr_matrix) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain of every user, (U,) values in [0, 1].

    With binary gains and ranks that start at 1,

        NDCG@k = sum(1 / log2(rank + 1) over the hits) / sum(1 / log2(r + 1) for r = 1..m),

    where m = min(number of relevant items, k), so a ranking that starts with all it could find
    scores 1.

    Args:
        top: (U, k) rankings.
        relevant: (U, I), true at the user's test items; every user has at least one.

    Raises:
        DataError: the shapes do not fit, or a user has no relevant item.

    Example:
        One of two test items is found, at rank 2: (1 / log2 3) / (1 + 1 / log2 3).

        >>> relevant = sp.csr_matrix(np.array([[True, False, True]]))
        >>> ndcg_at_k(np.array([[1, 2]]), relevant).round(4).tolist()
        [0.3869]
    """
    hits, relevant_count = _hits(top, relevant)
    discount = 1.0 / np.log2(np.arange(2, top.shape[1] + 2))
    ideal = np.cumsum(discount)[np.minimum(relevant_count, top.shape[1]) - 1]
    return np.asarray(hits @ discount / ideal, dtype=np.float64)


def recall_at_k(top: NDArray[np.int64], relevant: sp.csr_matrix) -> NDArray[np.float64]:
    """The share of every user's relevant items that the ranking holds, (U,) values in [0, 1].

    The denominator is the number of relevant items, not min(that number, k): a user with more
    test items than places cannot reach 1, and the value means what its name says.

    Args:
        top: (U, k) rankings.
        relevant: (U, I), true at the user's test items; every user has at least one.

    Raises:
        DataError: the shapes do not fit, or a user has no relevant item.

    Example:
        >>> relevant = sp.csr_matrix(np.array([[True, False, True]]))
        >>> recall_at_k(np.array([[1, 2]]), relevant).tolist()
        [0.5]
    """
    hits, relevant_count = _hits(top, relevant)
    return np.asarray(hits.sum(axis=1) / relevant_count, dtype=np.float64)


def mrr_at_k(top: NDArray[np.int64], relevant: sp.csr_matrix) -> NDArray[np.float64]:
    """One over the rank of every user's first hit, ranks from 1, (U,) in [0, 1]; 0 without a hit.

    Args:
        top: (U, k) rankings.
        relevant: (U, I), true at the user's test items; every user has at least one.

    Raises:
        DataError: the shapes do not fit, or a user has no relevant item.

    Example:
        >>> relevant = sp.csr_matrix(np.array([[True, False, True]]))
        >>> mrr_at_k(np.array([[1, 2]]), relevant).tolist()
        [0.5]
    """
    hits, _ = _hits(top, relevant)
    return np.asarray((hits / np.arange(1, top.shape[1] + 1)).max(axis=1), dtype=np.float64)


def coverage_at_k(top: NDArray[np.int64], catalogue_size: int) -> float:
    """The share of the rankable catalogue that appears in at least one of the rankings.

    Args:
        top: rankings of any shape.
        catalogue_size: the number of rankable items.

    Raises:
        DataError: the catalogue is empty, or smaller than what was recommended from it.

    Example:
        >>> coverage_at_k(np.array([[0, 1], [1, NO_ITEM]]), catalogue_size=8)
        0.25
    """
    recommended = np.unique(top[top != NO_ITEM]).size
    if catalogue_size < max(recommended, 1):
        raise DataError(f"{recommended} items were recommended from {catalogue_size} rankable ones")
    return float(recommended / catalogue_size)


def gini_at_k(top: NDArray[np.int64], catalogue_size: int) -> float:
    """How unevenly recommendations fall on the rankable catalogue: the Gini coefficient.

    With n items and n_i recommendations of item i,

        G = sum over pairs of items |n_i - n_j| / (2 n sum of n_i),

    which is 0 where all items are recommended alike and 1 - 1/n where it is always the same one.

    Args:
        top: rankings of any shape.
        catalogue_size: n, the number of rankable items.

    Raises:
        DataError: the catalogue is smaller than what was recommended from it, or nothing was.

    Example:
        >>> gini_at_k(np.array([[0, 1], [0, 1]]), catalogue_size=4)
        0.5
    """
    _, counts = np.unique(top[top != NO_ITEM], return_counts=True)
    if not len(counts) or catalogue_size < len(counts):
        raise DataError(f"{len(counts)} items were recommended from {catalogue_size} rankable ones")
    # In ascending order item i (from 1) is above i - 1 others and below n - i.
    places = np.arange(catalogue_size - len(counts) + 1, catalogue_size + 1)
    above = 2 * places - catalogue_size - 1
    return float(above @ np.sort(counts) / (catalogue_size * counts.sum()))


def novelty_at_k(top: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    """The mean self-information of what is recommended, -log2 of an item's share, in bits.

    Args:
        top: rankings of any shape.
        shares: (I,) how much of all interactions an item had, in [0, 1].

    Raises:
        DataError: nothing was recommended, or an item without a share was.

    Example:
        >>> novelty_at_k(np.array([[0, 1], [1, NO_ITEM]]), np.array([0.5, 0.25]))
        1.6666666666666667
    """
    recommended = top[top != NO_ITEM]
    if not recommended.size or not (shares[recommended] > 0).all():
        raise DataError("novelty needs recommendations, each of an item with a share above 0")
    return float(-np.log2(shares[recommended]).mean())


def _costs(
    scores: NDArray[np.floating], excluded: sp.csr_matrix | None, rankable: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """Negated scores, infinite where the item must not be ranked."""
    if np.isnan(scores).any():
        raise DataError("a score is NaN; a model that diverged cannot be ranked")
    costs = -scores
    costs[:, ~rankable] = np.inf
    if excluded is not None:
        rows, columns = excluded.nonzero()
        costs[rows, columns] = np.inf
    return costs


def _best_columns(costs: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """The `k` cheapest columns per row in order, ties by column, `NO_ITEM` where infinite."""
    if k == 0:
        return np.empty((len(costs), 0), dtype=np.int64)
    # A partition leaves ties at the k-th place in arbitrary order; so it only finds the value of
    # that place, and the lowest codes among the items that share it fill what is left.
    threshold = np.partition(costs, k - 1, axis=1)[:, k - 1 : k]
    inside = costs < threshold
    tied = costs == threshold
    places = k - inside.sum(axis=1, keepdims=True)
    inside |= tied & (np.cumsum(tied, axis=1) <= places)
    columns = np.nonzero(inside)[1].reshape(len(costs), k)
    cost = np.take_along_axis(costs, columns, axis=1)
    order = np.argsort(cost, axis=1, kind="stable")
    best = np.take_along_axis(columns, order, axis=1)
    best[np.isposinf(np.take_along_axis(cost, order, axis=1))] = NO_ITEM
    return best


def _hits(
    top: NDArray[np.int64], relevant: sp.csr_matrix
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Where the rankings hit, (U, k), and the number of relevant items per user, (U,)."""
    users, items = relevant.shape
    if len(top) != users:
        raise DataError(f"{len(top)} rankings were given for {users} users")
    rows, columns = relevant.nonzero()
    relevant_count = np.bincount(rows, minlength=users)
    empty = int(np.count_nonzero(relevant_count == 0))
    if empty:
        raise DataError(
            f"{empty} of {users} users have no relevant item; keep only users with test events"
        )
    wanted = rows.astype(np.int64) * items + columns
    offered = np.arange(users, dtype=np.int64)[:, None] * items + top
    return np.isin(offered, wanted) & (top != NO_ITEM), relevant_count
