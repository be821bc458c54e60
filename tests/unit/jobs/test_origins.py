"""Which batches are origins, up to when each is measured, and what is said of them together."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from ledger_suite import add_batch, add_translator

from scalr_ray.core.errors import TooLittleData, UsageError
from scalr_ray.jobs.origins import Asked, _codes, asked_of, batches_of, refuse_fewer_than_two
from scalr_ray.ledger import Ledger

CUT = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.fixture(name="ledger")
def ledger_fixture(tmp_path: Path) -> Iterator[Ledger]:
    """Batches b0 to b3, a week apart, recorded in no order, and `twin` of the cut of b1."""
    with Ledger(f"sqlite:///{tmp_path / 'scalr.db'}") as ledger:
        add_translator(ledger)
        for name, weeks in (("b2", 2), ("b0", 0), ("b3", 3), ("twin", 1), ("b1", 1)):
            add_batch(ledger, name, as_of=CUT + weeks * WEEK)
        yield ledger


def windows(asked: list[Asked]) -> list[tuple[str, datetime | None]]:
    return [(origin.batch.batch_id, origin.until) for origin in asked]


def test_each_is_measured_up_to_the_next_that_was_named_in_whatever_order(ledger: Ledger):
    expected = [("b3", None), ("b1", CUT + 3 * WEEK), ("b0", CUT + WEEK)]
    assert windows(asked_of(ledger, ["b1", "b3", "b0"])) == expected
    assert windows(asked_of(ledger, ["b0", "b1", "b3"])) == expected
    assert "2026-01-08 00:00, batch b1" in asked_of(ledger, ["b1", "b3"])[1].title


def test_one_is_measured_on_all_that_came_and_none_named_is_the_newest(ledger: Ledger):
    assert windows(asked_of(ledger, ["b1"])) == [("b1", None)]
    assert windows(asked_of(ledger, [])) == [("b1", None)]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["b0", "b1", "twin"], "b1 and twin: two batches as of 2026-01-08 .*one of each cut"),
        (["b0", "b0"], "b0: two batches as of 2026-01-01"),
        (["b0", "b9"], "there is no batch b9"),
    ],
)
def test_what_is_no_origin_of_its_own_is_refused_in_one_line(ledger: Ledger, names, says):
    with pytest.raises(UsageError, match=says) as told:
        asked_of(ledger, names)
    assert "\n" not in told.value.message


def test_an_empty_ledger_says_what_to_do(tmp_path: Path):
    with (
        Ledger(f"sqlite:///{tmp_path / 'other.db'}") as ledger,
        pytest.raises(UsageError, match="run `scalr run` first"),
    ):
        asked_of(ledger, [])


def test_fewer_than_two_origins_with_somebody_to_test_are_refused():
    left = [{"batch_id": "b0"}, {"batch_id": "b2"}]
    for measured in (0, 1):
        with pytest.raises(TooLittleData, match="after the cut of b0, b2, up to the next") as told:
            refuse_fewer_than_two(measured, left)
        assert "\n" not in told.value.message
    refuse_fewer_than_two(2, left)


def test_the_same_user_has_the_same_code_at_every_origin():
    first, second, third = _codes(
        [pa.array(["u3", "u1"]), pa.array([], pa.string()), pa.array(["u1", "u2", "u3"])]
    )
    assert (first[0], first[1]) == (third[2], third[0])
    assert second.size == 0
    assert len({*first, *third}) == 3


def test_the_batches_of_a_result_are_the_newest_first():
    assert batches_of({"batch_id": "b"}) == ["b"]
    rows = [{"batch_id": "old"}, {"batch_id": "new"}]
    assert batches_of({"batch_id": "new", "origins": {"rows": rows}}) == ["new", "old"]
