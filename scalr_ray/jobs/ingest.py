"""Import and apply: a log into the event views, snapshots of features, definitions in Feast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.compute as pc

from scalr_ray.core.events import EVENT_TIMESTAMP
from scalr_ray.ingest import (
    EventLog,
    ImportResult,
    import_log,
    read_event_log,
    refuse_other_tables,
    snapshot_times,
    write_snapshots,
)
from scalr_ray.jobs import open_lineage
from scalr_ray.jobs.metrics import record_rows
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.offline_store.feature_store import close_feature_store
from scalr_ray.offline_store.pull import Registered, apply_definitions, registered

_SNAPSHOT_DAYS = 30
_SNAPSHOTS_BACK = timedelta(days=720)


def import_file(workspace: Workspace, file: Path, columns: Mapping[str, str]) -> ImportResult:
    """Read, check and import a log, and bring the feature snapshots up to its last event."""
    domains = workspace.config.domains
    # The run is recorded once the file has been judged: a bad one leaves no trace in the data.
    with workspace.progress.stage(f"Read and check {file.name}"):
        log = read_event_log(
            file,
            ids=workspace.config.ids,
            source=domains.source,
            target=domains.target,
            columns=columns,
        )
        refuse_other_tables(log, workspace.layout, target=domains.target)
    newest = pc.max(log.events[EVENT_TIMESTAMP]).as_py()
    with workspace.run("import"):
        open_lineage.reads(open_lineage.folder(file.resolve()))
        open_lineage.writes(*workspace.event_folders())
        return import_events(workspace, log, snapshots_at=[newest + timedelta(microseconds=1)])


def import_events(
    workspace: Workspace, log: EventLog, *, snapshots_at: Sequence[datetime]
) -> ImportResult:
    """Write a checked log into the event views, then feature snapshots up to the last time given.

    Args:
        workspace: an opened repository.
        log: what was read.
        snapshots_at: times that get a snapshot; before the last, one is made every 30 days.
    """
    config, progress = workspace.config, workspace.progress
    log = log.without(workspace.erased)
    with progress.stage("Import into the event views"):
        seen_up_to = workspace.ledger.watermarks()
        result = import_log(
            log,
            workspace.layout,
            source=config.domains.source,
            target=config.domains.target,
            seen_up_to=seen_up_to,
        )
    for domain, rows in result.imported.items():
        progress.note(f"{rows:,} events of {domain}")
    _note_refusals(workspace, result)
    refused = {"duplicates": result.duplicates, "malformed": result.malformed}
    record_rows("import", {**result.imported, **refused}, config.project)
    for domain, events in result.behind.items():
        progress.note(
            f"{events:,} events of {domain} could be seen, by this log, before {seen_up_to[domain]}"
            ", up to which events have been generated for: `scalr run` does not take them for new; "
            "say in available_at when they became known"
        )
    last = max(snapshots_at)
    with progress.stage("Write feature snapshots"):
        times = {*snapshots_at, *snapshot_times(last - _SNAPSHOTS_BACK, last, _SNAPSHOT_DAYS)}
        snapshots = write_snapshots(workspace.layout, ids=config.ids, times=sorted(times))
    progress.note(", ".join(f"{count:,} rows of {view}" for view, count in snapshots.items()))
    return result


def apply(workspace: Workspace) -> Registered:
    """Run `feast apply` in the repository and say what is registered."""
    _ = workspace.lake  # opening makes the table, which must be there when Feast looks at it
    with workspace.run("apply"):
        with workspace.progress.stage("Register the definitions (feast apply)"):
            _ = workspace.store.registry  # of whose database Feast's command says less
            apply_definitions(workspace.repo)
        close_feature_store(workspace.__dict__.pop("store"))  # it knows what was before
        names = registered(workspace.store)
    views = ", ".join(f"{name} ({features} features)" for name, features in names.feature_views)
    workspace.progress.note(f"entities: {', '.join(names.entities)}")
    workspace.progress.note(f"feature views: {views}")
    workspace.progress.note(f"feature services: {', '.join(names.feature_services)}")
    return names


def _note_refusals(workspace: Workspace, result: ImportResult) -> None:
    if result.already_imported:
        workspace.progress.note(f"{result.already_imported:,} events were there already")
    if result.erased:
        workspace.progress.note(f"{result.erased:,} rows of users who were erased were left out")
    if result.refused_file is not None:
        workspace.progress.note(
            f"{result.duplicates:,} duplicate and {result.malformed:,} malformed rows were set "
            f"aside in {result.refused_file}"
        )
