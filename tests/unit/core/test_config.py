from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scalr_ray.core.config import CONFIG_NAME, ScalrConfig, load_config
from scalr_ray.core.errors import ConfigError

REPOSITORY = Path(__file__).parents[3] / "feature_repo"
DEFAULTS = ScalrConfig().model_dump(mode="json")

# Values to try in place of a default: every key must take at least one of them.
CANDIDATES: tuple[Any, ...] = (
    7,
    0.6,
    0.9,
    False,
    True,
    "int64",
    "odd",
    "1GB",
    "other",
    ["books", "films"],
    [0.7],
    [0.0, 0.7],
    "auto",
    "popularity",
    "top",
    "count",
    "refuse",
    "replace",
    "faiss",
    "sqlite:///elsewhere.db",
    {"service": "user_flags_v1", "feature": "agrees"},
)
# Keys that may only be set beside others.
BESIDE: dict[str, dict[str, Any]] = {
    f"generation.catalogue.{name}": {"generation.catalogue.service": "items_v1"}
    for name in ("available_from", "available_until", "blocked")
}
WITH_ONE_VALUE = {"translator.kind"}
WITHOUT_INFLUENCE = (
    "data_dir",
    "database",
    "warehouse",
    "retention.",
    "resources.",
    "increment.",
    "generation.users_per_task",
    "evaluation.titles",
)


def config_file(folder: Path, text: str = "") -> Path:
    file = folder / CONFIG_NAME
    file.write_text(text, encoding="utf-8")
    return file


def refusal(file: Path, *overrides: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides, environ or {})
    assert "\n" not in caught.value.message
    return caught.value.message


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def tree_of(changes: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[leaf] = value
    return tree


def changed(key: str) -> Iterator[ScalrConfig]:
    """Configurations that differ from the defaults in `key`, and in what it needs, alone."""
    beside = BESIDE.get(key, {})
    plain = ScalrConfig.model_validate(tree_of(beside))
    for candidate in CANDIDATES:
        try:
            config = ScalrConfig.model_validate(tree_of({**beside, key: candidate}))
        except ValidationError:
            continue
        if config != plain:
            yield config


def test_an_empty_file_gives_the_defaults(tmp_path: Path):
    assert load_config(config_file(tmp_path), (), {}) == ScalrConfig()


def test_the_folder_stands_for_the_file(tmp_path: Path):
    config_file(tmp_path, "seed: 5")
    assert load_config(tmp_path, (), {}).seed == 5


def test_the_file_beats_the_defaults_the_environment_the_file_and_set_the_environment(
    tmp_path: Path,
):
    file = config_file(tmp_path, "seed: 1\nprior: {window_days: 10, background: 0.5}")
    environ = {"SCALR_PRIOR__WINDOW_DAYS": "20", "SCALR_SEED": "2", "PATH": "/bin"}
    assert load_config(file, (), {}).prior.window_days == 10
    assert load_config(file, (), environ).prior.window_days == 20
    assert load_config(file, (), environ).prior.background == 0.5
    both = load_config(file, ["prior.window_days=30", "prior.window_days=40"], environ)
    assert (both.seed, both.prior.window_days) == (2, 40)


def test_the_process_environment_is_read_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SCALR_SEED", "77")
    assert load_config(config_file(tmp_path)).seed == 77


def test_variables_for_the_tests_and_the_command_line_are_no_configuration(tmp_path: Path):
    environ = {"SCALR_TEST_SLOW": "1", "SCALR_REPO": "/somewhere"}
    assert load_config(config_file(tmp_path), (), environ) == ScalrConfig()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sede: 1", "sede"),
        ("prior: {window: 3}", "prior.window"),
        ("translator: {alpha: [0.0]}", "translator.alpha"),
        ("evaluation: {protocol: {k: 3}}", "evaluation.protocol"),
    ],
)
def test_an_unknown_key_in_the_file_is_named_in_one_line(tmp_path: Path, text: str, key: str):
    message = refusal(config_file(tmp_path, text))
    assert f"unknown key '{key}'" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize("section", sorted({*ScalrConfig.model_fields}))
def test_an_unknown_key_in_any_section_is_refused(tmp_path: Path, section: str):
    if isinstance(DEFAULTS[section], dict):
        message = refusal(config_file(tmp_path), f"{section}.no_such_key=1")
        assert f"unknown key '{section}.no_such_key'" in message
    else:
        assert section in refusal(config_file(tmp_path), f"{section}.no_such_key=1")


def test_an_unknown_key_in_the_environment_or_a_set_is_refused(tmp_path: Path):
    file = config_file(tmp_path)
    assert "prior.windo_days" in refusal(file, environ={"SCALR_PRIOR__WINDO_DAYS": "3"})
    assert "priors" in refusal(file, "priors.window_days=3")


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("seed", "a.b=c"),
        ("=3", "a.b=c"),
        ("seed=-1", "seed"),
        ("seed=[", "seed"),
        ("seed.deep=1", "seed"),
        ("prior.window_days=soon", "prior.window_days"),
        ("prior.window_days=0", "prior.window_days"),
        ("domains.target=source", "domains"),
        ("domains.source=[]", "domains"),
        ("domains.source=[a, a]", "domains"),
        ("translator.alphas=[0.5]", "alphas"),
        ("evaluation.validation_quantile=0.9", "evaluation"),
        ("evaluation.hide_users=even", "evaluation.hide_users"),
        ("ids.user_id=int32", "ids.user_id"),
        ("generation.catalogue={blocked: gone}", "`service`"),
        ("generation.catalogue={service: items_v1, same: {land: land}}", "`users`"),
        ("alignment.by=price", "`service`"),
        ("database=mysql://host/db", "database"),
        ("database=postgresql://host/db", "postgresql+psycopg"),
        ("warehouse=gs://bucket", "s3://"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(tmp_path: Path, override: str, names: str):
    assert names in refusal(config_file(tmp_path, "seed: 0"), override)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://scalr:h1dden@host/db",
        "postgresql+psycopg://host/db?user=scalr&password=h1dden",
        "mysql://scalr:h1dden@host/db",
    ],
)
def test_a_password_in_the_database_url_is_refused_and_not_shown(tmp_path: Path, url: str):
    said = refusal(config_file(tmp_path), f"database={url}")
    assert "database" in said
    assert "h1dden" not in said


@pytest.mark.parametrize("text", ["- a\n- b", "just text", "a: [1", "a: b: c"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str):
    assert str(tmp_path) in refusal(config_file(tmp_path, text))


def test_a_missing_file_says_what_to_do(tmp_path: Path):
    assert "--repo" in refusal(tmp_path / CONFIG_NAME)
    assert "--repo" in refusal(tmp_path)


@pytest.mark.parametrize("key", sorted({*leaves(DEFAULTS)} - WITH_ONE_VALUE))
def test_the_fingerprint_follows_what_can_change_a_result(key: str):
    configs = list(changed(key))
    assert configs
    for config in configs:
        plain = ScalrConfig.model_validate(tree_of(BESIDE.get(key, {})))
        same = config.fingerprint == plain.fingerprint
        assert same == key.startswith(WITHOUT_INFLUENCE)


@given(st.lists(st.sampled_from(sorted(leaves(DEFAULTS))), unique=True, max_size=4))
def test_writing_a_default_out_changes_nothing(keys: list[str]):
    tree = tree_of({key: leaves(DEFAULTS)[key] for key in keys})
    assert ScalrConfig.model_validate(tree).fingerprint == ScalrConfig().fingerprint


def test_the_shipped_file_says_the_defaults():
    assert load_config(REPOSITORY, (), {}) == ScalrConfig()
