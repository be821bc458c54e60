"""An event that was recorded again counts once, as it was recorded last, and appears then."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import day, event_table

from scalr_ray.core.clock import to_micros
from scalr_ray.core.versions import latest_versions
from scalr_ray.generate import Coding, PlanRules, plan_bucket
from scalr_ray.translator import Vocabulary
from scalr_ray.translator.encode import source_keys

MICROSECOND = timedelta(microseconds=1)
EVERYTHING = event_table([("u", "x", 0), ("u", "y", 0)], "source")
CODING = Coding(
    source_items=Vocabulary.of(source_keys(EVERYTHING)),
    target_items=Vocabulary.of(pa.chunked_array([["t"]])),
    event_types=Vocabulary.of(EVERYTHING["event_type"]),
)


def recorded(*rows) -> pa.Table:
    """Source events (id, user, item, day, day it became known)."""
    table = event_table([row[1:] for row in rows], "source")
    ids = pa.array([row[0] for row in rows], pa.string())
    return table.set_column(0, table.schema.field("event_id"), ids)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.just("u"), st.sampled_from("xy"),
            st.integers(0, 3), st.integers(3, 8),
        ),
        unique_by=lambda row: (row[0], row[3], row[4]),
    ),
    st.integers(0, 9),
)  # fmt: skip
def test_the_last_visible_version_is_the_one_with_the_greatest_times(rows, at):
    events = recorded(*rows)
    best: dict[str, dict] = {}
    for row in events.to_pylist():
        if not (row["event_timestamp"] < day(at) and row["available_at"] <= day(at)):
            continue
        before = best.get(row["event_id"])
        clocks = (row["event_timestamp"], row["available_at"])
        if before is None or clocks > (before["event_timestamp"], before["available_at"]):
            best[row["event_id"]] = row
    found = latest_versions(events, day(at)).to_pylist()
    assert sorted(found, key=lambda row: row["event_id"]) == [best[key] for key in sorted(best)]


@pytest.mark.parametrize(
    ("watermark", "fresh"), [(day(5) - MICROSECOND, True), (day(5), False), (day(0), True)]
)
def test_a_corrected_event_is_fresh_from_its_correction_on(watermark, fresh):
    source = recorded(("a", "u", "x", 1, 1), ("a", "u", "x", 1, 5))
    rules = PlanRules(as_of=day(9), per_user=3, since={"source": to_micros(watermark)})
    target = event_table([], "target")
    assert plan_bucket(source, target, CODING, rules).num_rows == int(fresh)
    # As of a time before the correction, there is none.
    early = PlanRules(as_of=day(4), per_user=3, since={"source": to_micros(day(3))})
    assert plan_bucket(source, target, CODING, early).num_rows == 0


def test_a_correction_takes_the_place_of_what_it_corrects():
    source = recorded(("a", "u", "x", 1, 1), ("a", "u", "y", 1, 5))
    rules = PlanRules(as_of=day(9), per_user=3)
    plan = plan_bucket(source, event_table([], "target"), CODING, rules)
    (events,) = plan["source"].to_pylist()
    assert [(event["event_id"], event["item"]) for event in events] == [("a", 1)]
