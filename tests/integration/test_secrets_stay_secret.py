"""A password or a key is in no output, no log, no file and no row, whatever becomes of the call."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import psycopg
import pytest
from commands import Answer, call_scalr
from marks import OPENS_FEAST
from planted_logs import bytes_below
from pulled_sets import DEFINITIONS, write_repo
from quick_repos import quick_repo
from sqlalchemy import make_url

from scalr_ray.core.errors import ConfigError

pytestmark = OPENS_FEAST

KEY = "a key that nobody sees"
REGISTRY = "path: sqlite:///data/scalr.db"
STORE = "  type: scalr_ray.offline_store.AsOfOfflineStore"


def said(answer: Answer, caplog: pytest.LogCaptureFixture) -> str:
    return answer.out + answer.err + caplog.text


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What stands in the environment as secret, or in an address."""
    from postgres_server import _QUOTED_PASSWORD, PASSWORD

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", KEY)
    return [PASSWORD, _QUOTED_PASSWORD, KEY]


def test_neither_output_nor_logs_nor_files_nor_rows_have_them(
    secrets: list[str], postgres_url: str, tmp_path: Path, caplog, capfd
) -> None:
    repo = write_repo(tmp_path / "repo", postgres_url).repo
    told = ""
    caplog.set_level(logging.DEBUG)
    for verb in (["apply"], ["runs"], ["publish", "b1"], ["lineage", "e1"], ["gc"], ["recover"]):
        told += said(call_scalr(repo, "-v", *verb), caplog)
    captured = capfd.readouterr()
    told += captured.out + captured.err
    assert "publish" in told
    for secret in secrets:
        assert secret not in told
        for name, content in bytes_below(repo).items():
            assert secret.encode() not in content, name
    address = make_url(postgres_url)
    with psycopg.connect(
        host=address.host, port=address.port, user=address.username, dbname=address.database
    ) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        rows = [
            connection.execute(f'SELECT t::text FROM "{name}" t').fetchall() for (name,) in tables
        ]
    assert len(tables) > 10
    assert not [secret for secret in secrets if secret in str(rows)]


def test_a_server_that_refuses_or_is_gone_says_no_password(
    secrets: list[str], postgres_url: str, tmp_path: Path, monkeypatch, caplog
) -> None:
    repo = quick_repo(tmp_path, postgres_url)
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PGPASSWORD", f"wrong {KEY}")
    for verb in ("runs", "recover"):
        answer = call_scalr(repo, "-v", verb)
        assert answer.code == 2
        assert "refuses the login" in answer.err
        assert not [secret for secret in secrets if secret in said(answer, caplog)]


WITH_SECRET = f"postgresql+psycopg://me:{KEY.replace(' ', '')}@127.0.0.1:1/x"
FEAST_FILES = {
    "no_such_option": (STORE, f"{STORE}\n  postgres_uri: {WITH_SECRET}"),
    "of_another_type": (STORE, f"{STORE}\n  postgres_url: [{WITH_SECRET}]"),
    "no_yaml": (REGISTRY, f"path: {WITH_SECRET}: x"),
    "no_name": ("project: scalr", f"project: {WITH_SECRET}"),
}


@pytest.mark.parametrize("case", FEAST_FILES)
def test_a_feast_file_that_is_refused_is_not_quoted(case: str, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    file = repo / "feature_store.yaml"
    old, new = FEAST_FILES[case]
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    from scalr_ray.offline_store import open_feature_store

    with pytest.raises(ConfigError, match="is no") as caught:
        open_feature_store(repo)
    assert KEY.replace(" ", "") not in str(caught.value)
