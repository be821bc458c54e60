"""The synthetic-event table: an Apache Iceberg table that is staged, published, retired and read.

Files are written where no reader looks, and one metadata commit makes a whole batch visible. Every
commit leaves a snapshot, so that a training set stays readable after its batch is retired.
"""

from __future__ import annotations

from scalr_ray.lake.history import PublishedBatch
from scalr_ray.lake.lake import SyntheticEventLake

__all__ = ["PublishedBatch", "SyntheticEventLake"]
