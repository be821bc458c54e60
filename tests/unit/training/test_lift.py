"""Paired lift: against a bootstrap in plain Python, planted effects, and nominal coverage."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scalr_ray.core.errors import DataError
from scalr_ray.core.keyed import stream_seed
from training import bootstrap
from training.bootstrap import Draws
from training.lift import ArmResult, Interval, lifts_to_json, paired_lift, summarise
from training.metrics import NO_ITEM

K = 3
ITEMS = 9


def arm_of(rng, seeds, users, *, k=K, items=ITEMS):
    """An arm with free-standing metric values, as if some model had produced them."""
    top = np.stack(
        [np.stack([rng.permutation(items)[:k] for _ in range(users)]) for _ in range(seeds)]
    )
    ndcg, recall = rng.random((2, seeds, users))
    return ArmResult(top=top, ndcg=ndcg, recall=recall, catalogue_size=items)


def with_ndcg(arm, ndcg):
    return ArmResult(top=arm.top, ndcg=ndcg, recall=arm.recall, catalogue_size=arm.catalogue_size)


def everyone(users):
    return {"all": np.ones(users, dtype=bool)}


def test_an_arm_is_measured_per_seed_and_summarised_per_segment():
    relevant = sp.csr_matrix(np.array([[1, 0, 0, 0], [0, 1, 1, 0]], dtype=bool))
    tops = [np.array([[0, 3], [1, 2]]), np.array([[3, 0], [0, NO_ITEM]])]
    arm = ArmResult.of(tops, relevant, 4)
    segments = {
        "all": np.array([True, True]),
        "hidden": np.array([True, False]),
        "warm": np.array([False, False]),
    }
    summary = summarise(arm, segments)
    assert summary["hidden"]["ndcg_at_2"] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert summary["all"]["recall_at_2"] == pytest.approx((1 + 1 + 1 + 0) / 4)
    assert summary["all"]["coverage_at_2"] == pytest.approx((4 / 4 + 2 / 4) / 2)
    assert summary["hidden"]["coverage_at_2"] == pytest.approx(2 / 4)
    assert summary["warm"] == {"ndcg_at_2": None, "recall_at_2": None, "coverage_at_2": None}
    assert json.loads(json.dumps(summary)) == summary


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 30))
@settings(max_examples=40)
def test_an_arm_against_itself_has_no_lift(seed, seeds, users):
    arm = arm_of(np.random.default_rng(seed), seeds, users)
    for interval in paired_lift(arm, arm, everyone(users), bootstrap=50, seed=seed)["all"].values():
        assert interval == Interval(estimate=0.0, low=0.0, high=0.0)


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(2, 20))
@settings(max_examples=25)
def test_lift_equals_a_bootstrap_written_out_in_plain_python(seed, seeds, users):
    rng = np.random.default_rng(seed)
    treated, control = arm_of(rng, seeds, users), arm_of(rng, seeds, users)
    mask = rng.random(users) < 0.7
    mask[0] = True
    lifts = paired_lift(treated, control, {"warm": mask}, bootstrap=30, seed=5, level=0.8)["warm"]

    chosen = np.flatnonzero(mask)
    draws = Draws(
        seed=stream_seed(5, "paired lift", "warm"),
        users=chosen.size,
        seeds=seeds,
        count=30,
        level=0.8,
    )
    (user_counts, seed_counts), *rest = draws.chunks(30)
    assert not rest
    ndcg, coverage = [], []
    for of_users, of_seeds in zip(user_counts, seed_counts, strict=True):
        assert of_users.sum() == chosen.size
        assert of_seeds.sum() == seeds
        ndcg.append(
            _mean(treated, chosen, of_users, of_seeds) / _mean(control, chosen, of_users, of_seeds)
        )
        coverage.append(
            _covered(treated, chosen, of_users, of_seeds)
            / _covered(control, chosen, of_users, of_seeds)
        )
    ones = np.ones(chosen.size), np.ones(seeds)
    estimate = _mean(treated, chosen, *ones) / _mean(control, chosen, *ones)
    _assert_interval(lifts[f"ndcg_at_{K}"], estimate, ndcg)
    estimate = _covered(treated, chosen, *ones) / _covered(control, chosen, *ones)
    centred = np.array(coverage) * estimate / np.median(coverage)
    _assert_interval(lifts[f"coverage_at_{K}"], estimate, centred)


def _mean(arm, chosen, of_users, of_seeds):
    return sum(
        arm.ndcg[seed, user] * times * of_seeds[seed]
        for seed in range(len(arm.top))
        for user, times in zip(chosen, of_users, strict=True)
    )


def _covered(arm, chosen, of_users, of_seeds):
    return sum(
        of_seeds[seed]
        * len(
            {
                item
                for user, times in zip(chosen, of_users, strict=True)
                if times
                for item in arm.top[seed, user].tolist()
            }
        )
        for seed in range(len(arm.top))
    )


def _assert_interval(interval, ratio, sample):
    ordered = np.sort(sample)
    expected = ratio, ordered[math.floor(0.1 * 29)], ordered[math.ceil(0.9 * 29)]
    found = interval.estimate, interval.low, interval.high
    np.testing.assert_allclose(found, np.array(expected) - 1, atol=1e-9)


def test_a_planted_lift_is_recovered_and_its_interval_excludes_zero():
    rng = np.random.default_rng(1)
    control = arm_of(rng, 3, 800)
    treated = with_ndcg(control, control.ndcg * rng.uniform(1.0, 1.5, control.ndcg.shape))
    lift = paired_lift(treated, control, everyone(800), bootstrap=400, seed=0)["all"]["ndcg_at_3"]
    assert lift.low < 0.25 < lift.high
    assert lift.low > 0.2
    assert lift.high < 0.3


def test_pairing_cancels_what_the_users_have_in_common():
    rng = np.random.default_rng(2)
    control = arm_of(rng, 1, 500)
    control = with_ndcg(control, rng.exponential(size=(1, 500)))
    paired = with_ndcg(control, control.ndcg * 1.1)
    unpaired = with_ndcg(control, rng.permutation(control.ndcg[0])[None] * 1.1)
    widths = []
    for treated in (paired, unpaired):
        lift = paired_lift(treated, control, everyone(500), bootstrap=300, seed=0)["all"]
        widths.append(lift["ndcg_at_3"].high - lift["ndcg_at_3"].low)
    assert widths[0] == pytest.approx(0.0, abs=1e-12)
    assert widths[1] > 0.1


def test_the_order_of_the_users_is_noise_only():
    rng = np.random.default_rng(4)
    treated, control = arm_of(rng, 2, 600), arm_of(rng, 2, 600)
    order = rng.permutation(600)
    shuffled = [
        ArmResult(
            top=arm.top[:, order],
            ndcg=arm.ndcg[:, order],
            recall=arm.recall[:, order],
            catalogue_size=ITEMS,
        )
        for arm in (treated, control)
    ]
    one = paired_lift(treated, control, everyone(600), bootstrap=800, seed=0)["all"]["ndcg_at_3"]
    two = paired_lift(*shuffled, everyone(600), bootstrap=800, seed=0)["all"]["ndcg_at_3"]
    assert two.estimate == pytest.approx(one.estimate)
    assert two.low == pytest.approx(one.low, abs=0.02)
    assert two.high == pytest.approx(one.high, abs=0.02)


def test_intervals_contain_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(6)
    truth, contained, runs = 0.2, 0, 200
    for run in range(runs):
        taste = rng.exponential(size=300)
        control = arm_of(rng, 1, 300, k=1)
        control = with_ndcg(control, (taste * rng.uniform(0.5, 1.5, 300))[None])
        treated = with_ndcg(control, (taste * rng.uniform(0.5, 1.5, 300) * (1 + truth))[None])
        lift = paired_lift(treated, control, everyone(300), bootstrap=200, seed=run, level=0.9)
        contained += lift["all"]["ndcg_at_1"].low <= truth <= lift["all"]["ndcg_at_1"].high
    assert 0.83 <= contained / runs <= 0.96


def test_draws_do_not_depend_on_chunks_other_segments_or_the_other_arm(monkeypatch):
    rng = np.random.default_rng(7)
    arms = arm_of(rng, 2, 90), arm_of(rng, 2, 90)
    segments = {"all": np.ones(90, dtype=bool), "warm": np.arange(90) < 40}
    whole = paired_lift(*arms, segments, bootstrap=70, seed=3)
    assert (
        paired_lift(*arms, {"warm": segments["warm"]}, bootstrap=70, seed=3)["warm"]
        == whole["warm"]
    )
    assert paired_lift(*arms, segments, bootstrap=70, seed=4) != whole
    monkeypatch.setattr(bootstrap, "_CHUNK_CELLS", 500)
    again = paired_lift(*arms, segments, bootstrap=70, seed=3)
    for segment, metrics in whole.items():
        for metric, interval in metrics.items():
            assert again[segment][metric].low == pytest.approx(interval.low)
            assert again[segment][metric].high == pytest.approx(interval.high)


def test_coverage_interval_surrounds_the_estimate_of_a_long_tailed_arm():
    rng = np.random.default_rng(8)
    users, items = 300, 2000
    head = np.tile(np.arange(K), (1, users, 1))
    tail = rng.integers(0, items, (1, users, K))
    values = np.ones((1, users))
    control, treated = (
        ArmResult(top=top, ndcg=values, recall=values, catalogue_size=items) for top in (head, tail)
    )
    lift = paired_lift(treated, control, everyone(users), bootstrap=200, seed=0)["all"][
        "coverage_at_3"
    ]
    assert lift.estimate == np.unique(tail).size / K - 1
    assert lift.low < lift.estimate < lift.high


def test_a_control_of_zero_gives_no_lift_or_an_infinite_one_and_json_says_none():
    rng = np.random.default_rng(9)
    some = arm_of(rng, 1, 20)
    nothing = with_ndcg(some, np.zeros((1, 20)))
    zero = paired_lift(nothing, nothing, everyone(20), bootstrap=20, seed=0)
    assert zero["all"]["ndcg_at_3"] == Interval(estimate=0.0, low=0.0, high=0.0)
    infinite = paired_lift(some, nothing, everyone(20), bootstrap=20, seed=0)
    assert infinite["all"]["ndcg_at_3"].estimate == math.inf
    assert infinite["all"]["ndcg_at_3"].high == math.inf
    plain = lifts_to_json(infinite)
    assert plain["all"]["ndcg_at_3"] == {"estimate": None, "low": None, "high": None}
    json.dumps(plain, allow_nan=False)


def test_an_empty_segment_is_undefined():
    arm = arm_of(np.random.default_rng(0), 1, 5)
    lifts = paired_lift(arm, arm, {"hidden": np.zeros(5, dtype=bool)}, bootstrap=10, seed=0)
    assert all(math.isnan(interval.estimate) for interval in lifts["hidden"].values())
    assert lifts_to_json(lifts)["hidden"]["coverage_at_3"]["estimate"] is None


def test_arms_that_are_not_paired_are_refused():
    rng = np.random.default_rng(0)
    arm = arm_of(rng, 2, 6)
    with pytest.raises(DataError, match="not paired"):
        paired_lift(arm, arm_of(rng, 1, 6), everyone(6), bootstrap=10, seed=0)
    with pytest.raises(DataError, match="segment 'all' marks 5 users of 6"):
        paired_lift(arm, arm, everyone(5), bootstrap=10, seed=0)
    with pytest.raises(DataError, match="at least one seed"):
        ArmResult.of([], sp.csr_matrix((1, 1), dtype=bool), 1)


def test_a_full_sized_comparison_takes_seconds_not_minutes():
    rng = np.random.default_rng(0)
    users, items = 4000, 5000
    top = rng.integers(0, items, (2, 3, users, 20))
    values = rng.random((2, 3, users))
    arms = [
        ArmResult(top=t, ndcg=v, recall=v, catalogue_size=items)
        for t, v in zip(top, values, strict=True)
    ]
    half = np.arange(users) % 2 == 0
    segments = {"all": np.ones(users, dtype=bool), "hidden": half, "warm": ~half}
    start = time.process_time()
    paired_lift(*arms, segments, bootstrap=1000, seed=0)
    # Some 0.5 s of processor time; the margin is for a busy machine.
    assert time.process_time() - start < 10
