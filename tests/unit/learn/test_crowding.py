"""What one user, or some who act together, can do to a translation: the bounds of `crowding`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import day, event_table, matrix, users_of

from scalr_ray.learn import Counting, TrainingEvents, translator_as_of
from scalr_ray.learn.crowding import without_crowders
from scalr_ray.learn.prior import prior_as_of
from scalr_ray.offline_store.limits import Limits
from scalr_ray.translator import FrequencyTranslator, PriorMix, Strength, log_likelihood
from scalr_ray.translator.counts import ONE, PairRules
from scalr_ray.translator.storage import load_translator, save_translator

few = settings(max_examples=50)
CUTOFF = day(20)
SOURCES = [f"s{number}" for number in range(4)]
TARGETS = [f"t{number}" for number in range(12)]
MOST = 3  # target items that a user may have
MIX = PriorMix(windows_days=(3, 10, None), weights=(0.5, 0.3, 0.2))
PER_EVENT = PriorMix.recent(window_days=5, background=0.01)
RULES = [
    PairRules(),
    PairRules(event_weights={"view": 2.5}),
    PairRules(event_weights={"view": 3.0}, half_life_days=4.0),
]
# Every item is known, and so the vocabularies do not depend on who attacks.
ANCHOR = (
    [("anchor", item, 1) for item in SOURCES],
    [(f"anchor-{item}", item, 1) for item in TARGETS],
)


class Here:
    """An engine that takes nothing to a cluster."""

    partition_rows = 1

    def takes_cluster(self, rows: int) -> bool:
        return rows < 0


def counting(rules=RULES[0], min_users=1):
    return Counting(
        rules=rules,
        history_half_life_days=None,
        min_users=min_users,
        noise=None,
        limits=Limits(memory_limit="256MB", threads=1, spill_dir=None),
        engine=Here(),
        most_target_items=MOST,
    )


def tables(people):
    """Events of people by name: (source items, target items, day, how often they do it all)."""
    source, target = map(list, ANCHOR)
    for name, (have, own, happened, times) in people.items():
        for again in range(times):
            source += [(name, SOURCES[at], happened + again / 100) for at in sorted(have)]
            target += [(name, TARGETS[at], happened + again / 100) for at in sorted(own)]
    return event_table(source, "books"), event_table(target, "music")


def events_of(people):
    source, target = tables(people)
    return TrainingEvents.coded(source, without_crowders(target, MOST))


def trained(people, strength, how=None, mix=MIX) -> FrequencyTranslator:
    return translator_as_of(events_of(people), CUTOFF, strength=strength, mix=mix, counting=how)


def users_up_to(items, most, size):
    return st.lists(
        st.tuples(
            st.sets(st.integers(0, len(SOURCES) - 1)),
            st.sets(st.integers(0, items - 1), max_size=most),
            st.integers(2, 18),
            st.integers(1, 3),
        ),
        max_size=size,
    )


honest = users_up_to(len(TARGETS), MOST, 12).map(
    lambda people: {f"h{at}": person for at, person in enumerate(people)}
)
fans = st.tuples(users_up_to(len(TARGETS), None, 4), st.integers(1, 40)).map(
    lambda drawn: {f"f{at}": (*person[:3], drawn[1]) for at, person in enumerate(drawn[0])}
)
histories = st.sets(st.integers(0, len(SOURCES) - 1), min_size=1)
strengths = st.builds(
    Strength,
    shrinkage=st.sampled_from([0.01, 0.1, 1.0, 5.0]),
    alpha=st.sampled_from([0.15, 0.6, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)


def newcomer(history):
    return users_of(matrix([history], len(SOURCES)), matrix([set()], len(TARGETS)))


def distance(left, right):
    """Half the L1 distance."""
    return np.abs(left - right).sum() / 2


def shrunk(translator, history):
    """The shrunk P(i | history), which the lift is the ratio of."""
    lift = np.exp(translator.evidence(newcomer(history))[0].astype(np.float64))
    return lift * translator.marginal / translator.marginal.sum()


@few
@given(honest, fans, histories, strengths, st.sampled_from(RULES), st.integers(1, 3))
def test_the_evidence_moves_by_no_more_than_the_bound(
    people, attackers, history, strength, rules, floor
):
    how = counting(rules, floor)
    before = trained(people, strength, how)
    after = trained(people | attackers, strength, how)
    most = len(attackers) * MOST * floor * rules.most_units / ONE
    k, row = strength.shrinkage, before.pair_totals[sorted(history)]
    total = before.marginal.sum()
    bound = (most / (row + k + most) + k / (row + k) * most / (total + most)).mean()
    assert distance(shrunk(before, history), shrunk(after, history)) <= bound + 1e-4


@few
@given(honest, fans, histories, strengths, st.sampled_from(RULES), st.integers(1, 3))
def test_no_likelihood_moves_by_more_than_the_bound(
    people, attackers, history, strength, rules, floor
):
    how = counting(rules, floor)
    before = trained(people, strength, how)
    after = replace(trained(people | attackers, strength, how), prior=before.prior)
    got = log_likelihood(after, newcomer(history)) - log_likelihood(before, newcomer(history))

    def bound(count):
        """What so many can do, by numbers of the honest translator alone."""
        weight, k = rules.most_units / ONE, strength.shrinkage
        most = count * MOST * floor * weight
        total, least = before.marginal.sum(), before.marginal.min()
        row = before.pair_totals[sorted(history)].min()
        gained = max(most / total, count * floor * weight * (total + most) / (k * least))
        lost = np.log1p(most / (row + k)) + np.log1p(count * weight / least)
        return strength.alpha / strength.temperature * (np.log1p(gained) + lost)

    assert np.abs(got).max() <= bound(len(attackers)) + 1e-3
    assert bound(len(attackers)) <= len(attackers) * bound(1) + 1e-9  # at most linear


@given(honest, fans, st.sampled_from([MIX, PER_EVENT]))
def test_the_prior_moves_by_no_more_than_the_bound(people, attackers, mix):
    without, with_them = (
        prior_as_of(events_of(some), CUTOFF, kind="frequency", mix=mix)
        for some in (people, people | attackers)
    )
    log = events_of(people).as_of(CUTOFF).target_log.firsts()
    most, windows = len(attackers) * MOST, []
    for days in mix.windows_days:
        recent = log.appear > (day(20 - days).timestamp() * 1e6 if days else 0)
        windows.append(int(recent.sum()))
    counts, weights = np.array(windows), np.array(mix.weights)
    if mix.per_event:
        bound = most * weights.sum() / (weights @ counts + most * weights.sum())
    else:
        bound = weights @ (most / np.maximum(counts + most, 1))
    assert distance(without, with_them) <= bound + 1e-9


def test_without_the_most_one_user_moves_more_than_that():
    people = {f"h{at}": ({0}, {at % 3}, 5, 1) for at in range(40)}
    robot = people | {"robot": ({0}, set(range(len(TARGETS))), 5, 1)}
    strength = Strength(shrinkage=1.0, alpha=1.0)
    before, after = (
        translator_as_of(TrainingEvents.of(*tables(some)), CUTOFF, strength=strength, mix=MIX)
        for some in (people, robot)
    )
    moved = distance(shrunk(before, {0}), shrunk(after, {0}))
    bound = MOST / (41 + MOST) + 1 / 41 * MOST / (before.marginal.sum() + MOST)
    assert moved > 2 * bound
    assert (trained(robot, strength).counts != before.counts).nnz == 0


@given(honest, st.integers(1, 60), st.integers(2, 18))
def test_however_often_a_user_does_something_it_counts_once(people, times, happened):
    strength = Strength(shrinkage=0.1, alpha=0.6)
    once, often = (
        trained(people | {"fan": ({0, 1}, {5}, happened, count)}, strength) for count in (1, times)
    )
    assert (once.counts != often.counts).nnz == 0
    np.testing.assert_array_equal(once.marginal, often.marginal)
    np.testing.assert_array_equal(once.prior, often.prior)


@given(honest, st.sets(st.integers(0, len(TARGETS) - 1), min_size=MOST + 1))
def test_whoever_touches_too_many_items_counts_for_nothing(people, own):
    strength = Strength(shrinkage=0.1, alpha=0.6)
    robot = {"robot": (set(range(len(SOURCES))), own, 10, 1)}
    without, with_them = (trained(some, strength) for some in (people, people | robot))
    assert (without.counts != with_them.counts).nnz == 0
    np.testing.assert_array_equal(without.marginal, with_them.marginal)
    np.testing.assert_array_equal(without.prior, with_them.prior)


@pytest.mark.parametrize("floor", [2, 3])
def test_fewer_users_than_the_floor_make_no_pair(floor):
    fans = {f"f{at}": ({0}, {7}, 10, 1) for at in range(floor - 1)}
    how = counting(min_users=floor)
    assert trained(fans, Strength(shrinkage=0.1, alpha=1.0), how).counts.nnz == 0


@given(honest, st.sampled_from(RULES))
def test_nothing_is_left_out_for_a_user_who_was_never_counted(people, rules):
    how, strength = counting(rules), Strength(shrinkage=0.1, alpha=0.6)
    translator = trained(people, strength, how)
    robot = users_of(matrix([{0, 1}], len(SOURCES)), matrix([set(range(MOST + 1))], len(TARGETS)))
    np.testing.assert_array_equal(
        translator.evidence(robot)[0, MOST + 1 :],
        translator.evidence(newcomer({0, 1}))[0, MOST + 1 :],
    )


def test_the_most_is_kept_with_the_translator(tmp_path):
    how, strength = counting(), Strength(shrinkage=0.1, alpha=0.6)
    translator = trained({"h": ({0}, {1}, 3, 1)}, strength, how)
    save_translator(translator, tmp_path / "t")
    assert load_translator(tmp_path / "t").weighing == translator.weighing
    assert translator.weighing.most_target_items == MOST


def test_items_of_two_source_domains_are_two_items():
    rows = [("u", item, 1) for item in "abc"]
    both = event_table(rows, "books"), event_table(rows, "films")
    assert without_crowders(pa.concat_tables(both), 5).num_rows == 0
    assert without_crowders(pa.concat_tables(both), 6).num_rows == 6
    assert without_crowders(pa.concat_tables(both), None).num_rows == 6
