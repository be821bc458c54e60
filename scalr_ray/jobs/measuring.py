"""When metrics are recorded: at the end of a stage, and of a run, how the repository stands."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

from scalr_ray.core.errors import ScalrError
from scalr_ray.gate import Check
from scalr_ray.jobs import metrics
from scalr_ray.jobs.metrics import record
from scalr_ray.jobs.status import Status, look
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.offline_store.cluster import ray_session

_DRIFT = "popularity_drift"


@contextmanager
def measured(workspace: Workspace) -> Iterator[None]:
    """Be connected to the cluster that `RAY_ADDRESS` names, if it names one, while the block runs.

    So what stages record in the block is exported, where each would else come and go with its own
    connection. At the end, however it ends, it is recorded how the repository stands.

    Raises:
        RetryLater: the cluster does not answer.
    """
    with ray_session(1) if os.environ.get("RAY_ADDRESS") else nullcontext():
        try:
            yield
        finally:
            if metrics.is_recording():
                with suppress(ScalrError):  # what was done stays done if a look at it fails
                    record_status(look(workspace.repo, workspace.config), workspace.config.project)


def record_checks(checks: Sequence[Check], project: str, *, accepted: bool) -> None:
    """What the gate said of a batch."""
    record(metrics.ACCEPTED, accepted, project=project)
    for check in checks:
        record(metrics.CHECK_PASSED, check.passed, project=project, check=check.name)
        if check.value is not None:
            record(metrics.CHECK_VALUE, check.value, project=project, check=check.name)
            if check.name == _DRIFT:
                record(metrics.DRIFT, check.value, project=project)


def record_status(status: Status, project: str) -> None:
    """How a repository stands."""
    for domain, moment in status.watermarks.items():
        record(metrics.WATERMARK, moment.timestamp(), project=project, domain=domain)
    if status.synthetic_frac is not None:
        record(metrics.SYNTHETIC_FRAC, status.synthetic_frac, project=project)
    record(metrics.BATCHES, status.batches, project=project)
    record(metrics.HALF_DONE, status.half_done, project=project)
    record(metrics.FREE_BYTES, status.free_bytes, project=project)
    if (newest := status.newest) is not None:
        record(metrics.NEWEST_BATCH, newest.as_of.timestamp(), project=project)
        record(metrics.PUBLISHED_AT, newest.published_at.timestamp(), project=project)
