"""One contract over several offline stores, through the Feast SDK.

Ours keeps every promise. What a stock store does instead is declared below, to the word: the day
that an upstream release mends a gap, or opens another one, the test of that gap fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.compare import comparison
from tests.contract.store_checks import CHECKS, OK, judge
from tests.contract.store_harness import OURS, OURS_ON_RAY, STORES, Bench, open_bench

pytestmark = [
    pytest.mark.feast,
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]

_IN_BOTH = {
    "a full tie gives the same row whatever the file order": "another row when the file is "
    "reordered",
    "the row order stays": "other order",
    "the cut-off is refused where `created` is not recorded": "silently ignored",
}
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
}


@pytest.fixture(scope="module", params=STORES)
def bench(request, tmp_path_factory) -> Bench:
    if request.param == OURS_ON_RAY:
        request.getfixturevalue("cluster")
    return open_bench(request.param, tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("check", CHECKS)
def test_every_promise_is_kept_or_its_gap_declared(bench, check) -> None:
    assert judge(check, bench) == GAPS[bench.name].get(check, OK)


def test_gaps_are_declared_for_known_checks_of_every_store() -> None:
    assert GAPS.keys() == STORES.keys()
    for declared in GAPS.values():
        assert declared.keys() <= CHECKS.keys()


def test_readme_shows_what_is_declared_here() -> None:
    answers = {
        name: {check: declared.get(check, OK) for check in CHECKS}
        for name, declared in GAPS.items()
    }
    readme = Path(__file__).parents[2] / "README.md"
    assert comparison(answers) in readme.read_text()
