"""No file that is read becomes code: what would do so is not called anywhere in the packages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("scalr_ray", "training", "feature_repo")
FILES = sorted(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
BUILT_IN = {"eval", "exec", "compile", "__import__"}
CALLS = {
    ("torch", "load"),
    ("torch", "save"),
    ("os", "system"),
    ("os", "popen"),
    ("yaml", "load"),
    ("yaml", "load_all"),
    ("yaml", "full_load"),
    ("yaml", "unsafe_load"),
    ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"),
    ("pd", "read_pickle"),
    ("pd", "eval"),
}
# Rules of the linter that are not to be switched off here: pickles, code from text, shells, YAML,
# certificates that nobody checks, files that anybody may write.
KEPT_RULES = re.compile(
    r"noqa:.*\bS(102|103|113|30[1267]|31[456]|324|501|506|60[2457]|614|70[12])\b"
)


def calls_of(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What is done in a module that would make code of data, and where."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            yield from ((name, node) for name in names & MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in BUILT_IN:
            yield called.id, node
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            name = (called.value.id, called.attr)
            if name in CALLS:
                yield ".".join(name), node
        for argument in node.keywords:
            is_false = isinstance(argument.value, ast.Constant) and argument.value.value is False
            if argument.arg in ("shell", "allow_pickle") and not is_false:
                yield f"{argument.arg}=", node


def found_in(text: str) -> list[str]:
    found = [f"line {node.lineno}: {what}" for what, node in calls_of(ast.parse(text))]
    lines = enumerate(text.splitlines(), start=1)
    return found + [f"line {at}: {line}" for at, line in lines if KEPT_RULES.search(line)]


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_makes_code_of_data(package: str):
    files = [file for file in FILES if file.is_relative_to(ROOT / package)]
    assert files
    found = {f"{file}": lines for file in files if (lines := found_in(file.read_text("utf-8")))}
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(f)",
        "numpy.load(f, allow_pickle=True)",
        "numpy.load(f, allow_pickle=wish)",
        "eval(text)",
        "subprocess.run(line, shell=True)",
        "yaml.load(text)",
        "x = 1  # noqa: S301 - trust me",
        "x = 1  # noqa: D1, S602",
    ],
)
def test_it_would_be_found(text: str):
    assert found_in(text)


def test_what_reads_nothing_is_no_finding():
    assert found_in("model.eval()\nnumpy.load(f, allow_pickle=False)\nyaml.safe_load(t)") == []


def test_what_the_security_page_names_is_there():
    page = (ROOT / "SECURITY.md").read_text("utf-8")
    named = sorted(set(re.findall(r"`((?:tests|infra|scalr_ray|training)/[\w./-]+)`", page)))
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []
