"""Counting pairs on two nodes: the local table, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from scalr_ray.core.errors import DataError
from scalr_ray.learn.pairs import PairRows, count_pairs
from scalr_ray.offline_store.limits import Limits
from scalr_ray.translator.counts import PairCounts, PairRules
from scalr_ray.translator.noise import Bound

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]

LIMITS = Limits(memory_limit="256MB", threads=1, spill_dir=None)
RULES = PairRules(event_weights={"buy": 2.5, "ad": 0.0}, half_life_days=20)


def world(rows: int, *, items: int, seed: int, as_text: bool) -> pa.Table:
    """Rows of 80 users; a third of them belong to one user, and some are of users of their own."""
    rng = np.random.default_rng(seed)
    user = np.where(rng.random(rows) < 0.3, 0, rng.integers(0, 80, rows) + 1000 * seed % 40)
    item = rng.integers(0, items, rows)
    kinds = pa.array(["view", "buy", "ad", None])
    made = pa.table(
        {
            "user": pa.array(user),
            "item": pa.array(item),
            "type": kinds.take(pa.array(rng.integers(0, 4, rows))),
            "time": pa.array(rng.integers(0, 90 * 86_400_000_000, rows)),
        }
    )
    if as_text:
        for at, name in ((0, "user"), (1, "item")):
            made = made.set_column(at, name, pc.cast(made[name], pa.string()))
    return made


def dataset(rows: pa.Table, blocks: int, seed: int) -> Any:
    """The rows in an order of their own, one block of them empty."""
    from ray.data import from_arrow

    order = np.random.default_rng(seed).permutation(rows.num_rows)
    places = np.array_split(order, blocks)
    return from_arrow([rows.take(pa.array(place)) for place in [*places, places[0][:0]]])


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("rules", [PairRules(), RULES])
def test_the_table_is_the_local_one_whatever_the_blocks(rules, as_text):
    from scalr_ray.learn.pairs_ray import count_pairs_on_cluster

    source = world(3000, items=50, seed=1, as_text=as_text)
    target = world(900, items=30, seed=2, as_text=as_text)
    here = count_pairs(PairRows(source=source, target=target), rules, LIMITS)
    assert here.pairs.num_rows > 1000
    for seed, partition_rows in ((1, 400), (2, 100_000)):
        there = count_pairs_on_cluster(
            dataset(source, 5, seed),
            dataset(target, 3, seed),
            rules,
            LIMITS,
            partition_rows=partition_rows,
        )
        assert there == here


def test_a_bound_chooses_the_same_items_on_a_cluster():
    from scalr_ray.learn.pairs_ray import count_pairs_on_cluster

    source = world(2000, items=50, seed=1, as_text=True)
    target = world(900, items=30, seed=2, as_text=True)
    bound = Bound(source_items=4, target_items=3, seed=8)
    here = count_pairs(PairRows(source=source, target=target), RULES, LIMITS, bound=bound)
    there = count_pairs_on_cluster(
        dataset(source, 4, 1),
        dataset(target, 4, 2),
        RULES,
        replace(LIMITS, threads=2),
        partition_rows=500,
        bound=bound,
    )
    assert there == here


def test_a_table_that_stays_on_the_cluster_has_each_pair_and_each_target_once():
    from scalr_ray.learn.pairs_ray import pair_rows_on_cluster
    from scalr_ray.offline_store.distribute import gather

    source = world(3000, items=50, seed=1, as_text=True)
    target = world(900, items=30, seed=2, as_text=True)
    rows = gather(
        pair_rows_on_cluster(
            dataset(source, 5, 1), dataset(target, 3, 1), RULES, LIMITS, partition_rows=500
        )
    )
    assert rows.num_rows == rows.group_by(["source", "target"]).aggregate([]).num_rows
    assert PairCounts.of(rows) == count_pairs(PairRows(source=source, target=target), RULES, LIMITS)


def test_rows_that_cannot_be_counted_are_refused_in_one_line():
    from ray.data import from_arrow

    from scalr_ray.learn.pairs_ray import count_pairs_on_cluster

    numbers, texts = (world(50, items=9, seed=1, as_text=as_text) for as_text in (False, True))

    def count(source: pa.Table, target: pa.Table) -> PairCounts:
        return count_pairs_on_cluster(
            from_arrow(source), from_arrow(target), PairRules(), LIMITS, partition_rows=100
        )

    with pytest.raises(DataError, match="users are int64 in the source domain and string in the"):
        count(numbers, texts)
    with pytest.raises(DataError, match="the target rows have no column 'time'"):
        count(numbers, numbers.drop_columns("time"))


def test_a_side_without_users_of_the_other_gives_an_empty_table():
    from scalr_ray.learn.pairs_ray import count_pairs_on_cluster

    source = world(200, items=9, seed=1, as_text=False)
    target = source.set_column(0, "user", pc.add(source["user"], 10_000))
    made = count_pairs_on_cluster(
        dataset(source, 2, 1), dataset(target, 2, 1), PairRules(), LIMITS, partition_rows=100
    )
    assert made == count_pairs(PairRows(source=source, target=target), PairRules(), LIMITS)
    assert made.pairs.num_rows == made.targets.num_rows == 0
