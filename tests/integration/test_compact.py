"""Compaction by its verb: fewer files, the same rows, batches and older snapshots."""

from __future__ import annotations

import json
from pathlib import Path

from quick_repos import add_batch, quick_repo, workspace_of

from scalr_ray import Scalr
from scalr_ray.cli.main import main
from scalr_ray.ledger import BatchState


def test_small_files_are_put_together_and_everything_else_stays(
    tmp_path: Path, database_url: str, capsys
) -> None:
    repo = quick_repo(tmp_path, database_url)
    with Scalr(repo) as scalr:
        for number in range(4):
            add_batch(workspace_of(scalr), f"b{number}", state=BatchState.PUBLISHED)
        lake = workspace_of(scalr).lake
        before, snapshot = lake.read().sort_by("event_id"), lake.current_snapshot_id()
        batches = set(lake.published_batches())
    assert main(["--repo", str(repo), "--json", "compact"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["files_before"], told["files_after"], told["rows"]) == (4, 1, before.num_rows)
    with Scalr(repo) as scalr:
        lake = workspace_of(scalr).lake
        assert lake.current_snapshot_id() == told["snapshot_id"] != snapshot
        assert lake.read().sort_by("event_id").equals(before)
        assert lake.read(snapshot_id=snapshot).sort_by("event_id").equals(before)
        assert set(lake.published_batches()) == batches
        assert scalr.retire("b1").record.state is BatchState.RETIRED
        assert set(lake.published_batches()) == batches - {"b1"}
        assert scalr.recover() == []
    assert main(["--repo", str(repo), "compact"]) == 0
    assert "there are no small files to put together" in capsys.readouterr().out
