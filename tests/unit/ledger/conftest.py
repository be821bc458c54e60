from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scalr_ray.ledger import Ledger


@pytest.fixture
def ledger_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'new' / 'scalr.db'}"


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with Ledger(ledger_url) as opened:
        yield opened
