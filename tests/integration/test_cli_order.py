"""Verbs in a repository that has nothing yet: each says which comes first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import call_scalr, one_line
from marks import OPENS_FEAST
from planted_logs import SMALL_SETTINGS

pytestmark = OPENS_FEAST

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"


@pytest.fixture(name="repo")
def repo_fixture(tmp_path):
    ignore = shutil.ignore_patterns("data", "__pycache__")
    return shutil.copytree(DEFINITIONS, tmp_path / "repo", ignore=ignore)


def test_doctor_says_what_to_do_with_an_empty_repository(repo):
    examined = call_scalr(repo, "doctor", settings=SMALL_SETTINGS)
    assert examined.code == 2
    assert "run `scalr apply`" in examined.out
    assert "run `scalr import FILE`" in examined.out
    findings = call_scalr(repo, "--json", "doctor", settings=SMALL_SETTINGS).json
    sick = {finding["subject"] for finding in findings if not finding["healthy"]}
    assert sick == {"registry", "events"}


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        ("train", "scalr apply"),
        ("generate", "scalr train"),
        ("gate", "scalr generate"),
        ("publish", "scalr generate"),
        ("evaluate", "scalr run"),
    ],
)
def test_a_verb_out_of_order_says_which_comes_first(repo, verb, says):
    answer = call_scalr(repo, verb, settings=SMALL_SETTINGS)
    assert answer.code == 2
    assert says in one_line(answer)
