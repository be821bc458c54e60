"""Pages from templates: whatever is put into markup is escaped, and says no secret."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from scalr_ray.core.clock import duration
from scalr_ray.core.plain import plain
from scalr_ray.core.secrets import hide_secrets

_PAGES = Path(__file__).parent / "pages"
_CODE = re.compile(r"`([^`]+)`")
_LEAVES = 1_000  # a page that holds more is no page to read
_TEXT_LENGTH = 2_000
_NONE = "–"  # noqa: RUF001 - a dash
_KEPT_BACK = "set, and not shown here"
_ADDRESSES = frozenset({"database"})  # settings that say where to log in


def style() -> str:
    """The style of all pages."""
    return (_PAGES / "style.css").read_text(encoding="utf-8")


def style_hash() -> str:
    """SHA-256 of the style, in base64, as a policy names it."""
    return base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "code": code,
        "count": count,
        "figure": figure,
        "leaves": lambda tree: list(leaves(tree)),
        "moment": moment,
        "segment": segment,
        "span": duration,
        "took": took,
    }
    environment.globals["style"] = Markup(style())  # noqa: S704 - our own file
    return environment


def render(page: str, **values: object) -> str:
    """A page, by the name of its template without `.html`."""
    return _environment().get_template(f"{page}.html").render(**values)


def code(text: str) -> Markup:
    """A line with what stands between backticks as code.

    Example:
        >>> code("run `scalr gc` <now>")
        Markup('run <code>scalr gc</code> &lt;now&gt;')
    """
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(hide_secrets(text)))))  # noqa: S704


def count(number: int) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,}"


def figure(value: float | None) -> str:
    """A measured value in four digits; a dash where there is none."""
    return _NONE if value is None else f"{value:.4g}"


def moment(at: datetime) -> Markup:
    """A time to the second, in UTC."""
    template = Markup('<time datetime="{}">{}\u00a0UTC</time>')
    return template.format(at.isoformat(), f"{at:%Y-%m-%d\u00a0%H:%M:%S}")


def took(span: timedelta) -> str:
    """How long something took: to a tenth of a second, from a minute on in its largest units."""
    seconds = span.total_seconds()
    return f"{seconds:.1f} s" if seconds < 60 else duration(span)


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str, bool]]:
    """Dotted keys of nested settings or metrics, their values as texts, and whether in figures.

    What says where to log in is kept back; what is very much is cut off.
    """
    for place, (key, value) in enumerate(_flat(plain(tree), above)):
        if place == _LEAVES:
            yield "…", f"more than {_LEAVES:,} values", False
            return
        number = isinstance(value, int | float) and not isinstance(value, bool)
        text = figure(value) if isinstance(value, float) else _words(value)
        yield key, _KEPT_BACK if key in _ADDRESSES and value is not None else text, number


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - recursive over JSON
    if not isinstance(value, Mapping) or not value:
        if name:
            yield name, value
        return
    for key, item in value.items():
        yield from _flat(item, f"{name}.{key}" if name else str(key))


def _words(value: Any) -> str:  # noqa: ANN401 - any JSON
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _TEXT_LENGTH else f"{text[:_TEXT_LENGTH]}…"


def _shown(value: Any) -> Any:  # noqa: ANN401 - whatever a template prints
    """A value as it may be shown: texts without secrets, markup as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return hide_secrets(value)
    return value
