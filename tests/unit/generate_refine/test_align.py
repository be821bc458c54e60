"""Alignment and caps against loops over rows."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as few
from hypothesis import strategies as st
from refine_rows import SCHEMA, drawn_rows, observed_target, settings

from scalr_ray.core.errors import DataError
from scalr_ray.gate.drift import population_stability
from scalr_ray.generate.refining.align import feature_buckets, keep_fractions, popularity_buckets
from scalr_ray.generate.refining.refine import fit_refinement, refine

masses = st.lists(st.integers(1, 100), min_size=1, max_size=12)
pairs = st.integers(1, 10).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(1, 100), min_size=n, max_size=n),
        st.lists(st.integers(0, 100), min_size=n, max_size=n).filter(any),
    )
)


def step_by_step(target, synthetic, least):
    """The paper's step, min(1, target / synthetic), again and again until nothing moves."""
    keep = np.ones(len(target))
    filled = synthetic > 0
    wanted = np.where(filled, target, 0) / target[filled].sum()
    for _ in range(5_000):
        rows = keep * synthetic
        share = rows / rows.sum()
        factor = np.where(share > wanted, wanted / np.where(share > 0, share, 1), 1.0)
        if (keep * factor * synthetic).sum() < least * synthetic.sum():
            return keep, False
        if np.allclose(factor, 1.0, rtol=0, atol=1e-9):
            return keep, True
        keep = keep * factor
    return keep, False


@given(pairs)
def test_the_closed_form_is_where_the_steps_settle(pair):
    target, synthetic = (np.array(one, dtype=float) for one in pair)
    keep = keep_fractions(target, synthetic, least_kept_frac=0.0)
    settled, done = step_by_step(target, synthetic, 0.0)
    if done:
        there = synthetic > 0
        np.testing.assert_allclose(keep[there], settled[there], atol=1e-5)
    left = keep * synthetic
    wanted = np.where(synthetic > 0, target, 0.0)
    np.testing.assert_allclose(left / left.sum(), wanted / wanted.sum(), atol=1e-9)


@given(pairs, st.floats(0.05, 0.95))
def test_no_more_is_thrown_away_than_the_bound_allows(pair, least):
    target, synthetic = (np.array(one, dtype=float) for one in pair)
    keep = keep_fractions(target, synthetic, least_kept_frac=least)
    left = float((keep * synthetic).sum() / synthetic.sum())
    assert left >= least - 1e-9
    assert ((keep >= 0) & (keep <= 1)).all()
    free = keep_fractions(target, synthetic, least_kept_frac=0.0)
    if (free * synthetic).sum() >= least * synthetic.sum():
        np.testing.assert_allclose(keep, free)
    else:
        assert left == pytest.approx(least)
    # One rule for all buckets: what is left of those that are thinned, over their target, is c.
    level = (keep * synthetic / target)[(keep < 1 - 1e-9) & (synthetic > 0)]
    np.testing.assert_allclose(level, level.max(initial=0))


def test_rows_of_a_bucket_that_the_target_does_not_have_never_stay():
    keep = keep_fractions(np.array([0.0, 2.0, 2.0]), np.array([9.0, 1.0, 1.0]))
    assert keep[0] == 0
    # Only three quarters may be thrown away, and nine rows of eleven are gone: the others stay.
    assert keep[1:].tolist() == [1.0, 1.0]


def test_equal_shares_keep_everything():
    assert keep_fractions(np.array([1.0, 3.0]), np.array([20.0, 60.0])).tolist() == [1.0, 1.0]


@given(masses, st.integers(2, 10))
def test_popularity_buckets_are_those_that_the_gate_measures_drift_by(mass, buckets):
    prior = np.array(mass, dtype=float)
    bucket = popularity_buckets(prior, buckets)
    assert bucket.min() >= 0
    assert bucket.max() < buckets
    order = np.argsort(-prior, kind="stable")
    assert (np.diff(bucket[order]) >= 0).all()
    sums = np.bincount(bucket, weights=prior, minlength=buckets)
    # A bucket holds its share but for the item that crosses its edge.
    assert sums.max() <= prior.sum() / buckets + prior.max() + 1e-9
    assert population_stability(prior, prior * 2, buckets) == pytest.approx(0, abs=1e-12)


@given(
    st.lists(
        st.one_of(st.integers(0, 5).map(float), st.just(float("nan"))), min_size=1, max_size=20
    ),
    st.integers(2, 6),
    st.booleans(),
)
def test_equal_values_share_a_bucket_and_the_unknown_have_their_own(values, buckets, categories):
    values = np.array(values)
    bucket = feature_buckets(values, np.ones(len(values)), buckets, categories=categories)
    unknown = np.isnan(values)
    assert len(set(bucket[unknown].tolist())) <= 1
    assert not set(bucket[unknown].tolist()) & set(bucket[~unknown].tolist())
    by_value = defaultdict(set)
    for value, at in zip(values[~unknown].tolist(), bucket[~unknown].tolist(), strict=True):
        by_value[value].add(at)
    assert all(len(at) == 1 for at in by_value.values())
    firsts = [by_value[value].copy().pop() for value in sorted(by_value)]
    assert firsts == sorted(firsts)
    if categories:
        assert len(set(firsts)) == len(firsts)


rows_drawn = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(1, 9)),
    min_size=1,
    max_size=60,
    unique_by=lambda row: row[:2],
)


@few(max_examples=40)
@given(rows_drawn, st.integers(1, 6), st.sampled_from([None, "popularity"]))
def test_the_cap_keeps_the_smallest_thinning_values_of_each_item(rows, per_item, by):
    users, items, tenths = (list(column) for column in zip(*rows, strict=True))
    # Few values, so that ties are decided by the event id.
    drawn = drawn_rows(users, items, of=6, thinning=np.array(tenths) / 10)
    observed = observed_target([6, 5, 4, 3, 2, 1])
    chosen = settings(by=by, per_item=per_item, buckets=3)
    refinement, report = fit_refinement(drawn, observed, chosen)
    reasons = refine(drawn, refinement, SCHEMA)["reason"].to_pylist()
    expected = []
    for row in drawn.to_pylist():
        rivals = sorted(
            (other["thinning"], other["event_id"])
            for other in drawn.to_pylist()
            if other["item_code"] == row["item_code"]
            and other["thinning"] < refinement.keep[other["item_code"]]
        )
        if row["thinning"] >= refinement.keep[row["item_code"]]:
            expected.append("above_bucket_share")
        elif (row["thinning"], row["event_id"]) in rivals[:per_item]:
            expected.append(None)
        else:
            expected.append("item_cap")
    assert reasons == expected
    counted = Counter(expected)
    assert (report.thinned, report.capped) == (counted["above_bucket_share"], counted["item_cap"])
    assert (report.drawn, report.mass.rows) == (len(rows), counted[None])


def popular_and_flat(seed=0, rows=20_000, items=50):
    rng = np.random.default_rng(seed)
    prior = 1 / np.arange(1, items + 1)
    return prior, drawn_rows(
        np.arange(rows), rng.integers(0, items, rows), of=items, days=rng.uniform(0.1, 50, rows)
    )


def test_what_stays_is_spread_as_the_report_says_and_nearer_to_the_target():
    prior, drawn = popular_and_flat()
    refinement, report = fit_refinement(
        drawn, observed_target(prior), settings(by="popularity", buckets=5)
    )
    out = refine(drawn, refinement, SCHEMA)
    stays = np.array([reason is None for reason in out["reason"].to_pylist()])
    bucket = popularity_buckets(prior / prior.sum(), 5)[drawn["item_code"].to_numpy()]
    after = np.bincount(bucket[stays], minlength=5) / stays.sum()
    np.testing.assert_allclose(after, report.alignment.after, atol=0.02)
    assert stays.mean() == pytest.approx(report.alignment.kept_frac, abs=0.02)
    before, left = report.alignment.distance
    assert left < before / 1.5
    assert f"{before:.1%}" in report.alignment.sentence


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1.0, 1.0, 9.0, None]),
        pa.array([1, 1, 9, None]),
        pa.array(["cheap", "cheap", "dear", None]),
    ],
    ids=["numbers", "integers", "text"],
)
def test_alignment_goes_by_a_feature_of_the_items(values):
    users = np.arange(4000)
    drawn = drawn_rows(users, np.where(users % 10 < 6, 2, users % 2), of=4)
    observed = observed_target([4, 4, 2, 1e-9], item_values=values)
    _, report = fit_refinement(drawn, observed, settings(by="price", buckets=2))
    assert report.alignment.by == "price"
    np.testing.assert_allclose(report.alignment.before, [0.4, 0.6, 0.0])
    np.testing.assert_allclose(report.alignment.after, [0.8, 0.2, 0.0], atol=1e-6)


def test_a_feature_without_values_is_refused_by_name():
    drawn = drawn_rows([1], [0], of=2)
    with pytest.raises(DataError, match="'price'"):
        fit_refinement(drawn, observed_target([1, 1]), settings(by="price"))


def test_negatives_and_refused_rows_are_neither_counted_nor_thinned():
    prior, drawn = popular_and_flat(rows=600)
    label = np.arange(600) % 2
    reason = ["likelihood_floor" if at % 3 == 0 else None for at in range(600)]
    codes = drawn["item_code"].to_numpy()
    mixed = drawn_rows(np.arange(600), codes, of=50, label=label, reason=reason)
    chosen = settings(by="popularity", per_item=1)
    refinement, report = fit_refinement(mixed, observed_target(prior), chosen)
    kept = mixed.filter(
        pa.array([r is None and bool(y) for r, y in zip(reason, label, strict=True)])
    )
    alone, report_alone = fit_refinement(kept, observed_target(prior), chosen)
    np.testing.assert_array_equal(refinement.keep, alone.keep)
    assert report == report_alone
    out = refine(mixed, refinement, SCHEMA)["reason"].to_pylist()
    assert [out[at] for at in range(0, 600, 3)] == ["likelihood_floor"] * 200
    assert {out[at] for at in range(600) if at % 3 and not label[at]} == {None}
