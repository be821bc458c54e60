"""Pairs for pointwise trainers: what was taken, and items drawn for the same user beside it.

Each row brings its own negatives, drawn evenly from the catalogue by what the row is, so that other
rows change nothing about them, and each counts as its row does. A negative may be what the user
takes elsewhere: the probability of a pair is then p / (p + K / I), with p the item's share for the
user, `K` negatives a row and `I` items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.keyed import keyed_bits
from training.models.base import Interactions


def drawn_items(
    data: Interactions, rows: NDArray[np.int64], negatives: int, seed: int
) -> NDArray[np.int64]:
    """The items of `rows` (B,) and beside each of them so many negatives, (B, 1 + K)."""
    keys = (column[rows][:, None] for column in (data.rows, data.cols, data.timestamps))
    bits = keyed_bits(seed, *keys, np.arange(negatives)[None, :])
    drawn = (bits % np.uint64(data.shape[1])).astype(np.int64)
    return np.concatenate([data.cols[rows][:, None], drawn], axis=1)
