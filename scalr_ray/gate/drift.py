"""Distance between the popularity profile of synthetic and of real events."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scalr_ray.generate.refining.separation import stability_index


def population_stability(
    expected: NDArray[np.float64], observed: NDArray[np.float64], buckets: int = 10
) -> float:
    """The population stability index of `observed` against `expected` over popularity buckets.

    Items are sorted by `expected` and cut into `buckets` of equal expected mass. Sampling that
    favours the likely raises the index on purpose, which is that of
    `scalr_ray.generate.refining.separation.stability_index`.

    Args:
        expected: (I,) non-negative masses with a positive sum.
        observed: (I,) non-negative masses with a positive sum.
        buckets: number of buckets.
    """
    order = np.argsort(-expected, kind="stable")
    cumulative = np.cumsum(expected[order]) / expected.sum()
    bucket = np.minimum((cumulative - 1e-12) * buckets, buckets - 1).astype(np.int64)
    masses = (
        np.bincount(bucket, weights=mass[order], minlength=buckets).astype(np.float64)
        for mass in (expected, observed)
    )
    return stability_index(*masses)
