"""Generation on a cluster that loses a node: a minute, so not in CI.

```
python -m pytest tests/integration/generate_ray_nodes.py
```
"""

from __future__ import annotations

from typing import Any

import pytest
from generation_runs import bucketed, expected_rows, rows_in, task_of
from small_drawings import small_drawing
from three_nodes import three_nodes

from scalr_ray.generate import draw_batch

pytestmark = [
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]


def test_a_lost_node_neither_loses_nor_doubles_rows(tmp_path):
    drawing = small_drawing()
    buckets = bucketed(drawing, tmp_path / "buckets", users=2)
    assert buckets.counts.buckets > 50
    lost: list[Any] = []
    with three_nodes() as nodes:

        def lose_a_node(_users: int) -> None:
            if not lost:
                lost.append(nodes.worker_nodes.copy().pop())
                nodes.remove_node(lost[0], allow_graceful=False)

        batch = draw_batch(task_of(drawing, buckets), tmp_path, on_progress=lose_a_node)
    assert len(lost) == 1
    assert rows_in(*batch.paths).equals(expected_rows(drawing))
