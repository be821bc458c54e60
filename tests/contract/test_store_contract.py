"""One contract over several offline stores, through the Feast SDK.

Ours keeps every promise. What a stock store does instead is declared below, to the word: the day
that an upstream release mends a gap, or opens another one, the test of that gap fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.compare import comparison
from tests.contract.store_checks import CHECKS, OK, judge
from tests.contract.store_harness import (
    FEAST_ON_RAY,
    OURS,
    OURS_ON_RAY,
    POSTGRES,
    STORES,
    Bench,
    open_bench,
)

pytestmark = [
    pytest.mark.feast,
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]

_IN_ALL = {
    "a full tie gives the same row whatever the file order": "another row when the file is "
    "reordered",
}
_IN_BOTH = {
    **_IN_ALL,
    "the row order stays": "other order",
    "the cut-off is refused where `created` is not recorded": "silently ignored",
}
_CUT_OFF = (
    "the availability cut-off hides what was recorded later",
    "a row never recorded is hidden by the cut-off",
    "the cut-off falls back to a row within the TTL",
    "the cut-off is refused where `created` is not recorded",
    "the cut-off through a field mapping",
)
GAPS: dict[str, dict[str, str]] = {
    OURS: {},
    OURS_ON_RAY: {},
    "duckdb": {
        **_IN_BOTH,
        "a feature whose name ends in `_y`": "raises IbisTypeError",
        "entity rows as an Arrow table": "raises AttributeError",
    },
    "dask": {
        **_IN_BOTH,
        "an expired feature is null, its entity row stays": "1 row for 2",
        "only future features give null": "1 row for 2",
        "same key and time with 3 labels gives 3": "1 row for 3",
        "identical entity rows all stay": "1 row for 2",
        "a null key meets no null key": "8 instead of null",
        "entity columns may be named like columns of the source": "raises AttributeError",
        "a time zone per row": "raises AttributeError",
        "entity rows as an Arrow table": "raises ValueError",
    },
    FEAST_ON_RAY: {
        **_IN_ALL,
        "a later `created` wins a tie": "9 instead of 7",
        "an expired feature is null, its entity row stays": "7 instead of null",
        "same key and time with 3 labels gives 3": "1 row for 3",
        "identical entity rows all stay": "1 row for 2",
        "microseconds are told apart": "1 row for 2",
        "a null key stays": "1 row for 2",
        "a null key meets no null key": "1 row for 2",
        "the row order stays": "other order",
        "entity columns may be named like columns of the source": "0 rows for 2",
        "join-key maps": "2 rows for 3",
        "entity rows as an Arrow table": "raises RayTaskError(TypeError)",
        **dict.fromkeys(_CUT_OFF, "raises NotImplementedError"),
    },
    POSTGRES: {
        **_IN_ALL,
        "a full tie gives one row": "2 rows for 1",
        'keys ("1", "11") and ("11", "1") differ': "4 rows for 2",
        "the cut-off is refused where `created` is not recorded": "silently ignored",
        "another time zone in, UTC out": "no zone out",
        "no time zone in means UTC, UTC out": "no zone out",
        "a time zone per row": "raises AttributeError",
        "entity rows as an Arrow table": "raises InvalidEntityType",
    },
}


@pytest.fixture(scope="module", params=[name for name in STORES if name != FEAST_ON_RAY])
def bench(request, tmp_path_factory) -> Iterator[Bench]:
    named = request.param == POSTGRES
    database = request.getfixturevalue("postgres_database") if named else None
    with open_bench(request.param, tmp_path_factory.mktemp("bench"), database) as opened:
        yield opened


@pytest.mark.parametrize("check", CHECKS)
def test_every_promise_is_kept_or_its_gap_declared(bench, check) -> None:
    assert judge(check, bench) == GAPS[bench.name].get(check, OK)


def test_gaps_are_declared_for_known_checks_of_every_store() -> None:
    assert GAPS.keys() == STORES.keys()
    for declared in GAPS.values():
        assert declared.keys() <= CHECKS.keys()


def test_readme_shows_what_is_declared_here() -> None:
    answers = {name: declared(name) for name in GAPS}
    readme = Path(__file__).parents[2] / "README.md"
    assert comparison(answers) in readme.read_text()


def declared(name: str) -> dict[str, str]:
    return {check: GAPS[name].get(check, OK) for check in CHECKS}
