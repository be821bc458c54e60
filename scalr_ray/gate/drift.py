"""Distance between the popularity profile of synthetic and of real events."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FLOOR = 1e-4


def population_stability(
    expected: NDArray[np.float64], observed: NDArray[np.float64], buckets: int = 10
) -> float:
    """The population stability index of `observed` against `expected` over popularity buckets.

    Items are sorted by `expected` and cut into `buckets` of equal expected mass;
    PSI = sum (o - e) * ln(o / e) over the buckets, with shares floored at 1e-4. By convention below
    0.1 is stable and above 0.25 has shifted; sampling that favours the likely raises it on purpose.

    Args:
        expected: (I,) non-negative masses with a positive sum.
        observed: (I,) non-negative masses with a positive sum.
        buckets: number of buckets.
    """
    order = np.argsort(-expected, kind="stable")
    cumulative = np.cumsum(expected[order]) / expected.sum()
    bucket = np.minimum((cumulative - 1e-12) * buckets, buckets - 1).astype(np.int64)
    share_e = np.bincount(bucket, weights=expected[order], minlength=buckets) / expected.sum()
    share_o = np.bincount(bucket, weights=observed[order], minlength=buckets) / observed.sum()
    share_e, share_o = np.maximum(share_e, _FLOOR), np.maximum(share_o, _FLOOR)
    return float(((share_o - share_e) * np.log(share_o / share_e)).sum())
