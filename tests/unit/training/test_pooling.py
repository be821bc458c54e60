"""Lifts over origins: against plain Python, against scipy, and nominal coverage of the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scalr_ray.core.errors import DataError
from scalr_ray.core.keyed import stream_seed
from training.bootstrap import Draws
from training.pooling import AtOrigin, half_width, pooled_lift, pooled_sizes
from training.verdict import Reading, read

BOOTSTRAP = 60
MEAN_LIFT = 0.2


def origin_of(rng, users, seeds=2, *, shared=40):
    """An origin of users who may be those of others, half of them hidden."""
    hidden = rng.random(users) < 0.5
    return AtOrigin(
        users=rng.choice(shared, size=users, replace=False),
        segments={"all": np.ones(users, dtype=bool), "hidden": hidden},
        arms={
            name: {metric: rng.random((seeds, users)) for metric in ("ndcg_at_3", "recall_at_3")}
            for name in ("synthetic", "real_only")
        },
    )


def lift_of(origins, *, bootstrap=BOOTSTRAP, level=0.95):
    return pooled_lift(origins, "synthetic", "real_only", bootstrap=bootstrap, seed=5, level=level)


def pairs(origins, arm, metric, segment):
    """(origin, seed, user, value) of each, one by one."""
    for place, origin in enumerate(origins):
        values, mask = origin.arms[arm][metric], origin.segments[segment]
        for seed in range(len(values)):
            for user in np.flatnonzero(mask):
                yield place, seed, int(origin.users[user]), float(values[seed, user])


def drawn_in_plain_python(origins, metric, segment, level):
    """The percentile interval of users and seeds, whoever is drawn being drawn at every origin."""
    people = sorted({user for _, _, user, _ in pairs(origins, "synthetic", metric, segment)})
    draws = Draws(
        seed=stream_seed(5, "pooled lift", segment),
        users=len(people),
        seeds=2,
        count=BOOTSTRAP,
        level=level,
    )
    ratios = []
    for of_users, of_seeds in draws.chunks(BOOTSTRAP):
        for times, again in zip(of_users, of_seeds, strict=True):
            sums = [
                sum(
                    times[people.index(user)] * again[seed] * value
                    for _, seed, user, value in pairs(origins, arm, metric, segment)
                )
                for arm in ("synthetic", "real_only")
            ]
            ratios.append(sums[0] / sums[1])
    tail = (1 - level) / 2
    low, high = np.sort(ratios), np.sort(ratios)[::-1]
    place = math.floor(tail * (BOOTSTRAP - 1) + 1e-9)
    return low[place] - 1, high[place] - 1


def half_in_plain_python(origins, metric, segment, level):
    """The t-interval over origins, with every sum written out."""
    sums = {
        arm: [
            math.fsum(
                value
                for place, _, _, value in pairs(origins, arm, metric, segment)
                if place == number
            )
            for number in range(len(origins))
        ]
        for arm in ("synthetic", "real_only")
    }
    total = sum(sums["real_only"])
    ratio = sum(sums["synthetic"]) / total
    w = [value / total for value in sums["real_only"]]
    if sum(share > 0 for share in w) < 2:
        return math.inf
    size = range(len(w))
    squares = sum(share**2 for share in w)
    # Covariances of the residuals w_i * (l_i - sum_k w_k * l_k) of lifts of variance one.
    spread = [[w[i] * w[j] * ((i == j) - w[i] - w[j] + squares) for j in size] for i in size]
    trace = sum(spread[i][i] for i in size)
    freedom = trace**2 / sum(spread[i][j] ** 2 for i in size for j in size)
    residuals = [
        (treated - ratio * control) / total
        for treated, control in zip(sums["synthetic"], sums["real_only"], strict=True)
    ]
    variance = sum(value**2 for value in residuals) * squares / trace
    return stats.t.ppf((1 + level) / 2, freedom) * math.sqrt(variance)


@given(st.integers(0, 2**32), st.lists(st.integers(1, 12), min_size=1, max_size=4))
@settings(max_examples=25)
def test_the_interval_equals_one_written_out_in_plain_python(seed, sizes):
    rng, level = np.random.default_rng(seed), 0.8
    origins = [origin_of(rng, users) for users in sizes]
    for segment, metrics in lift_of(origins, level=level).items():
        for metric, interval in metrics.items():
            if not any(origin.segments[segment].any() for origin in origins):
                assert math.isnan(interval.estimate)
                continue
            sums = [
                sum(value for *_, value in pairs(origins, arm, metric, segment))
                for arm in ("synthetic", "real_only")
            ]
            estimate = sums[0] / sums[1] - 1
            low, high = drawn_in_plain_python(origins, metric, segment, level)
            half = half_in_plain_python(origins, metric, segment, level)
            assert interval.estimate == pytest.approx(estimate)
            assert interval.low == pytest.approx(min(low, max(estimate - half, -1.0)))
            assert interval.high == pytest.approx(max(high, estimate + half))


@given(st.lists(st.floats(-0.9, 3.0), min_size=2, max_size=12), st.floats(0.1, 100.0))
def test_equal_origins_give_the_interval_of_the_textbook(lifts, control):
    of = np.full(len(lifts), control)
    half = half_width(of * (1 + np.array(lifts)), of)
    expected = stats.t.ppf(0.975, len(lifts) - 1) * stats.sem(lifts)
    assert half == pytest.approx(expected, abs=1e-9)


def test_one_large_origin_among_small_ones_does_not_pass_for_many():
    lifts = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    alike, one_large = np.ones(6), np.array([20.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    halves = [half_width(of * (1 + lifts), of) for of in (alike, one_large)]
    assert halves[1] > 3 * halves[0]


def test_one_origin_alone_decides_nothing():
    rng = np.random.default_rng(0)
    (origin,) = (origin_of(rng, 40),)
    interval = lift_of([origin])["all"]["ndcg_at_3"]
    assert (interval.low, interval.high) == (-1.0, math.inf)
    assert read(interval) is Reading.UNCLEAR
    assert interval.to_json() == {"estimate": interval.estimate, "low": -1.0, "high": None}


def test_an_arm_against_itself_has_no_lift():
    rng = np.random.default_rng(0)
    origins = [origin_of(rng, users) for users in (5, 20, 9)]
    found = pooled_lift(origins, "synthetic", "synthetic", bootstrap=BOOTSTRAP, seed=5)
    for interval in found["all"].values():
        assert (interval.estimate, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_where_the_control_arm_reaches_nothing_the_lift_is_unbounded():
    rng = np.random.default_rng(0)
    origins = [origin_of(rng, users) for users in (5, 9)]
    for origin in origins:
        origin.arms["real_only"]["ndcg_at_3"][:] = 0.0
    assert lift_of(origins)["all"]["ndcg_at_3"].estimate == math.inf


def test_a_segment_of_nobody_is_undefined_and_one_of_some_origins_is_of_these():
    rng = np.random.default_rng(3)
    origins = [origin_of(rng, users) for users in (8, 12, 10)]
    origins[1].segments["hidden"][:] = False
    some = lift_of(origins)["hidden"]
    assert some == lift_of([origins[0], origins[2]])["hidden"]
    for origin in origins:
        origin.segments["hidden"][:] = False
    assert all(math.isnan(interval.low) for interval in lift_of(origins)["hidden"].values())
    assert pooled_sizes(origins) == {"all": 30, "hidden": 0}


def test_whom_several_origins_share_is_one_user():
    """What a user adds to all of them is no evidence of many users."""
    rng = np.random.default_rng(0)
    base = origin_of(rng, 30)
    others = [
        AtOrigin(users=base.users + 100 * number, segments=base.segments, arms=base.arms)
        for number in range(6)
    ]
    same, different = (
        lift_of(each, bootstrap=400)["all"]["ndcg_at_3"] for each in ([base] * 6, others)
    )
    assert same.estimate == pytest.approx(different.estimate)
    assert same.high - same.low > 1.4 * (different.high - different.low)


def test_what_cannot_be_pooled_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="needs an origin"):
        lift_of([])
    with pytest.raises(DataError, match="the same metrics and seeds"):
        lift_of([origin_of(rng, 5), origin_of(rng, 5, seeds=3)])


def simulated(rng, sizes, apart):
    """Origins whose true lifts lie `apart` (standard deviation) around the mean lift."""
    origins, start = [], 0
    for users in sizes:
        lift = rng.normal(MEAN_LIFT, apart)
        real = rng.random(users) * (rng.random(users) < 0.3)
        synthetic = real * (1 + lift) + rng.normal(0, 0.15, users) * (real > 0)
        origins.append(
            AtOrigin(
                users=np.arange(start, start + users),
                segments={"all": np.ones(users, dtype=bool)},
                arms={
                    "real_only": {"ndcg_at_3": real[None]},
                    "synthetic": {"ndcg_at_3": synthetic[None]},
                },
            )
        )
        start += users
    return origins


def two_level(rng, origins, draws=100):
    """The percentiles of origins that are drawn again, and users again within them."""
    values = [
        np.stack([origin.arms[arm]["ndcg_at_3"][0] for arm in ("synthetic", "real_only")])
        for origin in origins
    ]
    ratios = []
    for _ in range(draws):
        sums = np.zeros(2)
        for place in rng.integers(0, len(values), len(values)):
            users = values[place].shape[1]
            sums += values[place][:, rng.integers(0, users, users)].sum(axis=1)
        ratios.append(sums[0] / sums[1] - 1)
    return np.quantile(ratios, (0.025, 0.975))


@pytest.mark.parametrize(
    ("sizes", "apart", "least", "most"),
    [
        # Where origins do not differ, the bootstrap holds open what the t-interval left too narrow.
        ([150] * 2, 0.0, 0.97, 1.0),
        ([150] * 3, 0.0, 0.95, 1.0),
        ([150] * 10, 0.0, 0.94, 0.995),
        ([150] * 2, 0.3, 0.925, 0.975),
        ([150] * 3, 0.3, 0.925, 0.975),
        ([150] * 10, 0.3, 0.925, 0.975),
        ([150] * 3, 0.08, 0.925, 0.985),
        ([60, 60, 60, 300], 0.3, 0.94, 1.0),
    ],
)
def test_the_interval_covers_the_mean_lift_whether_origins_differ_or_not(sizes, apart, least, most):
    rng, times = np.random.default_rng(1), 500
    covered = 0
    for _ in range(times):
        interval = lift_of(simulated(rng, sizes, apart))["all"]["ndcg_at_3"]
        covered += interval.low <= MEAN_LIFT <= interval.high
    assert least <= covered / times <= most


@pytest.mark.parametrize(
    ("count", "apart", "low", "high"), [(3, 0.3, 0.0, 0.85), (8, 0.0, 0.96, 1.0)]
)
def test_drawing_at_two_levels_is_too_narrow_for_few_and_too_wide_for_many(count, apart, low, high):
    rng, times = np.random.default_rng(2), 100
    covered = 0
    for _ in range(times):
        bounds = two_level(rng, simulated(rng, [150] * count, apart))
        covered += bounds[0] <= MEAN_LIFT <= bounds[1]
    assert low <= covered / times <= high
