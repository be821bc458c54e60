"""Times and rules for drawn as-of cases: close together, so that ties and bounds are met often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from asof_oracle import Rule
from hypothesis import strategies as st

ORIGIN = datetime(2026, 3, 1, tzinfo=UTC)

times = st.builds(
    lambda days, micros: ORIGIN + timedelta(days=days, microseconds=micros),
    st.integers(-2, 2),
    st.integers(-1, 1),
)
times_or_null = st.one_of(times, times, times, st.none())
rules = st.builds(
    Rule,
    ttl=st.sampled_from([timedelta(), timedelta(microseconds=1), timedelta(days=1)]),
    cut_off=st.booleans(),
    strictly_before=st.booleans(),
)
