"""Weights against the formulas, row by row."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as few
from hypothesis import strategies as st
from refine_rows import AS_OF, SCHEMA, drawn_rows, observed_target, settings

from scalr_ray.core.events import WEIGHT_FACTORS
from scalr_ray.generate.refining.refine import fit_refinement, refine
from scalr_ray.generate.refining.weigh import ExactSum

weighted_rows = st.lists(
    st.tuples(
        st.floats(0.001, 1.0),  # history
        st.floats(-20, 20),  # log lift
        st.floats(0.001, 1000),  # days before the cut
        st.sampled_from([0.0, 1.0]),
    ),
    min_size=1,
    max_size=30,
)


def weigh(rows, **changes):
    history, lift, days, label = (np.array(column) for column in zip(*rows, strict=True))
    users = np.arange(len(rows))
    drawn = drawn_rows(
        users, users % 3, of=3, history=history, log_lift=lift, days=days, label=label
    )
    refinement, report = fit_refinement(drawn, observed_target([1, 1, 1]), settings(**changes))
    return drawn, refine(drawn, refinement, SCHEMA), report


@few(max_examples=40)
@given(
    weighted_rows,
    st.sampled_from([0.0, 0.5, 2.0]),
    st.one_of(st.none(), st.floats(0.5, 500)),
    st.floats(0.01, 2.0),
)
def test_weights_are_the_formulas_for_each_row(rows, power, half_life, scale):
    drawn, out, _ = weigh(rows, likelihood_power=power, age_half_life_days=half_life, scale=scale)
    for row, told in zip(drawn.to_pylist(), out.to_pylist(), strict=True):
        days = (AS_OF - row["event_timestamp"]).total_seconds() / 86_400
        likelihood = min(max(math.exp(row["log_lift"] * power), 0.1), 10) if row["label"] else 1.0
        age = 1.0 if half_life is None else 0.5 ** (days / half_life)
        assert told["history_weight"] == row["history_weight"]
        assert told["likelihood_weight"] == pytest.approx(likelihood)
        assert told["density_weight"] == 1.0
        assert told["age_weight"] == pytest.approx(age, rel=1e-9)
        factors = math.prod(told[name] for name in WEIGHT_FACTORS)
        assert told["sample_weight"] == pytest.approx(scale * factors, rel=1e-12)


@few(max_examples=40)
@given(weighted_rows, st.floats(0.01, 3.0))
def test_the_mass_keeps_to_its_bound_and_is_lowered_no_further(rows, mass_frac):
    _, free, _ = weigh(rows, likelihood_power=1.0)
    _, out, report = weigh(rows, likelihood_power=1.0, mass_frac=mass_frac)
    positive = free["label"].to_numpy() > 0
    asked = free["sample_weight"].to_numpy()[positive].sum()
    bound = mass_frac * 3
    mass = out["sample_weight"].to_numpy()[positive].sum()
    assert mass == pytest.approx(min(asked, bound), abs=1e-6)
    assert report.mass.mass == pytest.approx(mass, abs=1e-6)
    assert report.mass.scale == pytest.approx(1.0 if asked <= bound else bound / asked)
    # All rows of the batch share the scale, negatives too.
    ratio = out["sample_weight"].to_numpy() / free["sample_weight"].to_numpy()
    np.testing.assert_allclose(ratio, report.mass.scale, rtol=1e-12)


@few(max_examples=12)
@given(st.lists(weighted_rows, min_size=2, max_size=3), st.floats(0.01, 3.0))
def test_batch_after_batch_the_mass_of_all_keeps_to_its_bound(batches, mass_frac):
    real, published = 3, Fraction(0)
    for rows in batches:
        _, free, _ = weigh(rows, likelihood_power=1.0)
        there = ExactSum()
        there.add(np.array([float(published)]))
        _, out, report = weigh(
            rows, likelihood_power=1.0, mass_frac=mass_frac, published_mass=there.most
        )
        positive = free["label"].to_numpy() > 0
        asked, mass = (exact_sum(events["sample_weight"], positive) for events in (free, out))
        room = max(Fraction(mass_frac) * real - published, Fraction(0))
        assert float(mass) == pytest.approx(float(min(asked, room)), abs=1e-6)
        published += mass
        # What the sums round is allowed for; only the last digits of the weights are left.
        assert published <= Fraction(mass_frac) * real * (1 + Fraction(1, 2**40))
        assert report.mass.published == there.most


def exact_sum(weights: pa.ChunkedArray, positive: np.ndarray) -> Fraction:
    return sum(map(Fraction, weights.to_numpy()[positive].tolist()), Fraction(0))


def test_nothing_is_left_where_the_published_weigh_as_much_as_all_may():
    rows = [(1.0, 0.0, 5.0, 1.0)] * 12
    _, out, report = weigh(rows, mass_frac=0.5, published_mass=1.5)
    assert not out["sample_weight"].to_numpy().any()
    assert report.mass.sentence.endswith(
        "sum to 0.0, 0.000 per real target event, 0.500 with what is published"
    )


def test_the_report_says_that_the_scale_was_lowered():
    rows = [(1.0, 0.0, 5.0, 1.0)] * 12
    *_, report = weigh(rows, mass_frac=0.5, scale=1.0)
    assert report.mass.sentence == (
        "weights: 12 events at scale 0.125 (lowered from 1, to keep to weights.mass_frac) sum to "
        "1.5, 0.500 per real target event"
    )
    *_, kept = weigh(rows, mass_frac=50.0, scale=0.5)
    assert "lowered" not in kept.mass.sentence


@given(st.lists(st.floats(0, 1e12), max_size=60), st.randoms(use_true_random=False))
def test_an_exact_sum_does_not_depend_on_order_or_chunks(values, random):
    def total(ordered, size):
        added = ExactSum()
        for start in range(0, len(ordered), size):
            added.add(np.array(ordered[start : start + size]))
        return added.value

    shuffled = values.copy()
    random.shuffle(shuffled)
    assert total(values, 7) == total(shuffled, 3)
    assert total(values, 60) == pytest.approx(math.fsum(values), abs=1e-6, rel=1e-15)


def test_nothing_drawn_leaves_nothing_to_refine():
    drawn = drawn_rows([], [], of=3)
    chosen = settings(by="popularity", per_item=2, density_clip=5.0, mass_frac=0.1)
    refinement, report = fit_refinement(drawn, observed_target([1, 1, 1]), chosen)
    out = refine(drawn, refinement, SCHEMA)
    assert out.num_rows == 0
    assert out.schema.equals(SCHEMA.append(pa.field("reason", pa.string())))
    assert (report.drawn, report.mass.mass, report.discriminator) == (0, 0.0, None)
