"""Training rows that a cluster makes are those of one machine, and train the same net."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch
from local_ray import local_ray
from numpy.typing import NDArray
from ray_training import losses, trained_alone

from scalr_ray.core.clock import EPOCH, to_micros
from scalr_ray.core.config import NeuralSettings
from scalr_ray.core.errors import DataError, TooLittleData
from scalr_ray.core.events import event_schema
from scalr_ray.learn.events import TrainingEvents
from scalr_ray.learn.neural.distributed import Cluster, train_distributed
from scalr_ray.learn.neural.examples import training_queries, training_rows
from scalr_ray.learn.neural.examples_ray import RowsMade, training_rows_on_cluster
from scalr_ray.learn.neural.fit import NeuralFit, stopping_task
from scalr_ray.learn.neural.task import TrainingTask
from scalr_ray.offline_store.distribute import gather
from scalr_ray.offline_store.engine import Engine
from scalr_ray.offline_store.parts import rows_fingerprint
from scalr_ray.translator.encode import KEY_SEPARATOR
from scalr_ray.translator.prior_mix import PriorMix

pytestmark = [
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]

USERS, ITEMS, LENGTH = 150, 20, 8
START, DAYS = datetime(2024, 1, 1, tzinfo=UTC), 100
CUT = START + timedelta(days=80)


@pytest.fixture(scope="module", autouse=True)
def session():
    with local_ray(cpus=3):
        yield


def event_table(domain: str, *, each: int, seed: int) -> pa.Table:
    """Some users have no event, one has very many; every fifth event is known days late."""
    draw = np.random.default_rng(seed)
    count = USERS * each
    users = draw.integers(0, USERS, count)
    users[: count // 8] = 7
    # Whole hours, so that events have equal times.
    happened = draw.integers(0, DAYS * 24, count) * 3_600_000_000 + to_micros(START)
    late = np.where(draw.random(count) < 0.2, draw.integers(1, 30, count), 0) * 86_400_000_000
    schema = event_schema("int64", "int64")
    columns = {
        "event_id": pa.array([f"{domain}-{number}" for number in draw.permutation(count)]),
        "user_id": pa.array(users * 1000),
        "item_id": pa.array(draw.integers(0, ITEMS, count)),
        "domain": pa.array([domain] * count),
        "event_type": pa.array(["view", "buy", None]).take(pa.array(draw.integers(0, 3, count))),
        "event_timestamp": pa.array(happened),
        "available_at": pa.array(happened + late),
        "value": pa.array(draw.random(count).astype(np.float32), mask=draw.random(count) < 0.3),
    }
    return pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)


TABLES = (event_table("source", each=20, seed=1), event_table("target", each=6, seed=2))


@pytest.fixture(scope="module")
def events() -> TrainingEvents:
    return TrainingEvents.of(*TABLES)


def content(rows: pa.Table) -> str:
    """Equal for the same set of rows, bit for bit; no two have one user and first query."""
    first = [times[0] for times in rows["query_time"].to_pylist()]
    return rows_fingerprint(rows.take(pa.array(np.lexsort((first, rows["user"].to_numpy())))))


def served_of(events: TrainingEvents, made: RowsMade) -> pa.Table:
    """Features that tell each query from every other, one under a name that rows have too."""
    queries = training_queries(events, start=made.start, end=made.end)
    number = np.arange(queries.num_rows)
    told = pa.array([f"query {n}" if n % 3 else None for n in number])
    return pa.table({"user": pa.array(number.astype(np.float64)), "told": told})


def appearances() -> dict[tuple[int, int, str, int], int]:
    """(user, side, item, time) of the events to when the first such was visible: the oracle."""
    found: dict[tuple[int, int, str, int], int] = {}
    for side, table in enumerate(TABLES):
        times = [
            table[name].cast(pa.int64()).to_pylist() for name in ("event_timestamp", "available_at")
        ]
        users, items = table["user_id"].to_pylist(), table["item_id"].to_pylist()
        for user, item, happened, known in zip(users, items, *times, strict=True):
            key = (user, side, str(item), happened)
            found[key] = min(max(happened + 1, known), found.get(key, known + happened))
    return found


def assert_nothing_is_seen_too_early(rows: pa.Table, events: TrainingEvents) -> None:
    """Every token was visible as of each query that may see it, and none at or after the cut."""
    users = events.users.ids.to_pylist()
    keys = events.source_items.ids.to_pylist()
    items = [key.split(KEY_SEPARATOR)[1] for key in keys], events.target_items.ids.to_pylist()
    visible_from, cut, seen = appearances(), to_micros(CUT), 0
    for row in rows.to_pylist():
        tokens = zip(row["token_side"], row["token_item"], row["token_time"], strict=True)
        visible = [
            visible_from[users[row["user"]], side, str(items[side][item]), time]
            for side, item, time in tokens
        ]
        assert max(visible, default=0) <= cut
        for time, prefix in zip(row["query_time"], row["query_prefix"], strict=True):
            assert time < cut
            assert max(visible[:prefix], default=0) <= time
            seen += prefix
    assert seen > USERS


def told_of_users(ids: pa.Array, times: NDArray[np.int64]) -> pa.Table:
    return pa.table({"age": pa.array(times % 97 + np.asarray(ids) % 7)})


def test_the_rows_are_those_of_one_machine_whatever_the_parts(events):
    made = RowsMade(start=EPOCH, end=CUT, length=LENGTH)
    served = served_of(events, made)
    known_by = []
    for partition_rows, features in ((700, None), (1_000_000, None), (700, served)):
        here = training_rows(events, **vars(made), features=features)
        there = training_rows_on_cluster(
            events, made, features=features, partition_rows=partition_rows
        )
        assert there.num_rows == here.num_rows > USERS
        assert there.queries == len(here["query_item"].combine_chunks().flatten())
        found = gather(there.dataset)
        assert found.schema == here.schema
        assert content(found) == content(here)
        known_by.append(there.fingerprint)
    plain, same, other = known_by
    assert plain == same != other


def test_nothing_to_learn_from_is_one_line(events):
    never = RowsMade(start=EPOCH, end=START, length=LENGTH)
    with pytest.raises(TooLittleData, match="there are no target events from"):
        training_rows_on_cluster(events, never, partition_rows=700)
    made = RowsMade(start=EPOCH, end=CUT, length=LENGTH)
    few = served_of(events, made).slice(1)
    with pytest.raises(DataError, match="one row per query"):
        training_rows_on_cluster(events, made, features=few, partition_rows=700)


def test_a_net_that_is_trained_from_them_is_the_same_and_sees_nothing_of_the_cut(events, tmp_path):
    how = NeuralFit(
        mix=PriorMix.recent(window_days=60, background=0.1),
        alphas=(1.0,),
        settings=NeuralSettings(width=16, length=LENGTH, heads=2, batch_rows=32),
        seed=3,
        user_features=told_of_users,
    )
    hidden = np.arange(len(events.users)) % 5 == 0

    def task(engine: Engine | None) -> TrainingTask:
        fitting = replace(how, engine=engine)
        made = stopping_task(events, validation_cut=CUT, how=fitting, hidden=hidden)
        return replace(made, settings=replace(made.settings, epochs=2))

    engine = Engine(name="auto", ray_above_rows=0, partition_rows=1000)
    here, there = task(None), task(engine)
    # Below the size from which a cluster pays, rows are made here.
    assert isinstance(task(replace(engine, ray_above_rows=10**6)).rows, pa.Table)
    assert here.rows.num_rows % 64
    assert (there.queries, there.shape) == (here.queries, here.shape)
    for rows, local in ((there.rows, here.rows), (there.validation, here.validation)):
        found = gather(rows.dataset)
        assert content(found) == content(local)
        assert_nothing_is_seen_too_early(found, events)

    alone = trained_alone(here)
    run = train_distributed(there, cluster=Cluster(storage=tmp_path, name="there"))
    assert losses(run) == losses(alone)
    assert all(torch.equal(run.weights[name], weight) for name, weight in alone.best.items())
