"""Repositories without Feast and Ray: a ledger, a lake, and event files that were put there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from lake_rows import NOON, SCHEMA, event
from pyiceberg.catalog.sql import SqlCatalog

from scalr_ray import Scalr
from scalr_ray.core.events import event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.ingest.files import write_tables
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.lake.catalog import TABLE_NAME, open_catalog
from scalr_ray.ledger import BatchState, Finding

USER = "the user to erase"


def quick_repo(folder: Path, database_url: str | None = None) -> Path:
    """A repository with nothing in it but its settings."""
    repo = folder / "repo"
    repo.mkdir(parents=True)
    text = "project: scalr\nids: {user_id: string, item_id: int64}\n"
    if database_url is not None:
        text += f"database: {database_url}\n"
    (repo / "scalr.yaml").write_text(text, encoding="utf-8")
    return repo


def workspace_of(scalr: Scalr) -> Workspace:
    return scalr._workspace


def rows_of(batch_id: str, count: int = 12, users: Sequence[str] = ()) -> pa.Table:
    """Rows of a batch, of the users in turn; by default every third is of the user to erase."""
    named = users or [USER, "u1", "u2"]
    rows = [event(batch_id, slot, user_id=named[slot % len(named)]) for slot in range(count)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def add_batch(
    workspace: Workspace,
    batch_id: str,
    *,
    state: BatchState = BatchState.STAGED,
    rows: pa.Table | None = None,
    findings: Sequence[Finding] = (),
) -> None:
    """A batch of a run and a translator of its own, brought into a state as the jobs do."""
    ledger, lake = workspace.ledger, workspace.lake
    table = rows_of(batch_id) if rows is None else rows
    config = workspace.config.model_dump(mode="json")
    with ledger.running("generate", config, workspace.config.fingerprint, 0) as run:
        ledger.add_translator(
            version=f"neural-{batch_id}",
            run_id=run.run_id,
            kind="neural",
            train_cutoff=NOON,
            config_fingerprint=workspace.config.fingerprint,
            data_fingerprint="0" * 64,
            metrics={"z": 2.5},
            path=str(workspace.layout.translators / f"neural-{batch_id}"),
        )
        lake.write_staged(batch_id, table)
        ledger.add_batch(
            batch_id=batch_id,
            run_id=run.run_id,
            translator_version=f"neural-{batch_id}",
            as_of=NOON,
            rows=table.num_rows,
        )
    if state is BatchState.STAGED:
        return
    to = BatchState.REJECTED if state is BatchState.REJECTED else BatchState.ACCEPTED
    ledger.judge_batch(batch_id, findings=findings, to=to, reason=None)
    if state in (BatchState.PUBLISHED, BatchState.RETIRED):
        snapshot = lake.publish(batch_id).snapshot_id
        ledger.move_batch(
            batch_id,
            expected=BatchState.ACCEPTED,
            to=BatchState.PUBLISHED,
            snapshot_id=snapshot,
        )
    if state is BatchState.RETIRED:
        lake.retire(batch_id)
        ledger.move_batch(batch_id, expected=BatchState.PUBLISHED, to=BatchState.RETIRED)


def add_events(layout: Layout, view: str, users: Sequence[str], domain: str) -> Path:
    """A file of events behind a view, one event a user."""
    rows = [
        {
            "event_id": f"{view}-{slot}",
            "user_id": user,
            "item_id": slot,
            "domain": domain,
            "event_type": "click",
            "event_timestamp": NOON,
            "available_at": NOON,
            "value": None,
        }
        for slot, user in enumerate(users)
    ]
    part = layout.events(view) / "part-0.parquet"
    # Whole or not at all, as an import does it: whoever writes may be killed at any instant.
    write_tables({part: pa.Table.from_pylist(rows, schema=event_schema("string", "int64"))})
    return part


def reachable(layout: Layout) -> set[str]:
    """Every file that some snapshot of the table names, found by walking all of them."""
    catalog = open_catalog(layout)
    table = catalog.load_table(TABLE_NAME)
    found = {table.metadata_location}
    found |= {entry.metadata_file for entry in table.metadata.metadata_log}
    for snapshot in table.metadata.snapshots:
        found.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            found.add(manifest.manifest_path)
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                found.add(entry.data_file.file_path)
    SqlCatalog.close(catalog)
    return found


def files_below(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {str(path) for path in folder.rglob("*") if path.is_file()}


def holding(folder: Path, text: str) -> list[str]:
    """The files below a folder in which a text stands, be it in their bytes or in a Parquet row."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if content[:4] == b"PAR1":
            content += repr(pq.read_table(path).to_pylist()).encode()
        if text.encode() in content or text in os.fsdecode(path):
            found.append(str(path))
    return found
