"""A backfill on a cluster that loses a node: two minutes, so not in CI.

```
python -m pytest tests/integration/backfill_ray_nodes.py
```
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from local_ray import local_ray
from marks import OPENS_FEAST
from scheduled_runs import DAY, SETTINGS, make_repo, middle_of, small_log
from three_nodes import losing_a_node_at, three_nodes

from scalr_ray import Scalr

pytestmark = [*OPENS_FEAST, pytest.mark.ray]

DRAWERS = ("ray::scalr", "ray::MapWorker")


def filled(repo: Path, log: pa.Table) -> pa.Table:
    """What a backfill of two origins publishes."""
    first = middle_of(log)
    with Scalr(repo, (*SETTINGS, "generation.users_per_task=2")) as scalr:
        origins = scalr.backfill(first, first + 20 * DAY, "20d")
        assert all(origin.published for origin in origins)
        return scalr._workspace.lake.read().sort_by("event_id")


def test_a_lost_node_neither_loses_nor_changes_events(tmp_path):
    log = small_log()
    with three_nodes() as nodes, losing_a_node_at(nodes, DRAWERS) as lost:
        found = filled(make_repo(tmp_path / "nodes", log), log)
    assert len(lost) == 1
    with local_ray(2):
        right = filled(make_repo(tmp_path / "here", log), log)
    assert found.equals(right)
