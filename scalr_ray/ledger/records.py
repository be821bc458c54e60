"""The records the ledger hands out, and the states of a batch.

```
staged ──► accepted ──► published ──► retired
   └──────────┴──► rejected ──► accepted, by force alone
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from scalr_ray.ledger.owners import Owner


class RunStatus(StrEnum):
    """How a run stands; one that died without a word stays `running`."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class BatchState(StrEnum):
    """How a batch stands; `retired` is final, and so is `rejected` unless it is overruled."""

    STAGED = "staged"
    ACCEPTED = "accepted"
    PUBLISHED = "published"
    RETIRED = "retired"
    REJECTED = "rejected"


TRANSITIONS: Mapping[BatchState, frozenset[BatchState]] = {
    BatchState.STAGED: frozenset({BatchState.ACCEPTED, BatchState.REJECTED}),
    BatchState.ACCEPTED: frozenset({BatchState.PUBLISHED, BatchState.REJECTED}),
    BatchState.PUBLISHED: frozenset({BatchState.RETIRED}),
    BatchState.RETIRED: frozenset(),
    BatchState.REJECTED: frozenset(),
}


# The check under which it is recorded that somebody overruled the gate, and why.
FORCED = "forced"


class ErasureState(StrEnum):
    """How an erasure stands; one that was cut off stays `begun`."""

    BEGUN = "begun"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One call of a verb.

    Attributes:
        run_id: its id, which sorts by start.
        verb: what was called, for example `"train"`.
        config: every setting, as resolved.
        config_fingerprint: `ScalrConfig.fingerprint` of it.
        seed: the seed all randomness derives from.
        status: how it stands.
        started_at: UTC.
        finished_at: UTC; None while it runs.
        error_code: `ScalrError.code` of what ended it, or the name of another exception.
        metrics: what it measured.
        code_version: of the package that ran, with the commit where it lies in a checkout.
        owner: the process that runs or ran it; None for runs of older versions of SCALR.
    """

    run_id: str
    verb: str
    config: Mapping[str, Any]
    config_fingerprint: str
    seed: int
    status: RunStatus
    started_at: datetime
    finished_at: datetime | None
    error_code: str | None
    metrics: Mapping[str, Any]
    code_version: str
    owner: Owner | None


@dataclass(frozen=True, kw_only=True)
class TranslatorRecord:
    """One trained translator.

    Attributes:
        version: its id, which is also the name of its folder.
        run_id: the run that trained it.
        kind: for example `"frequency"`.
        train_cutoff: it knows only what was known as of this time, in UTC.
        config_fingerprint: of the settings it was trained with.
        data_fingerprint: of the events it was trained on.
        metrics: what was measured on the validation window.
        path: the folder of its artifacts.
        created_at: UTC.
        flagged: why it must be trained again; None as long as it need not.
    """

    version: str
    run_id: str
    kind: str
    train_cutoff: datetime
    config_fingerprint: str
    data_fingerprint: str
    metrics: Mapping[str, Any]
    path: str
    created_at: datetime
    flagged: str | None


@dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """The synthetic events of one generation run.

    Attributes:
        batch_id: its id, here and in the lake.
        run_id: the run that generated it.
        translator_version: the translator that did.
        state: how it stands.
        as_of: the time it was generated as of, in UTC.
        rows: its synthetic events.
        reason: why it came into its state, where somebody said so.
        snapshot_id: the snapshot of the lake that made it visible, once published.
        created_at: UTC.
        updated_at: UTC; when it came into its state.
    """

    batch_id: str
    run_id: str
    translator_version: str
    state: BatchState
    as_of: datetime
    rows: int
    reason: str | None
    snapshot_id: int | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class VerdictRecord:
    """One check of the gate on one batch.

    Attributes:
        id: rises with time.
        batch_id: the batch that was checked.
        check: the name of the check.
        passed: whether the batch passed it.
        value: what was measured; None where nothing is.
        threshold: what it was held against; None where nothing is.
        detail: one line for a reader.
        created_at: UTC.
    """

    id: int
    batch_id: str
    check: str
    passed: bool
    value: float | None
    threshold: float | None
    detail: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check of the gate found, before it is recorded; see `VerdictRecord`."""

    check: str
    passed: bool
    value: float | None = None
    threshold: float | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class PinRecord:
    """A saved training set, and the snapshot of the lake that it holds.

    Attributes:
        name: of the training set.
        snapshot_id: the snapshot that must stay readable; None where it needs none any more.
        path: the folder where the training set lies.
        manifest_fingerprint: of its manifest.
        created_at: UTC.
        updated_at: UTC.
    """

    name: str
    snapshot_id: int | None
    path: str
    manifest_fingerprint: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class ErasureRecord:
    """An erasure of users, of whom nothing but keyed hashes is kept.

    Attributes:
        erasure_id: sorts by start.
        subjects: keyed hashes of their ids.
        why: for a reader; it must not name them.
        state: how it stands.
        report: what was touched, in numbers.
        created_at: UTC.
        finished_at: UTC; None while it is under way.
    """

    erasure_id: str
    subjects: tuple[str, ...]
    why: str
    state: ErasureState
    report: Mapping[str, Any]
    created_at: datetime
    finished_at: datetime | None
