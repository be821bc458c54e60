"""One repository for all tests of the pages, and one server over it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from served_pages import Site, served, shown_repo

from scalr_ray.core.layout import Layout
from scalr_ray.ledger import Ledger


@pytest.fixture(scope="session", name="site")
def site_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    repo = shown_repo(tmp_path_factory.mktemp("ui"))
    with closing(Ledger(Layout.of(repo).database_url)) as ledger:
        runs = ledger.runs(limit=None)
    with served(repo) as (address, _):
        yield Site(repo=repo, address=address, runs=runs)
