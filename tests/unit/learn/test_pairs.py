from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_worlds import day, event_table

from scalr_ray.core.errors import DataError
from scalr_ray.learn import TrainingEvents, translator_as_of
from scalr_ray.learn.counts import MARGINAL_PSEUDO_USERS
from scalr_ray.learn.pairs import PairRows, count_coded, count_pairs, counts_to_keep, updated
from scalr_ray.offline_store.limits import Limits
from scalr_ray.translator import PriorMix, Strength
from scalr_ray.translator.counts import ONE, PairCounts, PairRules
from scalr_ray.translator.frequency import count_users, overlap_marginal
from scalr_ray.translator.noise import Bound, Noise
from scalr_ray.translator.weighing import Weighing

LIMITS = Limits(memory_limit="256MB", threads=1, spill_dir=None)
DAY = 86_400_000_000
USERS, ITEMS, TYPES = ["u1", "u2", "u3"], ["a", "b", "c"], ["view", "buy", "ad", None]
WEIGHTED = PairRules(event_weights={"buy": 2.5, "ad": 0}, half_life_days=3)
RULES = [PairRules(), PairRules(event_weights={"buy": 2.5, "ad": 0}), WEIGHTED]
ROW_SCHEMA = pa.schema(
    [("user", pa.string()), ("item", pa.string()), ("type", pa.string()), ("time", pa.int64())]
)
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

event = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    st.sampled_from(TYPES),
    st.integers(0, 9 * DAY),
)
events = st.lists(event, max_size=12)


def rows(source, target):
    return PairRows(source=table(source), target=table(target))


def table(listed):
    columns = [list(column) for column in zip(*listed, strict=True)] or [[], [], [], []]
    return pa.table(columns, schema=ROW_SCHEMA)


def counted(source, target, rules, **bound):
    return count_pairs(rows(source, target), rules, LIMITS, **bound)


def by_hand(source, target, rules):
    """The definition: one user after the other, one pair after the other."""
    sides = []
    for side in (source, target):
        firsts = defaultdict(dict)
        for user, item, kind, time in side:
            units = rules.type_units.get(kind, 256)
            if units:
                first, most = firsts[user].get(item, (time, units))
                firsts[user][item] = (min(first, time), max(most, units))
        sides.append(firsts)
    sums = defaultdict(lambda: [0, 0])

    def add(source_item, target_item, weight):
        sums[source_item, target_item][0] += 1
        sums[source_item, target_item][1] += weight

    for user in sides[0].keys() & sides[1].keys():
        for item, (time, units) in sides[1][user].items():
            add(None, item, units * 256)
            for other, (before, its) in sides[0][user].items():
                one = [np.array([value]) for value in (its, units, time - before)]
                add(other, item, int(rules.contributions(*one)[0]))
    return {pair: tuple(both) for pair, both in sums.items()}


def as_dict(counts):
    return {
        (r["source"], r["target"]): (r["users"], r["weight"]) for r in counts.rows().to_pylist()
    }


@quick
@given(events, events, st.sampled_from(RULES))
def test_the_statement_counts_what_the_definition_says(source, target, rules):
    assert as_dict(counted(source, target, rules)) == by_hand(source, target, rules)


@quick
@given(events, events, st.sampled_from(RULES), st.randoms())
def test_tables_of_parts_add_up_to_the_table_of_all(source, target, rules, random):
    part = {user: random.randrange(2) for user in USERS}
    parts = [
        counted(
            [r for r in source if part[r[0]] == number],
            [r for r in target if part[r[0]] == number],
            rules,
        )
        for number in range(2)
    ]
    random.shuffle(source)
    assert parts[0].plus(parts[1]) == counted(source, target, rules)


def test_one_user_moves_a_pair_by_at_most_one_users_weight():
    honest = [("u1", "a", "view", 0)]
    flood = [("bot", "a", kind, at) for kind in ("view", "buy") for at in range(5000)]
    for rules in RULES:
        before = counted(honest, honest, rules)
        after = counted(honest + flood, honest + flood, rules)
        moved = as_dict(after.minus(before))
        assert moved["a", "a"][0] == 1
        assert 0 < moved["a", "a"][1] <= rules.most_units


def test_without_rules_weight_is_users():
    counts = counted(
        [("u1", "a", None, 5), ("u2", "a", "x", 1)], [("u1", "b", None, 9)], PairRules()
    )
    assert as_dict(counts) == {("a", "b"): (1, ONE), (None, "b"): (1, ONE)}


def test_late_and_future_events_are_not_counted():
    source = event_table([("u1", "a", 1), ("u1", "b", 2, 9), ("u1", "c", 5)], "books")
    target = event_table([("u1", "t", 1), ("u1", "x", 7)], "music")
    made = count_pairs(PairRows.of(source, target, day(5)), PairRules(), LIMITS)
    assert set(as_dict(made)) == {("books\x1fa", "t"), (None, "t")}


def test_three_source_domains_may_share_item_ids():
    domains = ["books", "films", "games"]
    source = pa.concat_tables(
        event_table([(f"u{at}", "a", 1), ("u9", "a", at)], domain)
        for at, domain in enumerate(domains)
    )
    target = event_table([("u0", "t", 2), ("u1", "t", 2), ("u1", "x", 2), ("u9", "x", 3)], "music")
    made = as_dict(count_pairs(PairRows.of(source, target, day(9)), PairRules(), LIMITS))
    assert made == {
        ("books\x1fa", "t"): (1, ONE),
        ("books\x1fa", "x"): (1, ONE),
        ("films\x1fa", "t"): (1, ONE),
        ("films\x1fa", "x"): (2, 2 * ONE),
        ("games\x1fa", "x"): (1, ONE),
        (None, "t"): (2, 2 * ONE),
        (None, "x"): (2, 2 * ONE),
    }


# --- a table kept up to date -------------------------------------------------------------------

T0 = datetime(2026, 1, 1, tzinfo=UTC)
arrival = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    st.sampled_from(TYPES),
    st.integers(0, 5),  # the day it happened, which may lie before the day it comes
)
change = st.one_of(
    st.tuples(st.just("day"), st.lists(arrival, max_size=4), st.lists(arrival, max_size=4)),
    st.tuples(st.just("erase"), st.sampled_from(USERS), st.none()),
    st.tuples(st.just("import"), st.sampled_from(USERS), st.lists(arrival, max_size=3)),
)


def applied(log, step):
    """The log after a change, and the users it touches."""
    kind, first, second = step
    source, target = log
    if kind == "day":
        touched = {row[0] for row in first + second}
        return (source + scaled(first), target + scaled(second)), touched
    kept = ([r for r in source if r[0] != first], [r for r in target if r[0] != first])
    if kind == "import":
        again = scaled((first, *row[1:]) for row in second)
        kept = (kept[0] + again, kept[1] + again)
    return kept, {first}


def scaled(listed):
    return [(user, item, kind, at * DAY) for user, item, kind, at in listed]


def of_users(log, users):
    return rows(*([row for row in side if row[0] in users] for side in log))


@quick
@given(st.lists(change, max_size=6), st.sampled_from(RULES))
def test_any_sequence_of_days_erasures_and_imports_gives_the_table_of_a_full_recount(steps, rules):
    log = ([], [])
    kept = counted(*log, rules)
    for step in steps:
        later, touched = applied(log, step)
        kept = updated(kept, of_users(log, touched), of_users(later, touched), rules, LIMITS)
        log = later
        assert kept == counted(*log, rules)


def test_an_update_of_events_that_were_never_counted_is_refused():
    kept = counted([("u1", "a", None, 1)], [("u1", "a", None, 1)], PairRules())
    with pytest.raises(DataError, match="count all events again"):
        updated(
            kept,
            rows([("u1", "b", None, 1)], [("u1", "a", None, 1)]),
            rows([], []),
            PairRules(),
            LIMITS,
        )


# --- a bound on what a user gives --------------------------------------------------------------


def crowded(users, items):
    return [
        (f"u{user}", f"i{item}", None, int(timedelta(days=item).total_seconds()))
        for user in range(users)
        for item in range(items)
    ]


def test_a_bound_takes_so_many_items_of_each_user_the_same_in_any_part():
    bound = Bound(source_items=3, target_items=2, seed=5)
    source, target = crowded(6, 9), crowded(6, 7)
    whole = counted(source, target, PairRules(), bound=bound)
    alone = [
        counted(
            [r for r in source if r[0] == f"u{user}"],
            [r for r in target if r[0] == f"u{user}"],
            PairRules(),
            bound=bound,
        )
        for user in range(6)
    ]
    assert all(one.pairs.num_rows == 6 and one.targets.num_rows == 2 for one in alone)
    assert PairCounts.of(pa.concat_tables(one.rows() for one in alone)) == whole
    assert len({str(one.pairs) for one in alone}) > 1


def test_a_bound_chooses_otherwise_under_another_seed_and_takes_all_where_it_can():
    source, target = crowded(2, 9), crowded(2, 7)
    chosen = [
        counted(source, target, PairRules(), bound=Bound(source_items=3, target_items=2, seed=seed))
        for seed in range(2)
    ]
    assert chosen[0] != chosen[1]
    enough = Bound(source_items=9, target_items=7)
    assert counted(source, target, WEIGHTED, bound=enough) == counted(source, target, WEIGHTED)


# --- coded events ------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [None, Bound(source_items=2, target_items=1, seed=3)])
@pytest.mark.parametrize("rules", RULES)
def test_coded_events_are_counted_as_their_tables_are(rules, bound):
    rng = np.random.default_rng(4)

    def log(domain, rows):
        users, items = rng.integers(0, 9, rows), rng.integers(0, 5, rows)
        days = rng.integers(0, 8, rows)
        listed = zip(users, items, days, days + rng.integers(0, 3, rows), strict=True)
        made = event_table(
            [(f"u{u}", f"i{i}", int(at), int(known)) for u, i, at, known in listed], domain
        )
        kinds = pa.array(TYPES).take(pa.array(rng.integers(0, 4, rows)))
        return made.set_column(made.schema.get_field_index("event_type"), "event_type", kinds)

    source, target = log("books", 150), log("music", 60)
    coded = TrainingEvents.of(source, target)
    plain = count_pairs(PairRows.of(source, target, day(6)), rules, LIMITS, bound=bound)
    got = count_coded(coded.as_of(day(6)), rules, LIMITS, bound=bound)
    assert got == plain.coded(coded.source_items, coded.target_items)
    shape = (len(coded.source_items), len(coded.target_items))
    if bound is None and rules.is_plain:
        seen = coded.as_of(day(6))
        expected = count_users(seen.history(), seen.own())
        assert (got.matrix(shape) != expected).nnz == 0
        assert (got.matrix(shape, "users") != expected).nnz == 0
        marginal = overlap_marginal(seen.history(), seen.own())
        assert got.marginal(shape[1]).tolist() == marginal.tolist()


def test_a_translator_over_these_counts_scores_as_one_over_a_matrix_product():
    rng = np.random.default_rng(5)
    listed = [
        [(f"u{u}", f"i{i}", int(at)) for u, i, at in rng.integers(0, (20, 6, 9), (rows, 3))]
        for rows in (150, 70)
    ]
    events = TrainingEvents.of(event_table(listed[0], "books"), event_table(listed[1], "music"))
    product = translator_as_of(
        events,
        day(7),
        strength=Strength(shrinkage=0.5, alpha=0.6),
        mix=PriorMix.recent(window_days=30, background=0.01),
    )
    seen, users = events.as_of(day(7)), events.known(np.arange(len(events.users)), day(7))
    plain = counts_to_keep(seen, Weighing(), LIMITS)
    counted = product.with_counts(plain, Weighing(), pseudo_users=MARGINAL_PSEUDO_USERS)
    assert counted.evidence(users).tobytes() == product.evidence(users).tobytes()
    floored = counts_to_keep(seen, Weighing(min_users=5), LIMITS)
    assert floored == plain.with_floor(5)
    assert floored != plain
    bound = Bound(source_items=2, target_items=1)
    noisy = counts_to_keep(
        seen, Weighing(noisy=True), LIMITS, noise=Noise(epsilon=1e12, bound=bound, seed=1)
    )
    assert noisy == count_coded(seen, PairRules(), LIMITS, bound=bound)
