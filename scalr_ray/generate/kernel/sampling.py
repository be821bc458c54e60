"""Drawing items: which of the listed ones a user gets, and how likely a single draw takes each.

Sampling without replacement by Gumbel top-k (Vieira 2014; Kool et al. 2019): adding keyed Gumbel
noise to the log-weights and taking the k largest draws k distinct items as if one after the other,
each in proportion to its weight among those that are left. The noise is a function of user and
item alone, so the first of many draws are those of few, and equal weights go by place.

Legend: B users, K listed items, N draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Weights are float32: a set whose sum lies this close to `top_p` has reached it.
_ROUNDING = 1e-6


def distribution(
    log_weights: NDArray[np.float32], *, temperature: float, top_p: float
) -> NDArray[np.float32]:
    """(B, K) log-probability that a single draw takes each item; -inf where none does.

    Args:
        log_weights: (B, K) up to a constant per user; -inf for what is not drawn.
        temperature: divides them first.
        top_p: all but the likeliest items that together reach this probability are cut off; the
            likeliest stays, however much it has.
    """
    log_p = _normalised(log_weights / np.float32(temperature))
    if top_p < 1.0:
        log_p[~_nucleus(log_p, top_p)] = -np.inf
        log_p = _normalised(log_p)
    return log_p


def largest(
    values: NDArray[np.floating], slots: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The `slots[b]` largest finite values of each row b, or all of them where there are fewer.

    Args:
        values: (B, K) without NaN.
        slots: (B,) at least 0.

    Returns:
        (N,) row and (N,) place of each, by row and from the largest down, equal ones by place: a
        row with fewer slots has the first of those it would have with more.
    """
    most = min(int(slots.max(initial=0)), values.shape[1])
    if most == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    least = np.partition(values, -most, axis=1)[:, -most, None]
    # Above the least finite number: -inf is what is not drawn.
    row, place = np.nonzero(values >= np.maximum(least, np.finfo(values.dtype).min))
    order = np.lexsort((place, -values[row, place], row))
    row, place = row[order], place[order]
    kept = ranks(row) < slots[row]
    return row[kept], place[kept]


def ranks(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) how many entries before it share each entry's row; `row` (N,) is ascending."""
    return np.asarray(np.arange(len(row)) - np.searchsorted(row, row))


def _normalised(log_weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row-wise log-softmax, in place; a row of minus infinities stays one."""
    peak = log_weights.max(axis=1, keepdims=True)
    log_weights -= np.where(np.isfinite(peak), peak, np.float32(0.0))
    total = np.exp(log_weights).sum(axis=1, keepdims=True, dtype=np.float64)
    log_weights -= np.log(np.where(total > 0, total, 1.0)).astype(np.float32)
    return log_weights


def _nucleus(log_p: NDArray[np.float32], top_p: float) -> NDArray[np.bool_]:
    """(B, K) the smallest sets of likeliest items that reach `top_p`, equal ones by place."""
    order = np.argsort(-log_p, axis=1, kind="stable")
    sums = np.exp(np.take_along_axis(log_p, order, axis=1)).cumsum(axis=1, dtype=np.float64)
    # An item belongs to the set as long as those before it do not reach the sum.
    kept = np.ones(log_p.shape, dtype=np.bool_)
    kept[:, 1:] = sums[:, :-1] < top_p - _ROUNDING
    chosen = np.empty_like(kept)
    np.put_along_axis(chosen, order, kept, axis=1)
    return chosen
