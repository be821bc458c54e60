"""A run says by which commit it was done, if the package lies in a checkout of its own."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from scalr_ray.ledger import Ledger
from scalr_ray.ledger.code import code_version, commit_of


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", *who, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "-m", "First")
    git(tmp_path, "tag", "-a", "v1", "-m", "A tag says less than a commit")
    return tmp_path


def test_a_checkout_is_known_by_its_commit_and_by_what_is_not_committed(checkout):
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    assert commit_of(checkout) == commit
    (checkout / "code.py").write_text("2\n")
    assert commit_of(checkout) == f"{commit}.dirty"


def test_within_the_checkout_of_something_else_there_is_no_commit(checkout):
    (checkout / "venv").mkdir()
    assert commit_of(checkout / "venv") is None


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit_of(checkout) is None


def test_a_broken_checkout_has_no_commit(tmp_path):
    (tmp_path / ".git").mkdir()
    assert commit_of(tmp_path) is None


def test_the_ledger_keeps_version_and_commit(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    run = ledger.start_run("train", {}, "f", 0)
    ledger.close()
    assert run.code_version == code_version()
    commit = commit_of(Path(__file__).parents[3])
    expected = version("scalr") if commit is None else f"{version('scalr')}+g{commit}"
    assert run.code_version.removesuffix(".dirty") == expected.removesuffix(".dirty")
    assert re.fullmatch(r"[^+]+(\+g[0-9a-f]{12,40}(\.dirty)?)?", run.code_version)
