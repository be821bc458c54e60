"""Whether ledger, table and files agree, whatever was killed before."""

from __future__ import annotations

from pathlib import Path

from quick_repos import files_below, reachable, workspace_of

from scalr_ray import Scalr
from scalr_ray.ledger import BatchState


def assert_whole(repo: Path) -> None:
    """Ledger and table agree, every batch is whole or absent, and `gc` finds all orphans."""
    with Scalr(repo, ("retention.orphans_hours=0",)) as scalr:
        workspace = workspace_of(scalr)
        ledger, lake = workspace.ledger, workspace.lake
        assert ledger.running_runs() == []
        assert scalr.recover() == []
        shown = {batch.batch_id for batch in ledger.batches(BatchState.PUBLISHED)}
        assert set(lake.published_batches()) == shown
        rows = lake.read()
        for batch_id in shown:
            ids = [row["event_id"] for row in rows.to_pylist() if row["batch_id"] == batch_id]
            assert len(ids) == len(set(ids)) == lake.published_batches()[batch_id].rows
        staged = {
            batch.batch_id: batch.rows
            for state in (BatchState.STAGED, BatchState.ACCEPTED)
            for batch in ledger.batches(state)
        }
        assert lake.staged_batches() == staged
        in_use = {file for batch_id in staged for file in lake.staged_files(batch_id)}
        scalr.gc()
        left = files_below(Path(workspace.layout.warehouse)) - reachable(workspace.layout) - in_use
        assert {Path(path).name for path in left} <= {"_staged.json"}
