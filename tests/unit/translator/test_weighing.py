"""Weighted evidence, held against the definition and against recounts without the user."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from translator_builds import SOURCES, TARGETS, build

from scalr_ray.core.errors import ConfigError
from scalr_ray.translator.counts import ONE, PairCounts, PairRules
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.histories import EventLists, Users
from scalr_ray.translator.weighing import Weighing

DAY = 86_400_000_000
AS_OF = 20 * DAY
TYPES = Vocabulary(ids=pa.array(["ad", "buy", "view"]))
WEIGHTS = {"buy": 2.5, "ad": 0.0}
K, PSEUDO = 0.5, 2.0


def events(items):
    one = st.tuples(st.integers(0, items - 1), st.integers(-1, 2), st.integers(0, 19 * DAY))
    return st.lists(one, max_size=6)


people = st.lists(st.tuples(events(SOURCES), events(TARGETS)), min_size=1, max_size=6)
weighings = st.builds(
    Weighing,
    rules=st.builds(
        PairRules,
        event_weights=st.sampled_from([{}, WEIGHTS]),
        half_life_days=st.sampled_from([None, 4.0]),
    ),
    event_types=st.just(TYPES),
    history_half_life_days=st.sampled_from([None, 6.0]),
    min_users=st.integers(1, 3),
)
quick = settings(max_examples=120, deadline=None)


def lists(listed):
    flat = [event for some in listed for event in some]
    return EventLists(
        offsets=np.cumsum([0, *map(len, listed)]),
        items=np.array([event[0] for event in flat], dtype=np.int64),
        times=np.array([event[2] for event in flat], dtype=np.int64),
        types=np.array([event[1] for event in flat], dtype=np.int64),
        values=np.full(len(flat), np.nan, dtype=np.float32),
    )


def users_of(some):
    source, own = zip(*some, strict=True)
    return Users(as_of=AS_OF, source=lists(source), own=lists(own))


def units(weighing, kind):
    return weighing.rules.type_units.get([*TYPES.ids.to_pylist(), None][kind], 256)


def firsts(weighing, listed):
    """Item -> first time and largest weight, of the events that count."""
    found = {}
    for item, kind, time in listed:
        if weight := units(weighing, kind):
            first, most = found.get(item, (time, weight))
            found[item] = (min(first, time), max(most, weight))
    return found


def table(some, weighing):
    """The counts of these people, one after the other."""
    rows = defaultdict(lambda: [0, 0])
    for source, own in some:
        have, got = firsts(weighing, source), firsts(weighing, own)
        for item, (time, weight) in got.items():
            if have:
                rows[None, item][0] += 1
                rows[None, item][1] += weight * 256
            for other, (before, its) in have.items():
                one = [np.array([value]) for value in (its, weight, time - before)]
                rows[other, item][0] += 1
                rows[other, item][1] += int(weighing.rules.contributions(*one)[0])
    kinds = pa.schema([(name, pa.int64()) for name in ("source", "target", "users", "weight")])
    listed = [(*pair, *sums) for pair, sums in rows.items()]
    columns = [list(column) for column in zip(*listed, strict=True)] or [[], [], [], []]
    return PairCounts.of(pa.table(columns, schema=kinds)).with_floor(weighing.min_users)


def translator(some, weighing):
    counts = table(some, weighing)
    return replace(
        build([({0}, {0})], shrinkage=K),
        counts=counts.matrix((SOURCES, TARGETS)),
        pair_users=counts.matrix((SOURCES, TARGETS), "users"),
        marginal=counts.marginal(TARGETS) + PSEUDO,
        weighing=weighing,
    )


def lift_by_hand(others, weighing, source, target):
    """The definition, over counts of everybody else."""
    counts = table(others, weighing)
    rows = defaultdict(dict)
    for row in counts.pairs.to_pylist():
        rows[row["source"]][row["target"]] = row["weight"] / ONE
    marginal = dict.fromkeys(range(TARGETS), PSEUDO)
    for row in counts.targets.to_pylist():
        marginal[row["target"]] += row["weight"] / ONE
    says = defaultdict(float)
    for item, kind, time in source:
        weight = units(weighing, kind) / 256
        if weighing.history_half_life_days:
            weight *= 2 ** (-(AS_OF - time) / DAY / weighing.history_half_life_days)
        says[item] = max(says[item], weight)
    total = sum(says.values())
    if not total:
        return 0.0
    q = marginal[target] / sum(marginal.values())
    mean = sum(
        weight * (rows[item].get(target, 0.0) / q + K) / (sum(rows[item].values()) + K)
        for item, weight in says.items()
    )
    return math.log(mean / total)


@quick
@given(people, weighings)
def test_evidence_of_items_not_owned_equals_a_recount_without_the_user(some, weighing):
    evidence = translator(some, weighing).evidence(users_of(some))
    for at, (source, own) in enumerate(some):
        others = some[:at] + some[at + 1 :]
        for target in set(range(TARGETS)) - set(firsts(weighing, own)):
            expected = lift_by_hand(others, weighing, source, target)
            assert evidence[at, target] == pytest.approx(expected, abs=2e-5)


@quick
@given(people)
def test_the_weighted_way_gives_what_the_plain_way_gives_where_all_counts_alike(some):
    plain = translator(some, Weighing(event_types=TYPES))
    assert plain.weighing.is_plain
    weighed = replace(plain, weighing=replace(plain.weighing, history_half_life_days=1e12))
    assert not weighed.weighing.is_plain
    np.testing.assert_allclose(
        weighed.evidence(users_of(some)), plain.evidence(users_of(some)), atol=1e-6
    )


def test_recent_events_say_more():
    crowd = [([(0, -1, 0)], [(0, -1, 0)]), ([(1, -1, 0)], [(1, -1, 0)])] * 5
    model = translator(crowd, Weighing(history_half_life_days=2.0))
    asked = users_of([([(0, -1, 0), (1, -1, 18 * DAY)], []), ([(0, -1, 18 * DAY), (1, -1, 0)], [])])
    old, new = model.evidence(asked)[:, 0]
    assert new > old
    pull = model.triggers(asked, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    # Candidate by candidate: the pull of the old event halves ten times, that of the new one once.
    assert pull.reshape(4, 2).argmax(axis=1).tolist() == [0, 1, 0, 1]
    assert pull[0] / pull[4] == pytest.approx(2**-9)


def test_events_of_no_weight_say_nothing_and_pull_nothing():
    crowd = [([(0, -1, 0)], [(0, -1, 0)])] * 3
    model = translator(crowd, Weighing(rules=PairRules(event_weights=WEIGHTS), event_types=TYPES))
    asked = users_of([([(0, 0, DAY)], [])])
    assert not model.evidence(asked).any()
    assert not model.triggers(asked, np.array([0]), np.array([0])).any()


def test_under_noise_nothing_is_taken_out():
    some = [([(0, -1, 0)], [(0, -1, 0), (1, -1, 0)])]
    weighing = Weighing(noisy=True)
    model = translator(some, weighing)
    source = weighing.user_items(lists([some[0][0]]), AS_OF)
    own = weighing.user_items(lists([some[0][1]]), AS_OF)
    assert weighing.taken_out(source, own, model.counts, None).tolist() == [0.0]
    assert np.isfinite(model.evidence(users_of(some))).all()


@given(weighings)
def test_a_weighing_is_the_same_after_json(weighing):
    back = Weighing.from_json(weighing.to_json())
    assert back.to_json() == weighing.to_json()
    assert (back.rules, back.min_users, back.is_plain) == (
        weighing.rules,
        weighing.min_users,
        weighing.is_plain,
    )


@pytest.mark.parametrize("days", [0, -1.0, math.nan, math.inf])
def test_a_half_life_of_the_history_out_of_range_is_refused(days):
    with pytest.raises(ConfigError, match="history_half_life_days"):
        Weighing(history_half_life_days=days)
