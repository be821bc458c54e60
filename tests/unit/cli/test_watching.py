from __future__ import annotations

from datetime import timedelta

import pytest

from scalr_ray.cli.watching import duration


@pytest.mark.parametrize(
    ("span", "told"),
    [
        (timedelta(0), "0 s"),
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=3, seconds=4), "3 min 4 s"),
        (timedelta(hours=2), "2 h 0 min"),
        (timedelta(days=9, hours=23, minutes=59), "9 d 23 h"),
    ],
)
def test_spans_are_told_in_two_units(span, told):
    assert duration(span) == told
