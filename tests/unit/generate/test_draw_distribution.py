"""What is drawn follows the distributions that it should; seeds are fixed, bounds are wide.

Each statistic is compared with its expectation over many users, at four to five standard
deviations or at the 99.9 % point of chi-square: a right sampler passes with nearly any seed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse, stats
from small_drawings import MIX, SCHEMA, listed, settings_at
from small_worlds import day, matrix

from scalr_ray.core.clock import to_micros
from scalr_ray.core.keyed import id_keys
from scalr_ray.generate import draw_events
from scalr_ray.translator import FrequencyTranslator, Strength, Vocabulary, as_prior

USERS = 20_000
CUT = day(100)
DAY = 86_400_000_000


def translator(counts, *, prior, marginal, alpha=1.0, delays=(), shrinkage=1.0):
    """Counts (S, I) set by hand; every item was seen from day 0."""
    counts = np.array(counts, dtype=np.float32)
    prior = np.array(prior, dtype=float)
    return FrequencyTranslator(
        train_cutoff=CUT,
        source_items=Vocabulary(ids=pa.array([f"s{at}" for at in range(counts.shape[0])])),
        target_items=Vocabulary(ids=pa.array([f"t{at}" for at in range(counts.shape[1])])),
        counts=sparse.csr_matrix(counts),
        marginal=np.array(marginal, dtype=float),
        mix=MIX,
        prior=prior / prior.sum(),
        first_seen=np.full(len(prior), to_micros(day(0)), dtype=np.int64),
        delays=np.array(delays, dtype=np.int64),
        strength=Strength(shrinkage=shrinkage, alpha=alpha, temperature=2.0),
    )


def plan(history, times, *, own=(), users=USERS, slots=1):
    """So many users with the same history at the same times, and so many slots each."""
    history, times, own = list(history), list(times), list(own)
    ids = [f"source-{at}" for at in range(len(history))]
    user_ids = pa.array([f"u{code:06d}" for code in range(users)])
    return pa.table(
        {
            "user_id": user_ids,
            "user_key": pa.array(id_keys(user_ids)),
            "slots": pa.array([slots] * users),
            "weight": pa.array(np.ones(users)),
            "group": pa.array(np.zeros(users, dtype=np.int64)),
            "taken": pa.array([[]] * users, pa.large_list(pa.int64())),
            "source": listed([history] * users, [times] * users, [ids] * users),
            "own": listed([own] * users),
        }
    )


def draw(plan, translator, **changes):
    return draw_events(plan, translator, replace(settings_at(CUT), **changes), SCHEMA)


def item_slots(drawn, users=USERS):
    """(U, K) item code of each user's slots."""
    codes = np.array([int(name[1:]) for name in drawn["item_id"].to_pylist()])
    return codes.reshape(users, -1)


def chosen_after_another(weights, k):
    """{ordered k-tuple: probability} of drawing without replacement in proportion to `weights`."""
    chances = {}
    for tuple_ in permutations(range(len(weights)), k):
        chance, left = 1.0, sum(weights)
        for item in tuple_:
            chance *= weights[item] / left
            left -= weights[item]
        if chance > 0:
            chances[tuple_] = chance
    return chances


def assert_follows(observed, expected):
    """Chi-square over the outcomes of `expected`, the rare ones pooled; nothing else may occur."""
    total = len(observed)
    counts = Counter(observed)
    assert counts.keys() <= expected.keys()
    common = [outcome for outcome, share in expected.items() if share * total > 5]
    found = [counts[outcome] for outcome in common]
    wanted = [expected[outcome] * total for outcome in common]
    if len(common) < len(expected):
        found.append(total - sum(found))
        wanted.append(total - sum(wanted))
    assert stats.chisquare(found, np.array(wanted) * total / sum(wanted)).pvalue > 1e-3


NO_COUNTS = [[0, 0, 0, 0, 0]]
PRIOR = [8, 4, 2, 1, 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_are_those_of_sampling_without_replacement(temperature):
    model = translator(NO_COUNTS, prior=PRIOR, marginal=[1] * 5, alpha=0.0)
    drawn = draw(plan([0], [0], slots=3), model, temperature=temperature)
    weights = [share ** (1 / temperature) for share in PRIOR]
    observed = [tuple(row) for row in item_slots(drawn).tolist()]
    assert_follows(observed, chosen_after_another(weights, 3))


def test_evidence_multiplies_the_prior_by_the_lift():
    counts, marginal = [[30, 0, 10, 0, 20]], [100, 50, 20, 20, 10]
    model = translator(counts, prior=PRIOR, marginal=marginal)
    drawn = draw(plan([0], [0], slots=2), model, temperature=1.0, evidence=1.0)
    lift = np.exp(model.log_lift(matrix([{0}], 1), matrix([set()], 5)))[0]
    observed = [tuple(row) for row in item_slots(drawn).tolist()]
    assert_follows(observed, chosen_after_another((model.prior * lift).tolist(), 2))


def test_items_that_are_owned_are_drawn_around():
    model = translator(NO_COUNTS, prior=PRIOR, marginal=[1] * 5, alpha=0.0)
    drawn = draw(plan([0], [0], own=[0, 3]), model, temperature=1.0)
    observed = [tuple(row) for row in item_slots(drawn).tolist()]
    assert_follows(observed, {(1,): 4 / 7, (2,): 2 / 7, (4,): 1 / 7})


def test_the_placebo_draws_from_the_prior_whatever_the_evidence():
    counts, marginal = [[0, 0, 0, 90, 0]], [10, 10, 10, 90, 10]
    model = translator(counts, prior=PRIOR, marginal=marginal, alpha=2.0)
    asked = {"temperature": 1.0, "evidence": 1.5}
    placebo = draw(plan([0], [0]), as_prior(model), **asked)
    expected = {(item,): share / sum(PRIOR) for item, share in enumerate(PRIOR)}
    assert_follows([tuple(row) for row in item_slots(placebo).tolist()], expected)
    treated = item_slots(draw(plan([0], [0]), model, **asked))
    assert (treated == 3).mean() > 2 * PRIOR[3] / sum(PRIOR)


def test_draws_of_neighbouring_users_are_independent():
    model = translator(NO_COUNTS, prior=[1] * 5, marginal=[1] * 5, alpha=0.0)
    slots = item_slots(draw(plan([0], [0]), model, temperature=1.0))[:, 0]
    pairs = {(a, b): 1 / 25 for a in range(5) for b in range(5)}
    assert_follows(list(zip(slots[::2].tolist(), slots[1::2].tolist(), strict=True)), pairs)


def triggers(drawn):
    return [int(name.split("-")[1]) for name in drawn["source_event_id"].to_pylist()]


def test_the_trigger_is_drawn_in_proportion_to_its_evidence():
    counts = [[6], [3], [0], [1]]
    model = translator(counts, prior=[1], marginal=[10], shrinkage=2.0)
    drawn = draw(plan([0, 1, 2, 3], [0, 1, 2, 3]), model)
    pull = {at: row[0] / (row[0] + 2.0) for at, row in enumerate(counts) if row[0]}
    assert_follows(triggers(drawn), pull)


def test_the_trigger_is_uniform_where_nothing_contributed():
    model = translator([[0, 5], [0, 5], [0, 5]], prior=[1, 0], marginal=[1, 5])
    drawn = draw(plan([0, 1, 2], [0, 1, 2]), model)
    assert_follows(triggers(drawn), dict.fromkeys(range(3), 1 / 3))


def test_the_trigger_of_a_placebo_is_uniform():
    model = as_prior(translator([[60], [1]], prior=[1], marginal=[10]))
    drawn = draw(plan([0, 1], [0, 1]), model)
    assert_follows(triggers(drawn), {0: 0.5, 1: 0.5})


def delays_of(drawn, triggered):
    return drawn["event_timestamp"].cast(pa.int64()).to_numpy() - triggered


OBSERVED = np.sort(np.random.default_rng(3).exponential(6 * DAY, 101).astype(np.int64))


def follow(delays, *, triggered, first_seen=0):
    model = translator([[1]], prior=[1], marginal=[1], delays=delays)
    model = replace(model, first_seen=np.array([first_seen], dtype=np.int64))
    drawn = draw(plan([0], [triggered]), model)
    return delays_of(drawn, triggered)


def test_delays_follow_the_observed_distribution():
    delays = follow(OBSERVED, triggered=to_micros(CUT) - 90 * DAY)
    grid = np.linspace(0, 1, 101)
    result = stats.kstest(delays, lambda value: np.interp(value, OBSERVED, grid))
    assert result.pvalue > 1e-3


def test_delays_that_the_bounds_exclude_are_conditioned_away():
    triggered = to_micros(CUT) - 8 * DAY
    delays = follow(OBSERVED, triggered=triggered, first_seen=triggered + 2 * DAY)
    assert delays.min() >= 2 * DAY
    assert delays.max() < 8 * DAY
    low, high = np.interp([2 * DAY, 8 * DAY], OBSERVED, np.linspace(0, 1, 101))

    def conditional(value):
        return (np.interp(value, OBSERVED, np.linspace(0, 1, 101)) - low) / (high - low)

    assert stats.kstest(delays, conditional).pvalue > 1e-3


def test_without_a_possible_delay_the_time_is_uniform_between_the_bounds():
    triggered = to_micros(CUT) - 4 * DAY
    for delays in ([], [50 * DAY] * 101):
        got = follow(delays, triggered=triggered, first_seen=triggered + DAY)
        assert stats.kstest(got, stats.uniform(DAY, 3 * DAY).cdf).pvalue > 1e-3


@pytest.mark.parametrize("whole_days", [1, 150, 3000])
def test_delays_of_whole_days_stay_whole_days(whole_days):
    """Logs by the day repeat the same delay in many quantiles, however long it is."""
    days = np.repeat([1, whole_days], [41, 60]) * DAY
    got = follow(days, triggered=to_micros(CUT) - 4000 * DAY, first_seen=0)
    near = np.abs(got[:, None] - np.array([1, whole_days]) * DAY) <= 101
    assert near.any(axis=1).mean() > 0.98
    if whole_days > 1:
        assert near[:, 0].mean() == pytest.approx(0.4, abs=0.02)


def test_delays_of_different_items_of_a_user_are_independent():
    model = translator([[1, 1]], prior=[1, 1], marginal=[1, 1], delays=OBSERVED)
    triggered = to_micros(CUT) - 90 * DAY
    delays = delays_of(draw(plan([0], [triggered], slots=2), model), triggered)
    correlation = stats.spearmanr(delays[::2], delays[1::2]).statistic
    assert abs(correlation) < 5 / USERS**0.5


def test_the_cut_to_the_likeliest_is_renormalised():
    model = translator(NO_COUNTS, prior=PRIOR, marginal=[1] * 5, alpha=0.0)
    drawn = draw(plan([0], [0], slots=2), model, temperature=1.0, top_p=0.8)
    observed = [tuple(row) for row in item_slots(drawn).tolist()]
    assert_follows(observed, chosen_after_another(PRIOR[:3], 2))
    share = {f"t{item}": weight / sum(PRIOR[:3]) for item, weight in enumerate(PRIOR[:3])}
    expected = [share[item] for item in drawn["item_id"].to_pylist()]
    np.testing.assert_allclose(drawn["propensity"], expected, rtol=1e-5)


def test_the_likeliest_are_taken_by_everybody_where_nothing_is_left_to_chance():
    model = translator(NO_COUNTS, prior=[4, 8, 2, 2, 2], marginal=[1] * 5, alpha=0.0)
    drawn = draw(plan([0], [0], slots=3), model, strategy="top", top_p=0.1, temperature=9.0)
    assert {tuple(row) for row in item_slots(drawn).tolist()} == {(1, 0, 2)}
    assert set(drawn["propensity"].to_pylist()) == {1.0}
