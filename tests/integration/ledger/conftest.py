from __future__ import annotations

from collections.abc import Iterator

import pytest

from scalr_ray.ledger import Ledger


@pytest.fixture
def ledger_url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with Ledger(ledger_url) as opened:
        yield opened
