"""What Prometheus is told: every metric by name, and where Ray is up, its values.

Ray exports them from the process that records them, each node on its metrics port, with the prefix
`ray_`. All are gauges: a run is a process that comes and goes, and a counter would begin at zero
each time. Ray shows a gauge for some 20 s after it was set, so whoever scrapes every 10 s sees it,
and asks for the last one by `last_over_time`. Times are told as seconds since 1970, from which an
age follows at any moment.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

EXPORTED_PREFIX = "ray_"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric.

    Attributes:
        name: without the prefix that Ray adds.
        help: what it says, units included.
        labels: beside `project`, which each has.
        kind: as Prometheus calls it.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge"] = "gauge"


STAGE_SECONDS = Metric(
    name="scalr_stage_seconds", help="Seconds that the last call took", labels=("stage",)
)
STAGE_FAILED = Metric(
    name="scalr_stage_failed",
    help="1 if the last call ended with an error, a refusal of the gate apart",
    labels=("stage",),
)
ROWS = Metric(
    name="scalr_rows",
    help="Rows of the last call: read, made, or refused",
    labels=("stage", "kind"),
)
ROWS_PER_SECOND = Metric(
    name="scalr_rows_per_second", help="Rows made per second in the last call", labels=("stage",)
)
GAIN_NATS = Metric(
    name="scalr_translator_gain_nats",
    help="Nats per held-out event that the evidence of the last trained translator gains",
    labels=("translator",),
)
LIKELIHOOD = Metric(
    name="scalr_batch_likelihood",
    help="Mean calibrated likelihood of the events of the last generated batch",
)
DRIFT = Metric(
    name="scalr_batch_drift",
    help="Population stability index of the last judged batch against the prior",
)
CHECK_PASSED = Metric(
    name="scalr_gate_check_passed",
    help="1 if the last judged batch passed the check",
    labels=("check",),
)
CHECK_VALUE = Metric(
    name="scalr_gate_check_value",
    help="What the check measured on the last judged batch",
    labels=("check",),
)
ACCEPTED = Metric(name="scalr_gate_accepted", help="1 if the gate accepted the last judged batch")
NEWEST_BATCH = Metric(
    name="scalr_newest_batch_seconds",
    help="Unix time as of which the newest published batch was generated",
)
PUBLISHED_AT = Metric(
    name="scalr_published_seconds", help="Unix time at which the newest batch was published"
)
WATERMARK = Metric(
    name="scalr_watermark_seconds",
    help="Unix time up to which published batches have seen the events of a source domain",
    labels=("domain",),
)
BATCHES = Metric(name="scalr_batches", help="Published batches")
SYNTHETIC_FRAC = Metric(
    name="scalr_synthetic_frac",
    help="Share of synthetic events among all target events, from 0 to 1",
)
HALF_DONE = Metric(
    name="scalr_half_done", help="Things that a crash left half done; `scalr recover` mends them"
)
FREE_BYTES = Metric(name="scalr_free_bytes", help="Bytes free on the disk of data_dir")

METRICS = (
    STAGE_SECONDS,
    STAGE_FAILED,
    ROWS,
    ROWS_PER_SECOND,
    GAIN_NATS,
    LIKELIHOOD,
    DRIFT,
    CHECK_PASSED,
    CHECK_VALUE,
    ACCEPTED,
    NEWEST_BATCH,
    PUBLISHED_AT,
    WATERMARK,
    BATCHES,
    SYNTHETIC_FRAC,
    HALF_DONE,
    FREE_BYTES,
)


def is_recording() -> bool:
    """Whether this process has a Ray that would export what it records."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def record(metric: Metric, value: float, *, project: str, **labels: str) -> None:
    """Set a metric; nothing happens where this process has no Ray.

    Args:
        metric: one of `METRICS`.
        value: in the unit that its help names.
        project: of the repository.
        labels: exactly those that the metric has.
    """
    assert labels.keys() == set(metric.labels), (metric.name, labels)
    if not is_recording():
        return
    from ray.util.metrics import Gauge

    gauge = Gauge(metric.name, description=metric.help, tag_keys=("project", *metric.labels))
    gauge.set(float(value), {"project": project, **labels})


def record_rows(stage: str, rows: Mapping[str, int], project: str) -> None:
    """How many rows a call handled, by what they are."""
    for kind, count in rows.items():
        record(ROWS, count, project=project, stage=stage, kind=kind)
