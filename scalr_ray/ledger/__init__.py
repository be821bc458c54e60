"""What happened, in SQL: runs, translators, batches, verdicts, watermarks, pins and erasures.

The ledger shares its database with the registry and the Iceberg catalog. It hands out frozen
records, never live objects, and moves a batch from state to state by compare-and-swap, so that of
two processes that want to publish or reject the same batch exactly one wins.
"""

from __future__ import annotations

from scalr_ray.ledger.ledger import Ledger
from scalr_ray.ledger.owners import Owner
from scalr_ray.ledger.records import (
    FORCED,
    BatchRecord,
    BatchState,
    ErasureRecord,
    ErasureState,
    Finding,
    PinRecord,
    RunRecord,
    RunStatus,
    TranslatorRecord,
    VerdictRecord,
)

__all__ = [
    "FORCED",
    "BatchRecord",
    "BatchState",
    "ErasureRecord",
    "ErasureState",
    "Finding",
    "Ledger",
    "Owner",
    "PinRecord",
    "RunRecord",
    "RunStatus",
    "TranslatorRecord",
    "VerdictRecord",
]
