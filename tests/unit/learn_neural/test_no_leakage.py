"""What cannot be seen as of a query's time changes neither its state nor its loss, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neural_worlds import Event, catalogue_of, coded, day, net_of, pairs, stirred

from scalr_ray.core.clock import to_micros
from scalr_ray.learn.events import TrainingEvents
from scalr_ray.learn.neural.examples import training_rows
from scalr_ray.learn.neural.feed import table_feed
from scalr_ray.learn.neural.loop import LoopSettings, train_loop
from scalr_ray.translator.neural.batch import Batch, collate
from scalr_ray.translator.neural.loss import log_likelihood, tuned_log_likelihood

USERS, ITEMS, CUT = 3, 6, 10.0
# Everybody has a query, and every item is known, whatever else is drawn.
BASE: list[Event] = [(user, user, 1.0, 0.0) for user in range(USERS)]
KNOWN: list[Event] = [(USERS, item, 0.0, 0.0) for item in range(ITEMS)]


def events(first_day: int, last_day: int, late: list[float], size: int):
    return st.lists(
        st.tuples(
            st.integers(0, USERS - 1),
            st.integers(0, ITEMS - 1),
            st.integers(first_day, last_day).map(float),
            st.sampled_from(late),
        ),
        max_size=size,
    )


PAST = events(1, int(CUT), [0.0, 0.0, 1.0], 6)
FUTURE = st.tuples(events(11, 20, [0.0, 2.0], 6), events(-90, 10, [101.0], 3))


def single(batch: Batch, query: int) -> Batch:
    """The batch with one of its queries alone, so that all shapes are equal for all of them."""
    at = slice(query, query + 1)
    owned = batch.owned[:, batch.owned[0] == query].clone()
    owned[0] = 0
    return replace(
        batch,
        query_rows=batch.query_rows[at],
        query_positions=batch.query_positions[at],
        query_gaps=batch.query_gaps[at],
        query_times=batch.query_times[at],
        query_items=batch.query_items[at],
        owned=owned,
    )


def answers(world: TrainingEvents) -> dict[tuple[int, int, int], bytes]:
    """State and likelihood of each query up to the cut, as bytes."""
    net = stirred(net_of(world)).eval()
    rows: pa.Table = training_rows(world, start=day(-99), end=day(40), length=32)
    batch, catalogue = collate(rows), catalogue_of(world)
    assert batch.items.shape == (USERS + 1, 16)  # so that all shapes are equal
    users = rows["user"].to_numpy()
    out = {}
    with torch.inference_mode():
        for query in range(len(batch)):
            if int(batch.query_times[query]) <= to_micros(day(CUT)):
                one = single(batch, query)
                candidates = catalogue.candidates(one, 0)
                values, _ = log_likelihood(net(one, candidates), candidates)
                key = (
                    int(users[int(one.query_rows)]),
                    int(one.query_times),
                    int(one.query_items),
                )
                out[key] = net.states(one).numpy().tobytes() + values.numpy().tobytes()
    return out


@settings(max_examples=25, deadline=None)
@given(source=PAST, target=PAST, one=st.tuples(FUTURE, FUTURE), other=st.tuples(FUTURE, FUTURE))
def test_any_other_future_gives_the_same_bits(source, target, one, other):
    def world(future) -> TrainingEvents:
        (source_later, source_late), (target_later, target_late) = future
        return coded(
            [*KNOWN, *source, *source_later, *source_late],
            [*KNOWN, *BASE, *target, *target_later, *target_late],
        )

    before, after = answers(world(one)), answers(world(other))
    # A target event that is known late is a query of its own, and takes the place of a later one.
    common = before.keys() & after.keys()
    assert len(common) >= USERS
    assert all(before[query] == after[query] for query in common)


def gain(source: list[Event], target: list[Event]) -> float:
    """What training adds to the prior's likelihood on the last quarter of the days, nats."""
    world = coded(source, target)
    learned = training_rows(world, start=day(0), end=day(150), length=16)
    checked = training_rows(world, start=day(150), end=day(210), length=16)
    catalogue, how = catalogue_of(world), LoopSettings(epochs=10, batch_rows=32, learning_rate=1e-2)
    net = net_of(world)

    def validate(trained):
        return tuned_log_likelihood(trained, [checked], catalogue)

    prior = validate(net)
    train_loop(
        net,
        table_feed(learned, batch_rows=how.batch_rows, seed=how.seed).batches,
        validate,
        how,
        catalogue=catalogue,
    )
    return validate(net) - prior


def test_an_event_that_reveals_the_answer_too_late_is_never_used():
    source, target = pairs(0, users=200, planted=1.0)
    known_at_once = gain(source, target)
    known_with_the_answer = gain([(u, i, at, 3.0 + 1e-5) for u, i, at, _ in source], target)
    at_the_same_instant = gain([(u, i, at + 3.0, 0.0) for u, i, at, _ in source], target)
    assert known_at_once > 1.0
    assert known_with_the_answer < 0.1
    assert at_the_same_instant < 0.1
