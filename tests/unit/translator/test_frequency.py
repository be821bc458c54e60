from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from small_worlds import matrix, users_of
from translator_builds import SOURCES, TARGETS, build, pair_count, recounted_log_lift

from scalr_ray.translator import as_prior, log_likelihood, log_scores
from scalr_ray.translator.protocol import log_softmax, mask_entries

users = st.lists(
    st.tuples(st.sets(st.integers(0, SOURCES - 1)), st.sets(st.integers(0, TARGETS - 1))),
    min_size=1,
    max_size=9,
)
shrinkages = st.sampled_from([0.01, 0.1, 1.0, 5.0, 300.0])
alphas = st.sampled_from([0.0, 0.15, 0.6, 1.0, 2.0])
priors = st.lists(st.integers(0, 9), min_size=TARGETS, max_size=TARGETS).filter(any)


def rows(people):
    return (
        matrix([have for have, _ in people], SOURCES),
        matrix([own for _, own in people], TARGETS),
    )


@given(users)
def test_counts_are_the_distinct_users_with_both_items(people):
    counts = build(people).counts
    assert counts.has_canonical_format
    assert counts.toarray().tolist() == [
        [pair_count(people, source, target) for target in range(TARGETS)]
        for source in range(SOURCES)
    ]


@given(users)
def test_marginal_counts_only_users_who_are_active_in_both_domains(people):
    expected = Counter(item for have, own in people if have for item in own)
    assert build(people).marginal.tolist() == [expected[item] for item in range(TARGETS)]


@given(users, shrinkages, st.sampled_from([0.0, 0.5, 20.0]))
def test_lift_of_items_not_owned_equals_a_full_recount_without_the_user(people, shrinkage, pseudo):
    lift = build(people, shrinkage=shrinkage, pseudo=pseudo).log_lift(*rows(people))
    for at, (have, own) in enumerate(people):
        others = people[:at] + people[at + 1 :]
        for target in set(range(TARGETS)) - own:
            expected = recounted_log_lift(others, have, target, shrinkage, pseudo)
            assert lift[at, target] == pytest.approx(expected, abs=1e-5)


@given(users, shrinkages)
def test_lift_is_the_same_whatever_others_stand_in_the_block(people, shrinkage):
    translator = build(people, shrinkage=shrinkage)
    history, own = rows(people)
    together = translator.log_lift(history, own)
    for at in range(len(people)):
        alone = translator.log_lift(history[at : at + 1], own[at : at + 1])
        assert alone.tobytes() == together[at : at + 1].tobytes()


@given(users, shrinkages)
def test_lift_is_finite_even_for_histories_that_were_never_counted(people, shrinkage):
    translator = build(people, shrinkage=shrinkage)
    everything = [(set(range(SOURCES)), set(range(TARGETS) if at else ())) for at in range(2)]
    assert np.isfinite(translator.log_lift(*rows(everything))).all()


@given(users, shrinkages)
def test_users_without_history_get_lift_zero(people, shrinkage):
    lift = build(people, shrinkage=shrinkage).log_lift(*rows([(set(), own) for _, own in people]))
    assert not lift.any()


def test_more_shrinkage_pulls_the_lift_towards_zero():
    people = [({0}, {0}), ({0}, {0}), ({1}, {1}), ({2}, {2})]
    newcomer = rows([({0}, set())])
    lifts = [build(people, shrinkage=k).log_lift(*newcomer)[0] for k in (0.01, 0.1, 1, 10, 1e6)]
    assert (np.diff(np.abs(np.array(lifts)), axis=0) < 0).all()
    assert np.abs(lifts[-1]).max() < 1e-5
    assert lifts[0][0] == pytest.approx(math.log(2), abs=0.01)


@given(users, priors)
def test_alpha_zero_gives_the_prior_for_everybody(people, prior):
    translator = as_prior(build(people, alpha=0.7, prior=prior))
    scores = log_scores(translator, users_of(*rows(people)))
    with np.errstate(divide="ignore"):
        expected = np.log(np.array(prior) / sum(prior))
    for row in scores:
        np.testing.assert_allclose(row, expected, rtol=1e-5)


@given(users, shrinkages, alphas, priors)
def test_scores_are_log_prior_plus_alpha_times_lift(people, shrinkage, alpha, prior):
    translator = build(people, shrinkage=shrinkage, alpha=alpha, prior=prior)
    scores = log_scores(translator, users_of(*rows(people)))
    lift = translator.log_lift(*rows(people))
    assert np.isneginf(scores[:, ~translator.rankable]).all()
    expected = np.log(translator.prior[translator.rankable]) + alpha * lift[:, translator.rankable]
    np.testing.assert_allclose(scores[:, translator.rankable], expected, rtol=1e-4, atol=1e-5)


@given(users, shrinkages, alphas, st.floats(0.3, 5.0), priors)
def test_likelihoods_sum_to_one_over_rankable_items_not_owned(people, k, alpha, temperature, prior):
    translator = build(people, shrinkage=k, alpha=alpha, temperature=temperature, prior=prior)
    history, own = rows(people)
    likelihood = log_likelihood(translator, users_of(history, own))
    possible = translator.rankable & (own.toarray() == 0)
    assert np.isneginf(likelihood[~possible]).all()
    assert not np.isnan(likelihood).any()
    assert (likelihood <= 0).all()
    total = np.exp(likelihood.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(total, possible.any(axis=1), atol=1e-5)


@given(users, shrinkages, alphas, st.floats(0.3, 5.0))
def test_temperature_divides_the_scores_before_they_are_normalised(people, k, alpha, temperature):
    translator = build(people, shrinkage=k, alpha=alpha, temperature=temperature)
    scores = log_scores(translator, users_of(*rows(people))).astype(np.float64)
    likelihood = log_likelihood(translator, users_of(*rows(people)))
    for row, (_, own) in enumerate(people):
        left = [item for item in range(TARGETS) if item not in own]
        weight = np.exp(scores[row, left] / temperature)
        expected = weight / weight.sum() if left else weight
        np.testing.assert_allclose(np.exp(likelihood[row, left]), expected, rtol=1e-4, atol=1e-7)


def test_owning_the_whole_catalogue_leaves_nothing_and_no_nan():
    people = [({0}, set(range(TARGETS))), ({0}, {1})]
    likelihood = log_likelihood(build(people), users_of(*rows(people)))
    assert np.isneginf(likelihood[0]).all()
    assert np.isfinite(likelihood[1, [0, 2, 3, 4]]).all()


def test_scoring_leaves_counts_and_arguments_as_they_were():
    people = [({0, 1}, {0}), ({1}, {1, 2}), (set(), {3})]
    translator, (history, own) = build(people), rows(people)
    before = [part.toarray().tobytes() for part in (translator.counts, history, own)]
    first = log_likelihood(translator, users_of(history, own))
    assert log_likelihood(translator, users_of(history, own)).tobytes() == first.tobytes()
    assert [part.toarray().tobytes() for part in (translator.counts, history, own)] == before


@given(users, shrinkages)
def test_evidence_is_the_count_over_the_shrunk_total(people, shrinkage):
    translator = build(people, shrinkage=shrinkage)
    pairs = [(source, target) for source in range(SOURCES) for target in range(TARGETS)]
    items, targets = np.array(pairs).T
    expected = [
        pair_count(people, source, target)
        / (sum(pair_count(people, source, item) for item in range(TARGETS)) + shrinkage)
        for source, target in pairs
    ]
    np.testing.assert_allclose(translator.evidence_by_event(items, targets), expected, rtol=1e-12)


def test_evidence_of_no_pairs_is_empty():
    nothing = np.empty(0, dtype=np.int64)
    assert build([({0}, {0})]).evidence_by_event(nothing, nothing).shape == (0,)


def test_another_strength_keeps_the_counts():
    translator = build([({0}, {0})], alpha=1.0, shrinkage=2.0, temperature=3.0)
    prior = as_prior(translator)
    assert prior.counts is translator.counts
    assert prior.strength.alpha == 0
    assert (prior.strength.temperature, prior.strength.shrinkage) == (3.0, 2.0)


@given(st.lists(st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=3), min_size=1))
def test_log_softmax_against_plain_arithmetic(table):
    assume(all(max(row) - min(row) < 80 for row in table))
    result = log_softmax(np.array(table, dtype=np.float32))
    for got, row in zip(result, table, strict=True):
        log_total = max(row) + math.log(sum(math.exp(value - max(row)) for value in row))
        np.testing.assert_allclose(got, [value - log_total for value in row], atol=1e-4)


def test_mask_touches_the_stored_entries_only():
    scores = np.zeros((2, 3), dtype=np.float32)
    mask_entries(scores, matrix([{1}, {0, 2}], 3))
    assert np.isneginf(scores).tolist() == [[False, True, False], [True, False, True]]
