"""Fixtures: a quick repository, on SQLite and on PostgreSQL, and what is opened of it.

```python
from opened_repos import repo_fixture, scalr_fixture, workspace_fixture  # noqa: F401 - fixtures
```
A module may have a `repo` of its own, or a `scalr`, and take the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from quick_repos import quick_repo, workspace_of

from scalr_ray import Scalr
from scalr_ray.jobs.workspace import Workspace


@pytest.fixture(name="repo")
def repo_fixture(tmp_path: Path, database_url: str) -> Path:
    return quick_repo(tmp_path, database_url)


@pytest.fixture(name="scalr")
def scalr_fixture(repo: Path) -> Iterator[Scalr]:
    with Scalr(repo) as opened:
        yield opened


@pytest.fixture(name="workspace")
def workspace_fixture(scalr: Scalr) -> Workspace:
    return workspace_of(scalr)
