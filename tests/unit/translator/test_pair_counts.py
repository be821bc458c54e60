from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.core.errors import ConfigError, DataError
from scalr_ray.translator.counts import ONE, TYPE_ONE, PairCounts, PairRules
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.noise import Bound, Noise, with_noise

SCHEMA = pa.schema(
    [("source", pa.string()), ("target", pa.string()), ("users", "int64"), ("weight", "int64")]
)
DAY = 86_400_000_000
row = st.tuples(
    st.sampled_from([None, "s1", "s2", "s3"]),
    st.sampled_from(["t1", "t2", "t3"]),
    st.integers(1, 9),
    st.integers(0, 9 * ONE),
)
tables = st.lists(row, max_size=12)


def table(rows):
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    return pa.table(columns, schema=SCHEMA)


def counts(rows):
    return PairCounts.of(table(rows))


def summed(rows):
    """The sums as a plain dictionary."""
    sums = {}
    for source, target, users, weight in rows:
        before = sums.get((source, target), (0, 0))
        sums[source, target] = (before[0] + users, before[1] + weight)
    return sums


@given(tables, st.randoms())
def test_sums_do_not_depend_on_the_order_of_rows(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert counts(rows) == counts(shuffled)
    got = {(r["source"], r["target"]): (r["users"], r["weight"]) for r in to_rows(counts(rows))}
    assert got == summed(rows)


def to_rows(made):
    return made.rows().to_pylist()


@given(tables)
def test_pairs_are_in_order_and_each_stands_once(rows):
    made = counts(rows)
    pairs = list(zip(*(made.pairs[name].to_pylist() for name in ("source", "target")), strict=True))
    assert pairs == sorted(set(pairs))
    targets = made.targets["target"].to_pylist()
    assert targets == sorted(set(targets))


@given(tables, tables)
def test_what_is_put_in_can_be_taken_out(left, right):
    both = counts(left).plus(counts(right))
    assert both == counts(left + right)
    assert both.minus(counts(right)) == counts(left)
    assert both.minus(both) == counts([])


@given(tables, tables)
def test_taking_out_more_than_there_is_is_refused(left, right):
    have, gone = summed(left), summed(right)
    lacking = any(
        users > have.get(pair, (0, 0))[0]
        or weight > have.get(pair, (0, 0))[1]
        or (users == have.get(pair, (0, 0))[0] and weight != have.get(pair, (0, 0))[1])
        for pair, (users, weight) in gone.items()
    )
    if lacking:
        with pytest.raises(DataError, match="count all events again"):
            counts(left).minus(counts(right))
    else:
        counts(left).minus(counts(right))


def test_unequal_counts_are_unequal():
    assert counts([("s1", "t1", 1, ONE)]) != counts([("s1", "t1", 1, ONE + 1)])
    assert counts([("s1", "t1", 1, ONE)]) != counts([("s1", "t2", 1, ONE)])
    assert counts([("s1", "t1", 1, ONE)]) != counts([(None, "t1", 1, ONE)])


@given(tables, st.integers(1, 12))
def test_the_floor_drops_pairs_of_fewer_users_and_nothing_else(rows, floor):
    kept = counts(rows).with_floor(floor)
    expected = [
        (*pair, *sums) for pair, sums in summed(rows).items() if pair[0] is None or sums[0] >= floor
    ]
    assert kept == counts(expected)


@given(tables)
def test_matrix_and_marginal_hold_the_weights_in_users(rows):
    sources = Vocabulary.of(pa.array(["s0", "s1", "s2", "s3"]))
    targets = Vocabulary.of(pa.array(["t1", "t2", "t3", "t4"]))
    coded = counts(rows).coded(sources, targets)
    matrix, users = coded.matrix((4, 4)), coded.matrix((4, 4), "users")
    assert matrix.has_canonical_format
    sums = summed(rows)
    for at, target in enumerate(["t1", "t2", "t3", "t4"]):
        assert coded.marginal(4)[at] == sums.get((None, target), (0, 0))[1] / ONE
        for place, source in enumerate(["s0", "s1", "s2", "s3"]):
            expected = sums.get((source, target), (0, 0))
            assert users[place, at] == expected[0]
            assert matrix[place, at] == np.float32(expected[1] / ONE)


def test_items_without_a_code_are_refused():
    with pytest.raises(DataError, match="in no event"):
        counts([("s9", "t1", 1, ONE)]).coded(
            Vocabulary.of(pa.array(["s1"])), Vocabulary.of(pa.array(["t1"]))
        )


@given(
    st.floats(0, 256),
    st.floats(0, 256),
    st.integers(-(10**15), 10**15),
    st.sampled_from([None, 0.5, 7, 30, 3650]),
)
def test_a_contribution_is_the_product_within_its_rounding(source, target, gap, half_life):
    rules = PairRules(event_weights={"a": source, "b": target}, half_life_days=half_life)
    units = rules.type_units["a"], rules.type_units["b"]
    assert [Fraction(unit, TYPE_ONE) for unit in units] == [
        pytest.approx(weight, abs=0.5 / TYPE_ONE) for weight in (source, target)
    ]
    got = rules.contributions(*(np.array([value]) for value in (*units, gap)))[0]
    assert 0 <= got <= rules.most_units
    days = abs(gap) / DAY
    decay = 1.0 if half_life is None else 2 ** (-days / half_life)
    exact = units[0] * units[1] / TYPE_ONE**2 * decay
    # A step of recency is 1 / 64 of a half-life, which is 1.1 %.
    assert got / ONE == pytest.approx(exact, rel=0.012, abs=units[0] * units[1] / ONE**2 + 1 / ONE)


def test_recency_halves_exactly_and_ends():
    rules = PairRules(half_life_days=10)
    one = np.array([TYPE_ONE])
    halves = [rules.contributions(one, one, np.array([days * DAY]))[0] for days in (0, 10, 20, -10)]
    assert halves == [ONE, ONE // 2, ONE // 4, ONE // 2]
    assert rules.contributions(one, one, np.array([1_000_000 * DAY]))[0] == 0


@pytest.mark.parametrize("weight", [-0.1, 256.1, math.nan, math.inf])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(ConfigError, match=r"translator\.event_weights: 'view'"):
        PairRules(event_weights={"view": weight})


@pytest.mark.parametrize("days", [0, -1.0, math.nan, math.inf])
def test_a_half_life_out_of_range_is_refused(days):
    with pytest.raises(ConfigError, match=r"pair_half_life_days"):
        PairRules(half_life_days=days)


def test_plain_rules_are_told_from_others():
    assert PairRules().is_plain
    assert PairRules(event_weights={"view": 1}).is_plain
    assert not PairRules(event_weights={"view": 2}).is_plain
    assert not PairRules(half_life_days=3).is_plain


def many_pairs(users):
    rows = [(f"s{at:05d}", "t", users, users * ONE) for at in range(20_000)]
    return counts([*rows, (None, "t", 99, 99 * ONE)])


def test_noise_has_the_scale_it_promises():
    made = many_pairs(1000)
    bound = Bound(source_items=3, target_items=2)
    for rules in (PairRules(), PairRules(event_weights={"buy": 2.0})):
        noise = Noise(epsilon=0.5, bound=bound, seed=4)
        noisy = with_noise(made, noise, rules)
        assert noisy.targets == made.targets
        moved = (noisy.pairs["weight"].to_numpy() - 1000 * ONE) / ONE
        scale = 6 * rules.most_units / ONE / 0.5
        assert np.abs(moved).mean() == pytest.approx(scale, rel=0.03)
        assert np.mean(moved) == pytest.approx(0, abs=4 * scale * math.sqrt(2 / 20_000))
        # Laplace: half of the noise lies within scale * log 2.
        assert np.mean(np.abs(moved) < scale * math.log(2)) == pytest.approx(0.5, abs=0.02)


def test_noise_of_a_pair_depends_on_seed_and_pair_alone():
    noise = Noise(epsilon=1, bound=Bound(source_items=2, target_items=2), seed=1)
    made = many_pairs(100)
    noisy = with_noise(made, noise, PairRules())
    assert noisy == with_noise(made, noise, PairRules())
    few = PairCounts(pairs=made.pairs.slice(7000, 50), targets=made.targets)
    assert with_noise(few, noise, PairRules()).pairs == noisy.pairs.slice(7000, 50)
    other = Noise(epsilon=1, bound=noise.bound, seed=2)
    assert with_noise(made, other, PairRules()) != noisy


def test_pairs_whose_noise_leaves_no_user_are_dropped_and_the_floor_applies_afterwards():
    noise = Noise(epsilon=1, bound=Bound(source_items=2, target_items=2), seed=1)
    noisy = with_noise(many_pairs(1), noise, PairRules())
    assert 0 < noisy.pairs.num_rows < 20_000
    assert min(noisy.pairs["users"].to_pylist()) == 1
    assert noisy.pairs["users"].to_numpy() == pytest.approx(noisy.pairs["weight"].to_numpy() // ONE)


@pytest.mark.parametrize("floor", [2, 5, 10, 20])
def test_few_pairs_of_one_user_are_seen_above_the_floor(floor):
    noise = Noise(epsilon=2, bound=Bound(source_items=2, target_items=1), seed=9)
    seen = with_noise(many_pairs(1), noise, PairRules()).with_floor(floor).pairs.num_rows / 20_000
    assert seen <= noise.delta(floor) / noise.pairs_of_a_user + 3 / math.sqrt(20_000)


@pytest.mark.parametrize("epsilon", [0, -1.0, math.nan, math.inf])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(ConfigError, match="noise_epsilon"):
        Noise(epsilon=epsilon, bound=Bound(source_items=1, target_items=1), seed=0)
