from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lake_rows import IDS, layout_in

from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return layout_in(tmp_path)


@pytest.fixture
def lake(layout: Layout) -> Iterator[SyntheticEventLake]:
    with SyntheticEventLake.open(layout, IDS) as opened:
        yield opened
