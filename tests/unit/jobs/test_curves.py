"""The curves of `python -m tests.bench.curves`, in a small simulated world."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from tests.bench.ablation import SCALE, Downstream, Drawn, draw, fit
from tests.bench.amazon import Split
from tests.bench.curves import PER_USER, SHARES, WEIGHTS, Point, curves, nested, weighed
from tests.bench.curves_plot import SEGMENTS, curves_plot
from tests.bench.false_alarms import tables
from tests.bench.worlds import split_world


@pytest.fixture(scope="module")
def split() -> Split:
    return split_world(*tables("planted", 300, 0))


@pytest.fixture(scope="module")
def drawn(split: Split) -> Drawn:
    return draw(split, fit(split), {})


@pytest.fixture(scope="module")
def points(split: Split) -> list[Point]:
    told: list[Point] = []
    found = curves(split, told.append)
    assert told == found
    return found


def pairs(rows: pa.Table) -> set[tuple[str, str]]:
    return set(zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), strict=True))


def test_each_share_lies_within_the_next_and_is_about_that_large(drawn):
    shares = [nested(drawn, share) for share in (*SHARES, 1.0)]
    for smaller, larger in pairwise(shares):
        assert pairs(smaller) < pairs(larger)
    assert shares[-1].equals(drawn.rows)
    for share, rows in zip(SHARES, shares, strict=False):
        assert rows.num_rows / drawn.rows.num_rows == pytest.approx(share, abs=0.03)


def test_a_share_does_not_depend_on_the_order_of_the_events(drawn):
    order = pa.array(np.random.default_rng(0).permutation(drawn.rows.num_rows))
    mixed = Drawn(
        rows=drawn.rows.take(order),
        event_ids=drawn.event_ids.take(order),
        duplicates=0,
        auc=None,
    )
    assert pairs(nested(mixed, 0.25)) == pairs(nested(drawn, 0.25))


def test_what_more_events_are_drawn_holds_the_fewer(split, drawn):
    more = draw(split, fit(split), {"generation": {"per_user": PER_USER[0]}})
    assert pairs(drawn.rows) < pairs(more.rows)


def test_a_weight_is_that_of_every_event(drawn):
    for weight in WEIGHTS:
        np.testing.assert_allclose(weighed(drawn, weight)["sample_weight"], weight)
    np.testing.assert_allclose(drawn.rows["sample_weight"], SCALE)


def test_the_full_points_equal_the_plain_arm(split, drawn, points):
    downstream = Downstream.of(split)
    plain = downstream.lifts(drawn.rows, downstream.arm())
    full = [("number", "1"), ("weight", "0.1"), ("choice", "sampled"), ("alignment", "off")]
    found = {(point.panel, point.name): point for point in points}
    assert len(found) == len(points)
    for key in full:
        assert found[key].events == drawn.rows.num_rows
        assert found[key].lifts == plain
    assert plain["hidden"].low > 0  # the world is planted


def test_more_events_and_less_likeness_are_told(points):
    numbers = [point.events for point in points if point.panel == "number"]
    assert numbers == sorted(set(numbers))
    masses = [point.mass for point in points if point.panel == "weight"]
    np.testing.assert_allclose(np.array(masses) / masses[1], np.array(WEIGHTS) / SCALE)
    aligned = {point.name: point.auc for point in points if point.panel == "alignment"}
    assert set(aligned) == {"off", "by popularity", "density weights", "both"}
    assert all(point.line.count("|") == 8 for point in points)


def test_the_figure_is_one_sound_file_with_every_point_and_no_outside_names(points):
    figure = curves_plot(points, "source → target")
    assert figure == curves_plot(points, "source → target")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", figure)
    for segment in SEGMENTS:
        assert texts.count(f"{segment} users") == 1
    for share in (*SHARES, 1):
        assert f"{share:g}" in texts
    assert re.findall(r'(?:href|src)="(?!#)', figure) == []
