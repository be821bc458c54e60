"""The doctor: is this machine and this repository fit to run, and what to do where not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from scalr_ray.core.errors import ScalrError
from scalr_ray.jobs.status import LEAST_FREE_BYTES
from scalr_ray.jobs.workspace import SOURCE_VIEW, TARGET_VIEW, Workspace


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One answer of the doctor.

    Attributes:
        subject: what was looked at.
        healthy: whether it is fit.
        detail: what was found.
        remedy: what to do; empty where it is fit.
    """

    subject: str
    healthy: bool
    detail: str
    remedy: str = ""


def examine(workspace: Workspace) -> list[Finding]:
    """Look at versions, disk, configuration, registry, store, table, ledger and Ray."""
    looks: list[Callable[[Workspace], Finding]] = [
        _python,
        _packages,
        _disk,
        _configuration,
        _ledger,
        _lake,
        _registry,
        _events,
        _ray,
    ]
    return [_guarded(look, workspace) for look in looks]


def _guarded(look: Callable[[Workspace], Finding], workspace: Workspace) -> Finding:
    """An error of ours is a finding: its message says what to do."""
    try:
        return look(workspace)
    except ScalrError as error:
        name = look.__name__.strip("_")
        return Finding(subject=name, healthy=False, detail="failed", remedy=error.message)


def _python(_: Workspace) -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    fit = sys.version_info >= (3, 11)
    return Finding(
        subject="python",
        healthy=fit,
        detail=found,
        remedy="" if fit else "use Python 3.11 or newer",
    )


def _packages(_: Workspace) -> Finding:
    wrong = []
    needed = [Requirement(text) for text in requires("scalr") or []]
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    return Finding(
        subject="packages",
        healthy=not wrong,
        detail="; ".join(wrong) or f"{len(needed)} requirements checked",
        remedy="install requirements.lock" if wrong else "",
    )


def _disk(workspace: Workspace) -> Finding:
    folder = workspace.layout.data
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    fit = free >= LEAST_FREE_BYTES
    return Finding(
        subject="disk",
        healthy=fit,
        detail=f"{free / 1024**3:.1f} GiB free under {folder}",
        remedy="" if fit else "free some space, or point data_dir at another disk",
    )


def _configuration(workspace: Workspace) -> Finding:
    domains = workspace.config.domains
    return Finding(
        subject="configuration",
        healthy=True,
        detail=f"{', '.join(domains.source)} -> {domains.target}, "
        f"fingerprint {workspace.config.fingerprint[:12]}",
    )


def _ledger(workspace: Workspace) -> Finding:
    batches = workspace.ledger.batches()
    return Finding(subject="ledger", healthy=True, detail=f"{len(batches)} batches")


def _lake(workspace: Workspace) -> Finding:
    published = workspace.lake.published_batches()
    rows = sum(batch.rows for batch in published.values())
    return Finding(
        subject="synthetic events",
        healthy=True,
        detail=f"{len(published)} published batches, {rows:,} rows",
    )


def _registry(workspace: Workspace) -> Finding:
    views = {view.name for view in workspace.store.list_feature_views()}
    missing = {SOURCE_VIEW, TARGET_VIEW, "synthetic_events"} - views
    return Finding(
        subject="registry",
        healthy=not missing,
        detail=f"{len(views)} feature views" if views else "nothing is registered",
        remedy=f"run `scalr apply`; missing: {', '.join(sorted(missing))}" if missing else "",
    )


def _events(workspace: Workspace) -> Finding:
    counts = {
        view: len(list(workspace.layout.events(view).glob("part-*.parquet")))
        for view in (SOURCE_VIEW, TARGET_VIEW)
    }
    fit = all(counts.values())
    return Finding(
        subject="events",
        healthy=fit,
        detail=", ".join(f"{view}: {count} files" for view, count in counts.items()),
        remedy="" if fit else "run `scalr import FILE`",
    )


def _ray(workspace: Workspace) -> Finding:
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):  # stages go there by `scalr submit`
        from scalr_ray.jobs.submission import Head

        remembered = len(Head(address).jobs())
        detail = f"{address} takes jobs; it remembers {remembered} of ours"
        return Finding(subject="ray", healthy=True, detail=detail)
    import ray

    from scalr_ray.offline_store.cluster import ray_session

    with ray_session(workspace.config.resources.cpus):
        cpus = ray.cluster_resources().get("CPU", 0)
    fit = cpus >= 1
    return Finding(
        subject="ray",
        healthy=fit,
        detail=f"a session with {cpus:g} CPUs started",
        remedy="" if fit else "give the cluster at least one CPU",
    )
