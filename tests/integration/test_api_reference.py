"""The API reference is made without a warning, and what docstrings refer to is there."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_reference import FACES, modules, write
from marks import OPENS_FEAST
from pdoc.doc import Class, Doc, Function, Module

from scalr_ray.core.config import ScalrConfig

pytestmark = OPENS_FEAST

ROOT = Path(__file__).parents[2]
PACKAGES = ("feature_repo", "scalr_ray", "training")
ROOMS = {path.parent.name for path in (ROOT / "scalr_ray").glob("*/__init__.py")}
FILES = [file for name in PACKAGES for file in sorted((ROOT / name).rglob("*.py"))]

_FENCE = re.compile(r"```.*?```", re.DOTALL)
_QUOTED = re.compile(r"`([\w./]+)(?:\(\))?`")
_FILE = re.compile(r".*\.(json|yaml|parquet)")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_CLASS = re.compile(r"[A-Z][a-z]+([A-Z]\w*)+")


@pytest.fixture(scope="module")
def faces() -> dict[str, Module]:
    return modules()


def test_it_is_made_without_a_warning(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        write(tmp_path, search=False)
    assert [str(warning.message) for warning in caught if warning.category is UserWarning] == []
    pages = {str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.html")}
    assert pages >= {"index.html", *(f"{name.replace('.', '/')}.html" for name in FACES)}
    sdk = (tmp_path / "scalr_ray.html").read_text(encoding="utf-8")
    assert 'id="Scalr.run"' in sdk
    assert 'href="scalr_ray/jobs/upkeep.html#Upkeep.retire"' in sdk
    assert 'href="scalr_ray/jobs/increment.html#RunOutcome"' in sdk


def test_no_public_face_is_left_out():
    rooms = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file, tree in TREES.items()
        if file.name == "__init__.py" and "__all__" in definitions(tree)
    }
    assert {room for room in rooms if room.count(".") <= 1} <= set(FACES)


def public(doc: Doc) -> Iterator[Doc]:
    """What is documented below a module or a class, itself included."""
    yield doc
    if isinstance(doc, Module | Class):
        for member in doc.own_members if isinstance(doc, Class) else doc.members.values():
            if not member.name.startswith("_") and not isinstance(member, Module):
                yield from public(member)


def test_whatever_is_public_has_a_docstring(faces):
    documented = [doc for face in faces.values() for doc in public(face)]
    assert len(documented) > 500
    silent = [
        doc.fullname
        for doc in documented
        if isinstance(doc, Module | Class | Function) and not doc.docstring.strip()
    ]
    assert silent == []


def definitions(tree: ast.AST) -> dict[str, ast.AST]:
    """What a module or a class defines or imports, by name."""
    found: dict[str, ast.AST] = {}
    for node in ast.walk(tree) if isinstance(tree, ast.Module) else ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
    return found


TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
CLASSES = {
    node.name: node
    for tree in TREES.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef)
}


def home(path: str) -> tuple[Path, list[str]]:
    """The file of the module that a dotted path begins with, and what is asked of it."""
    parts, rest = path.split("."), []
    while parts:
        folder = ROOT.joinpath(*parts)
        for file in (folder / "__init__.py", folder.with_suffix(".py")):
            if file in TREES:
                return file, rest
        rest.insert(0, parts.pop())
    raise LookupError(path)


def resolves(name: str) -> bool:
    """Whether there is what a dotted name in a docstring of ours refers to."""
    first, *rest = name.split(".")
    if first in PACKAGES:
        file, asked = home(name)
        tree: ast.AST = TREES[file]
        for part in asked:
            known = definitions(tree)
            if part not in known:
                return False
            tree = known[part]
        return True
    if first in CLASSES:
        return len(rest) == 1 and attribute(CLASSES[first], rest[0])
    if first in ScalrConfig.model_fields:
        return is_setting(name.split("."))
    return first not in ROOMS  # a room is named in full


def attribute(node: ast.ClassDef, name: str) -> bool:
    """Whether a class or one above it has an attribute, in itself or by `self.name = ...`."""
    own = name in definitions(node) or any(
        isinstance(inner, ast.Attribute) and inner.attr == name for inner in ast.walk(node)
    )
    above = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return own or any(attribute(CLASSES[base], name) for base in above if base in CLASSES)


def is_setting(path: list[str]) -> bool:
    model = ScalrConfig
    for part in path:
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return False
        model = fields[part].annotation
    return True


def references() -> Iterator[tuple[Path, str]]:
    """Dotted names, classes and Python files in back-quotes, with the file they stand in."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    for file, tree in TREES.items():
        texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        for name in _QUOTED.findall(_FENCE.sub("", "\n".join(filter(None, texts)))):
            dotted = _DOTTED.fullmatch(name) and not _FILE.fullmatch(name)
            if name.endswith(".py") or dotted or _CLASS.fullmatch(name):
                yield file, name


def test_what_a_docstring_refers_to_is_there():
    found = list(references())
    assert len(found) > 100
    dangling = []
    for file, name in found:
        if name.endswith(".py"):
            there = any((folder / name).is_file() for folder in (*file.parents, ROOT))
        elif _CLASS.fullmatch(name):
            there = name in CLASSES or name in definitions(TREES[file])
        else:
            there = resolves(name)
        if not there:
            dangling.append(f"{file.relative_to(ROOT)}: `{name}`")
    assert dangling == []


@pytest.mark.parametrize(
    "wrong",
    [
        "scalr_ray.core.clock.parse_tme",
        "training.mixed.Mix.nothing",
        "Scalr.fly",
        "prior.window_weeks",
        "core.clock",
    ],
)
def test_what_is_not_there_would_be_found(wrong):
    assert not resolves(wrong)
