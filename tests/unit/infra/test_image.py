from __future__ import annotations

import fnmatch
import re
import shlex
from pathlib import Path

import pytest
from kubernetes_shapes import IMAGE

ROOT = Path(__file__).parents[3]
LINES = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "CMD"}


def steps() -> list[tuple[str, str, str]]:
    """Stage, instruction and arguments, lines that go on put together."""
    text = re.sub(r"^\s*#.*\n", "", LINES, flags=re.MULTILINE).replace("\\\n", " ")
    found, stage = [], ""
    for line in filter(str.strip, text.splitlines()):
        instruction, _, arguments = line.partition(" ")
        if instruction == "FROM":
            stage = arguments.split()[-1]
        found.append((stage, instruction, " ".join(arguments.split())))
    return found


def of(stage: str, instruction: str) -> list[str]:
    return [told for place, named, told in steps() if (place, named) == (stage, instruction)]


def test_only_known_instructions_are_used():
    assert {instruction for _, instruction, _ in steps()} <= KNOWN


def test_bases_are_exact_or_earlier_stages():
    stages: list[str] = []
    for stage, instruction, told in steps():
        if instruction == "FROM":
            base = told.split()[0]
            assert base in stages or (IMAGE.fullmatch(base) and re.search(r":\d+\.\d+\.\d+", base))
            stages.append(stage)
    assert {"cpu", "cuda"} <= set(stages)


def test_what_is_copied_is_there_and_not_ignored():
    copied = [told for _, instruction, told in steps() if instruction == "COPY"]
    kept = {line[1:] for line in IGNORED if line.startswith("!")}
    assert IGNORED[1] == "*"
    for told in copied:
        *sources, _ = [word for word in told.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source in kept, source


@pytest.mark.parametrize("secret", ["feature_repo/data/erasure.key", "infra/.env", ".git/config"])
def test_secrets_and_data_are_not_sent_to_the_builder(secret):
    parts = secret.split("/")
    prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    state = False
    for line in (line for line in IGNORED if line and not line.startswith("#")):
        pattern = line.removeprefix("!")
        if any(fnmatch.fnmatch(prefix, pattern) for prefix in prefixes):
            state = not line.startswith("!")
    assert state


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_is_made_from_the_lock_and_is_not_root(target):
    (user,) = of(target, "USER")
    assert user.split(":")[0] not in ("0", "root")
    (install,) = of(target, "RUN")
    calls = [shlex.split(call) for call in install.split("&&")]
    installs = [call for call in calls if "install" in call]
    for call in installs:
        assert call[call.index("--constraint") + 1] == "/wheels/constraints.txt"
    assert any(
        "cp requirements.lock /wheels/constraints.txt" in told for told in of("build", "RUN")
    )
    indexes = {call[call.index("--index-url") + 1] for call in installs if "--index-url" in call}
    assert indexes == ({"https://download.pytorch.org/whl/cpu"} if target == "cpu" else set())


def test_no_secret_is_baked_in():
    assert not re.search(r"(PASSWORD|SECRET|_KEY|AUTH_TOKEN)\s*=", LINES)


def test_the_python_is_one_that_the_project_takes():
    from packaging.specifiers import SpecifierSet

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (taken,) = re.findall(r'requires-python = "(.*)"', text)
    for version in re.findall(r"FROM python:(\d+\.\d+\.\d+)", LINES):
        assert version in SpecifierSet(taken)
