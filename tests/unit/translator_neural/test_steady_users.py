"""What a network says of a user is the same to the last bit, whoever else it is asked about."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from neural_builds import DAY, SOURCES, TARGETS, translator, users_of
from scipy import sparse
from torch import nn

from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.core.keyed import keyed_bits
from scalr_ray.generate import DrawSettings, draw_events
from scalr_ray.generate.plan import VOCABULARY_KEY, Coding
from scalr_ray.translator.neural.steady import SteadyLinear
from scalr_ray.translator.shortlist import shortlist

USERS, ITEMS = 256, 700
AS_OF = datetime(1970, 1, 31, tzinfo=UTC)


def listed(histories):
    """A column of a plan."""
    flat = [event for history in histories for event in history]
    columns = {
        "item": pa.array([item for item, _ in flat], pa.int64()),
        "time": pa.array([day * DAY for _, day in flat], pa.int64()),
        "type": pa.array([item % 2 for item, _ in flat], pa.int64()),
        "value": pa.array([float(item) for item, _ in flat], pa.float32()),
        "event_id": pa.array([str(at) for at in range(len(flat))]),
        "fresh": pa.array([True] * len(flat)),
    }
    events = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    return pa.LargeListArray.from_arrays(
        pa.array(np.cumsum([0, *map(len, histories)]), pa.int64()), events
    )


@pytest.fixture(scope="module")
def histories():
    """Of many lengths: some are padded to sixteen places, others to more."""
    draw = np.random.default_rng(5)

    def some(items, most):
        days = np.sort(draw.integers(1, 29, draw.integers(1, most)))
        return [(int(draw.integers(items)), int(day)) for day in days]

    return [(some(SOURCES, 70), some(TARGETS, 6)) for _ in range(USERS)]


@pytest.fixture(scope="module")
def model():
    """A net with weights and a catalogue large enough for sums to be rounded."""
    small = translator(length=64, width=32)
    torch.manual_seed(1)
    net = type(small.net)(replace(small.net.shape, target_items=ITEMS))
    share = 1.0 / np.arange(1.0, ITEMS + 1)
    return replace(
        small,
        net=net,
        train_cutoff=AS_OF,
        target_items=replace(small.target_items, ids=pa.array(range(ITEMS))),
        log_prior=np.log(share / share.sum()).astype(np.float32),
        first_seen=np.arange(ITEMS) % 20 * DAY,
        alpha=0.7,
        temperature=1.2,
    )


def in_blocks(size):
    return [np.arange(start, min(start + size, USERS)) for start in range(0, USERS, size)]


@pytest.mark.parametrize("k", [50, ITEMS])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_lists_and_normalisers_are_those_of_all_users_at_once(model, histories, k, size):
    barred = sparse.random(USERS, ITEMS, 0.02, format="csr", random_state=0)
    allowed = np.arange(ITEMS) % 9 > 0

    def asked(rows):
        return shortlist(
            model, users_of(histories).take(rows), k=k, exponent=1.0, barred=barred[rows],
            allowed=allowed,
        )  # fmt: skip

    whole, parts = asked(np.arange(USERS)), [asked(rows) for rows in in_blocks(size)]
    for name in ("items", "evidence", "log_norm"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(joined, getattr(whole, name)), name


@pytest.mark.parametrize("size", [1, 7, 100])
def test_triggers_weigh_what_they_weigh_beside_all_others(model, histories, size):
    users = users_of(histories)

    def asked(rows):
        row = np.repeat(np.arange(len(rows)), 3)
        return model.triggers(
            users.take(rows), row, (rows[row] * 31 + np.arange(len(row)) % 3) % ITEMS
        )

    whole, parts = asked(np.arange(USERS)), [asked(rows) for rows in in_blocks(size)]
    assert len(np.unique(whole)) > USERS
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("size", [1, 7])
def test_blocks_of_any_number_of_users_draw_the_same(model, histories, size):
    schema = synthetic_event_schema("string", "int64")
    plan = pa.table(
        {
            "user_id": [f"u{at:03d}" for at in range(USERS)],
            "user_key": keyed_bits(3, np.arange(USERS)),
            "slots": np.full(USERS, 20),
            "weight": np.ones(USERS),
            "group": np.zeros(USERS, dtype=np.int64),
            "taken": pa.array([[]] * USERS, pa.large_list(pa.int64())),
            "source": listed([source for source, _ in histories]),
            "own": listed([own for _, own in histories]),
        }
    ).replace_schema_metadata({VOCABULARY_KEY: Coding.of(model).fingerprint})
    settings = DrawSettings(
        batch_id="b", translator_version="neural-1", domain="target", as_of=AS_OF,
        strategy="sample", temperature=1.0, top_p=0.99, evidence=1.0, candidates=200,
        likelihood_floor=0.0, without_evidence="draw", negatives=1, seed=7,
    )  # fmt: skip
    whole = draw_events(plan, model, settings, schema)
    parts = [
        draw_events(plan.slice(rows[0], len(rows)), model, settings, schema)
        for rows in in_blocks(size)
    ]
    assert whole.num_rows > 5000
    joined = pa.concat_tables(parts)
    assert [name for name in whole.column_names if not joined[name].equals(whole[name])] == []


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_a_steady_map_is_a_linear_map(rows, width, training):
    torch.manual_seed(rows)
    steady, plain = SteadyLinear(width, 24), nn.Linear(width, 24)
    plain.load_state_dict(steady.state_dict())
    steady.train(training)
    given_rows = torch.randn(rows, width)
    torch.testing.assert_close(steady(given_rows), plain(given_rows))
    if not training:
        alone = torch.cat([steady(row[None]) for row in given_rows])
        assert torch.equal(alone, steady(given_rows))
        assert torch.equal(steady(given_rows[:, None]), alone[:, None])
