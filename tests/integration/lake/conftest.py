"""The lake on each kind of catalog and warehouse: SQLite or PostgreSQL, local disk or S3."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lake_rows import IDS, layout_in
from s3_server import BUCKET, s3_fixture, s3_server_fixture  # noqa: F401 - the fixture `s3`

from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake


@pytest.fixture
def local_layout(tmp_path: Path) -> Layout:
    """Everything in one folder: a SQLite catalog and a local warehouse."""
    return layout_in(tmp_path)


@pytest.fixture
def s3_layout(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A warehouse in S3, whose endpoint is in the environment, and a SQLite catalog."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    return replace(layout_in(tmp_path), warehouse_at=f"s3://{BUCKET}/lake {uuid.uuid4().hex}")


@pytest.fixture
def postgres_layout(postgres_url: str, tmp_path: Path) -> Layout:
    """A PostgreSQL catalog and a local warehouse."""
    return replace(layout_in(tmp_path), database=postgres_url)


@pytest.fixture(params=["local", "postgres", "s3"])
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.getfixturevalue(f"{request.param}_layout")
    return found


@pytest.fixture
def lake(layout: Layout) -> Iterator[SyntheticEventLake]:
    with SyntheticEventLake.open(layout, IDS) as opened:
        yield opened
