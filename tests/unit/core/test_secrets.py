"""Passwords in addresses are not shown, whatever they are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.core.config import load_config
from scalr_ray.core.errors import ConfigError
from scalr_ray.core.secrets import hide_secrets

SECRET = "hunter2"  # noqa: S105 - looked for everywhere
URL = f"postgresql+psycopg://me:{SECRET}@host/db"


@given(
    st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=4).filter(
        lambda text: text.strip() and text not in "postgresql://me:***@host/db no answer from "
    )
)
def test_any_password_in_an_address_is_hidden(password: str):
    shown = hide_secrets(f"no answer from postgresql://me:{password}@host/db")
    assert shown == "no answer from postgresql://me:***@host/db"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix: no such bucket",
        "sqlite:////data/a:b/scalr.db is busy",
        "postgresql://me@host:5432/db refuses the login; set PGPASSWORD or PGPASSFILE",
        "write 2026-03-01T12:00:00Z",
    ],
)
def test_what_is_no_secret_stays(text: str):
    assert hide_secrets(text) == text


def test_named_values_are_hidden():
    shown = hide_secrets(f"?sslpassword={SECRET}&x=1 AWS_SECRET_ACCESS_KEY: {SECRET}, y")
    assert shown == "?sslpassword=***&x=1 AWS_SECRET_ACCESS_KEY: ***, y"


FILES = [
    f"database: {URL}",
    f"database: [{URL}]",
    f"database: {URL}: x",
    f'database: "{URL}',
    f"database: {{a: {URL}}}",
    f"database: postgresql+psycopg://me@host/db?sslpassword={SECRET}",
    f"warehouse: s3://key:{SECRET}@bucket/prefix",
    f"warehouse: s3://bucket/prefix?secret_key={SECRET}",
    f"warehouse: [s3://key:{SECRET}@bucket]",
    f"project: {URL}",
    f"seed: {URL}",
    f"{URL}: 1",
    f"databse: {URL}",
]


@pytest.mark.parametrize("text", FILES)
def test_no_setting_takes_a_secret_or_shows_it(tmp_path: Path, text: str):
    (tmp_path / "scalr.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path, environ={})
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("value", [URL, f"[{URL}", f"{URL}: x: y", f"s3://key:{SECRET}@bucket"])
@pytest.mark.parametrize("name", ["database", "warehouse"])
def test_no_override_or_variable_takes_a_secret_or_shows_it(tmp_path: Path, name: str, value: str):
    (tmp_path / "scalr.yaml").write_text("", encoding="utf-8")
    for overrides, environ in (
        ([f"{name}={value}"], {}),
        ([], {f"SCALR_{name.upper()}": value}),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path, overrides, environ=environ)
        assert SECRET not in str(caught.value)
