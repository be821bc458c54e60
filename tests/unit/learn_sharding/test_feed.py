"""The feed deals the same global batches to any number of workers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.learn.neural import feed as module
from scalr_ray.learn.neural.feed import Feed, table_feed


def _rows(count: int) -> pa.Table:
    number = np.arange(count)
    return pa.table({"user": number, "query_time": pa.array([[int(n), 5] for n in number])})


def _users(feed: Feed, epoch: int, *, workers: int) -> list[list[int]]:
    """The users of each global batch."""
    dealt = [list(feed.batches(epoch, rank=rank, workers=workers)) for rank in range(workers)]
    steps = zip(*dealt, strict=True)
    return [sorted(u for part in step for u in part["user"].to_pylist()) for step in steps]


@given(
    rows=st.integers(1, 300),
    batch_rows=st.sampled_from([1, 8, 24, 50, 64]),
    workers=st.integers(1, 5),
    blocks=st.integers(1, 4),
)
def test_any_number_of_workers_is_dealt_the_same_global_batches(rows, batch_rows, workers, blocks):
    with pytest.MonkeyPatch.context() as patch:
        table = _rows(rows)
        patch.setattr(module, "_BLOCK_BYTES", max(1, table.nbytes // (blocks * 8)))
        feed = table_feed(table, batch_rows=batch_rows, seed=3)
    one = _users(feed, 2, workers=1)
    assert one == _users(feed, 2, workers=workers)
    assert sorted(user for batch in one for user in batch) == list(range(rows))
    assert len(one) == feed.steps
    assert all(len(batch) <= batch_rows for batch in one)


def test_the_order_is_that_of_the_seed_and_the_epoch_and_of_nothing_else():
    table = _rows(200)
    moved = table.take(np.random.default_rng(1).permutation(200))

    def users(rows: pa.Table, seed: int, epoch: int) -> list[int]:
        batches = table_feed(rows, batch_rows=16, seed=seed).batches(epoch)
        return [user for batch in batches for user in batch["user"].to_pylist()]

    first = users(table, 0, 0)
    assert users(moved, 0, 0) == first
    assert users(table, 0, 1) != first
    assert users(table, 1, 0) != first


def test_an_error_in_reading_reaches_the_reader():
    feed = table_feed(_rows(10), batch_rows=4, seed=0)
    broken = Feed(
        blocks=["gone"],
        counts=[10],
        open_block=dict[str, pa.Table]().__getitem__,
        batch_rows=4,
        seed=0,
    )
    assert len(list(feed.batches(0))) == 3
    with pytest.raises(KeyError, match="gone"):
        list(broken.batches(0))
