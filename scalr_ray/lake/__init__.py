"""The synthetic-event table: an Apache Iceberg table that is staged, published, retired and read.

Files are written where no reader looks, and one metadata commit makes a whole batch visible. Every
commit leaves a snapshot, so that a training set stays readable after its batch is retired, until
the snapshot expires or a user in it is erased.
"""

from __future__ import annotations

from scalr_ray.lake.compacting import CompactedFiles
from scalr_ray.lake.erasing import ErasedRows
from scalr_ray.lake.history import PublishedBatch, SnapshotInfo
from scalr_ray.lake.lake import SyntheticEventLake

__all__ = [
    "CompactedFiles",
    "ErasedRows",
    "PublishedBatch",
    "SnapshotInfo",
    "SyntheticEventLake",
]
