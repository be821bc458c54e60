"""What the documents point at is there: targets of make, files, programs, settings, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scalr_ray.core.config import ScalrConfig

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted(
    str(file.relative_to(ROOT)) for file in (*ROOT.glob("*.md"), *(ROOT / "infra").rglob("*.md"))
)
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))

# Where a path may begin that a document names: a room is named as seen from its package.
BASES = (ROOT, ROOT / "scalr_ray", ROOT / "training", ROOT / "infra", ROOT / "feature_repo")

_FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_MAKE = re.compile(r"(?:^|&& |; )\s*make ([a-z]+)", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PROGRAM = re.compile(r"\bpython -m (\w+(?:\.\w+)*)")
_FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|ipynb|sql|sh|md)")
_FOLDER = re.compile(r"(?:[\w.-]+/)+")
_SETTING = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")
# What is there once something has run.
_WRITTEN = ("data/", "training_sets/", "site/")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def quoted(document: str) -> list[str]:
    """What stands in back-quotes, without the blocks."""
    return _INLINE.findall(_FENCE.sub("", text_of(document)))


def commands(document: str) -> str:
    """Every block, and what stands in back-quotes, a line each."""
    return "\n".join([*_FENCE.findall(text_of(document)), *quoted(document)])


def exists(path: str) -> bool:
    return any((base / path).exists() for base in BASES) or any(ROOT.glob(f"*/*/{path}"))


def is_setting(name: str) -> bool:
    fields = ScalrConfig.model_fields
    for part in name.split("."):
        if part not in fields:
            return False
        fields = getattr(fields[part].annotation, "model_fields", {})
    return True


def dangling(document: str) -> Iterator[str]:
    told = commands(document)
    yield from (f"make {name}" for name in _MAKE.findall(told) if name not in TARGETS)
    for link in _LINK.findall(text_of(document)):
        path = link.partition("#")[0]
        if (
            not link.startswith(("http:", "https:"))
            and not (ROOT / document).parent.joinpath(path).exists()
        ):
            yield link
    for name in _PROGRAM.findall(told):
        place = ROOT / name.replace(".", "/")
        if not place.with_suffix(".py").is_file() and not (place / "__init__.py").is_file():
            yield f"python -m {name}"
    for name in quoted(document):
        is_path = _FILE.fullmatch(name) or _FOLDER.fullmatch(name)
        if is_path and not name.startswith(_WRITTEN) and not exists(name):
            yield name
        first = name.partition(".")[0]
        setting = _SETTING.fullmatch(name) and first in ScalrConfig.model_fields
        if setting and not _FILE.fullmatch(name) and not exists(name) and not is_setting(name):
            yield name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_points_at_is_there(document):
    assert list(dangling(document)) == []


def test_there_is_something_to_find():
    found = "\n".join(map(commands, DOCUMENTS))
    assert {"install", "demo", "test", "docs"} <= set(_MAKE.findall(found))
    assert len(_PROGRAM.findall(found)) > 5
    settings = [name for document in DOCUMENTS for name in quoted(document) if is_setting(name)]
    assert len(settings) > 20
    links = [link for document in DOCUMENTS for link in _LINK.findall(text_of(document))]
    assert "training/tutorial.ipynb" in links


def test_what_is_not_there_would_be_found(tmp_path, monkeypatch):
    wrong = tmp_path / "WRONG.md"
    wrong.write_text(
        "`make nothing`, `python -m training.nothing`, `prior.nothing`, `nothing.py`, "
        "`scalr_ray/nothing/` and [this](NOTHING.md)\n```sh\nmake neither\n```\n"
    )
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert sorted(dangling("WRONG.md")) == [
        "NOTHING.md",
        "make neither",
        "make nothing",
        "nothing.py",
        "prior.nothing",
        "python -m training.nothing",
        "scalr_ray/nothing/",
    ]
