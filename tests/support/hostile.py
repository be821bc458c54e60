"""What somebody who means harm could write into a file, for tests by many drawn examples.

`SCALR_TEST_FUZZ=20` draws twenty times as many examples as CI does (`make fuzz`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_TIMES = int(os.environ.get("SCALR_TEST_FUZZ", "1"))

NAMES = [
    "",
    "..",
    "../../escaped",
    "/etc/passwd",
    "a/b",
    "a\\b",
    ".hidden",
    "nul\0byte",
    "line\nfeed",
    "'; DROP TABLE events; --",
    '" OR 1=1 --',
    "$(touch escaped)",
    "{{7*7}}",
    "%s%n",
    "ü\u202e\u0301",
    "x" * 300,
]
HUGE = [2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 1e308, -1e308, float("inf"), float("nan")]
names = st.sampled_from(NAMES) | st.text(max_size=12)


def examples(count: int) -> settings:
    """So many examples, or as many times more as were asked for."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=count * _TIMES, suppress_health_check=slow)


def json_values(leaves: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[Any]:
    """Any value that JSON can hold, and some that only Python's can."""
    leaf = st.none() | st.booleans() | st.integers() | st.sampled_from(HUGE) | names
    return st.recursive(
        leaf if leaves is None else leaf | leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
        max_leaves=12,
    )


def changed(known: Any) -> st.SearchStrategy[Any]:
    """A JSON value that is like `known` but for one place."""
    places = list(_places(known))
    return st.tuples(st.sampled_from(places), json_values(), st.booleans()).map(
        lambda drawn: _with(known, *drawn)
    )


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are like `content`: some are others, or its end or a part is missing."""
    place = st.integers(0, max(len(content) - 1, 0))
    flips = st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8)
    return (
        flips.map(lambda changes: _flipped(content, changes))
        | place.map(lambda end: content[:end])
        | st.tuples(place, place).map(lambda cut: content[: min(cut)] + content[max(cut) :])
        | st.tuples(place, st.binary(max_size=64)).map(
            lambda drawn: content[: drawn[0]] + drawn[1] + content[drawn[0] :]
        )
    )


def _flipped(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    made = bytearray(content)
    for place, value in changes:
        if made:
            made[place] = value
    return bytes(made)


def _places(value: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [()]
    inside: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))[:3]
    for key, part in inside:
        found += [(key, *rest) for rest in _places(part)]
    return found


def _with(value: Any, place: tuple[Any, ...], new: Any, gone: bool) -> Any:  # noqa: FBT001
    if not place:
        return new
    key, *rest = place
    made: Any = dict(value) if isinstance(value, dict) else list(value)
    if gone and not rest:
        del made[key]
    else:
        made[key] = _with(value[key], tuple(rest), new, gone)
    return made


def tried(act: Callable[[], Any], *expected: type[Exception]) -> Any:
    """What `act` gives, or the error of ours that it raised, whose message is one line.

    Any other error is a finding, and passes through.
    """
    try:
        return act()
    except expected as error:
        message = error.message  # type: ignore[attr-defined]
        assert message
        assert "\n" not in message
        assert len(message) < 2_000, f"{len(message)} characters"
        return error
