"""The as-of join on a cluster that loses a node: half a minute, so not in CI.

```
python -m pytest tests/contract/asof_ray_nodes.py
```
"""

from __future__ import annotations

import pytest
from three_nodes import losing_a_node_at, three_nodes

from tests.contract.test_asof_ray import (
    TASKS,
    definitions,
    entity_rows,
    feature_store,
    world,
    write,
)

pytestmark = [
    pytest.mark.feast,
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]


def test_a_lost_node_changes_no_answer(tmp_path):
    for view in ("steps", "routes", "places"):
        write(tmp_path, view, world(view, 20_000), files=8)
    feature_store(tmp_path).apply(definitions(tmp_path))
    entities = entity_rows(20_000)

    def ask(**options):
        store = feature_store(tmp_path, **options)
        return store.get_historical_features(entities, ["steps:count"]).to_arrow()

    right = ask(engine="duckdb")
    with three_nodes() as nodes, losing_a_node_at(nodes, TASKS) as lost:
        found = ask(engine="ray", partition_rows=1000)
    assert len(lost) == 1
    assert found.equals(right)
