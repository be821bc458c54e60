"""The end of the demo: what was published is kept, looked through, and one user taken back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow.compute as pc

from scalr_ray.core.clock import EPOCH
from scalr_ray.jobs.collect import collect
from scalr_ray.jobs.erase import erase
from scalr_ray.jobs.lineage import trace
from scalr_ray.jobs.recover import recover
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchRecord
from training import build_mixed_dataset
from training.saved import load

SET_NAME = "demo"


def keep_and_take_back(workspace: Workspace, batch: BatchRecord) -> dict[str, Any]:
    """Save a training set, trace one of its synthetic events, and erase the user who has it.

    Returns:
        What was found, in numbers and words, for the report.
    """
    store, progress = workspace.store, workspace.progress
    with progress.stage("Save a training set, and walk back from one of its events"):
        dataset = build_mixed_dataset(
            store,
            service="mixed_training_v1",
            start=EPOCH,
            end=batch.as_of + timedelta(microseconds=1),
            as_of=batch.as_of,
        )
        saved = dataset.save(SET_NAME)
        rows = dataset.table.filter(pc.equal(dataset.table["batch_id"], batch.batch_id))
        first = rows.sort_by("event_id").slice(0, 1).to_pylist()[0]
        lineage = trace(workspace, first["event_id"])
    progress.note(
        f"{first['event_id']} comes of {lineage.event['source_event_id']} by "
        f"{lineage.translator.version}"
    )
    with progress.stage("Erase one user"):
        erased = erase(workspace, [str(first["user_id"])], why="the demo shows how")
        left = load(store, SET_NAME)
    gone = saved.rows - left.table.num_rows
    progress.note(f"{gone} rows of one user are gone, also from the saved training set")
    removed = collect(workspace)
    return {
        "training_set": SET_NAME,
        "rows_saved": saved.rows,
        "event": first["event_id"],
        "source_event": lineage.event["source_event_id"],
        "erased_from": {kind: len(places) for kind, places in erased.report.items()},
        "rows_erased_from_the_set": gone,
        "synthetic_rows_erased": int(
            pc.sum(pc.equal(rows["user_id"], first["user_id"])).as_py() or 0
        ),
        "removed": {found.what: found.count for found in removed if found.count},
        "repairs_needed": len(recover(workspace)),
    }
