"""`scalr.yaml` by somebody who means harm: one line of ours, or settings that can be used."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hostile import HUGE, NAMES, changed, examples, json_values, tried
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.core.config import ScalrConfig, load_config
from scalr_ray.core.errors import ConfigError

DEFAULTS = ScalrConfig().model_dump(mode="json")


def bomb(levels: int, reference: str) -> str:
    """Each level holds the one before ten times."""
    lines = ["a0: &a0 [x, x]" if reference == "list" else "a0: &a0 {k: 1}"]
    for level in range(1, levels):
        inner = ", ".join([f"*a{level - 1}"] * 10)
        opened = f"[{inner}]" if reference == "list" else f"{{<<: [{inner}], k{level}: 1}}"
        lines.append(f"a{level}: &a{level} {opened}")
    return "\n".join([*lines, f"seed: *a{levels - 1}", f"gate: {{max_psi: *a{levels - 1}}}"])


CASES = {
    "python_object": "seed: !!python/object/apply:os.system ['touch escaped']",
    "python_name": "seed: !!python/name:os.system",
    "python_module": "!!python/module:os",
    "python_tuple": "translator: {alphas: !!python/tuple [0.0, 0.1]}",
    "own_tag": "seed: !secret x",
    "list_bomb": bomb(12, "list"),
    "list_bomb_as_value": bomb(12, "list").replace("seed: ", "data_dir: "),
    "merge_bomb": bomb(9, "merge"),
    "itself": "alphas: &a [*a]",
    "value_is_itself": "translator: &a {alphas: [*a]}",
    "section_is_itself": "translator: &a {neural: *a}",
    "deep": "seed: " + "[" * 5_000,
    "deep_and_closed": "seed: " + "[" * 900 + "]" * 900,
    "many_digits": "seed: " + "9" * 10_000,
    "hexadecimal": "seed: 0x" + "f" * 10_000,
    "no_such_day": "seed: 2026-99-99",
    "bad_integer": "seed: !!int x",
    "bad_float": "seed: !!float x",
    "bad_binary": "seed: !!binary '%'",
    "bad_bool": "seed: !!bool maybe",
    "sixty": "seed: 1" + ":59" * 2_000,
    "bytes_as_key": "? !!binary aGk=\n: 1",
    "list_as_key": "? [1, 2]\n: 1",
    "number_as_key": "1: 2",
    "key_twice": "seed: 1\nseed: 2",
    "two_documents": "seed: 1\n---\nseed: 2",
    "long_key": "k" * 5_000 + ": 1",
    "long_value": "data_dir: [" + "k" * 100_000 + "]",
    "nul": "seed: \0",
    "not_finite": "gate: {max_psi: .nan}",
    "infinite": "weights: {mass_frac: .inf}",
    "set": "translator: {alphas: !!set {0.0, 0.1}}",
    "traversing_project": "project: ../../x",
    "nul_folder": 'data_dir: "a\\0b"',
}


def loaded(folder: Path, content: bytes) -> ScalrConfig | ConfigError:
    (folder / "scalr.yaml").write_bytes(content)
    got = tried(lambda: load_config(folder, environ={}), ConfigError)
    assert [path.name for path in folder.iterdir()] == ["scalr.yaml"]
    if isinstance(got, ScalrConfig):
        assert len(got.fingerprint) == 64
        again = yaml.safe_dump(got.model_dump(mode="json"))
        (folder / "scalr.yaml").write_text(again, encoding="utf-8")
        assert load_config(folder, environ={}) == got
    return got


@pytest.mark.parametrize("case", CASES)
def test_what_is_known_to_do_harm(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    loaded(tmp_path, CASES[case].encode())
    assert time.monotonic() - began < 10
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("case", ["python_object", "python_name", "python_module", "own_tag"])
def test_no_tag_makes_an_object(case: str, tmp_path: Path):
    assert isinstance(loaded(tmp_path, CASES[case].encode()), ConfigError)


@examples(40)
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes(content: bytes):
    with TemporaryDirectory() as folder:
        loaded(Path(folder), content)


@examples(60)
@given(changed(DEFAULTS))
def test_any_value_at_any_place(value: object):
    with TemporaryDirectory() as folder:
        loaded(Path(folder), yaml.safe_dump(value).encode())


leaves = st.sampled_from(
    [
        "seed",
        "prior.window_days",
        "weights.scales",
        "generation.per_user",
        "gate.max_psi",
        "database",
    ]
)


@examples(40)
@given(
    leaves | st.sampled_from(NAMES),
    json_values() | st.sampled_from(HUGE) | st.sampled_from(sorted(CASES.values(), key=len)[:20]),
)
def test_any_override(name: str, value: object):
    with TemporaryDirectory() as folder:
        (Path(folder) / "scalr.yaml").write_text("", encoding="utf-8")
        tried(lambda: load_config(Path(folder), [f"{name}={value}"], environ={}), ConfigError)
        environ = {f"SCALR_{name.replace('.', '__').upper()}": f"{value}"}
        tried(lambda: load_config(Path(folder), environ=environ), ConfigError)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path)])
def test_a_file_that_is_none(make, tmp_path: Path):
    make(tmp_path / "scalr.yaml")
    assert isinstance(tried(lambda: load_config(tmp_path, environ={}), ConfigError), ConfigError)
