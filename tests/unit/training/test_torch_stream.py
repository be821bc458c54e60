"""Streams against the rows they are made of: each once, in an order that can be taken up again."""

from __future__ import annotations

import gc
import json
import pickle
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalr_ray.core.errors import DataError, UsageError
from training.dataset import MixedDataset
from training.row_file import RowFile
from training.row_stream import RowStream
from training.streams import torch_stream

# The machine of a test may have fewer cores than a test has workers.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def rows_of(count):
    return pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "score": np.random.default_rng(0).random(count),
            "user_id": [f"u{n % 7}" for n in range(count)],
            "is_synthetic": [n % 3 == 0 for n in range(count)],
            "seen": pa.array([None if n % 5 == 0 else n for n in range(count)], pa.int32()),
        }
    )


def write(folder: Path, rows: pa.Table, block=64) -> RowFile:
    pq.write_table(rows, folder / "rows.parquet", row_group_size=block)
    return RowFile.of(folder / "rows.parquet")


@pytest.fixture
def file(tmp_path):
    return write(tmp_path, rows_of(1000))


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


def flat(lists):
    return list(chain.from_iterable(lists))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_all_shards_together_give_every_row_once(tmp_path_factory, data):
    count = data.draw(st.integers(0, 300))
    block = data.draw(st.integers(1, 90))
    shards = data.draw(st.integers(1, 9))
    batch_rows = data.draw(st.integers(1, 70))
    seen = write(tmp_path_factory.mktemp("rows"), rows_of(count).select(["id"]), block)
    stream = RowStream(
        file=seen,
        columns=["id"],
        batch_rows=batch_rows,
        shuffle_rows=data.draw(st.sampled_from([0, 1, 50, 1000])),
        seed=data.draw(st.integers(0, 3)),
        drop_last=data.draw(st.booleans()),
    )
    epoch = data.draw(st.integers(0, 3))
    found, counts = [], []
    for shard in range(shards):
        batches = list(stream.batches(epoch=epoch, shard=shard, shards=shards))
        assert len(batches) == stream.count(shard, shards)
        assert all(batch.num_rows == batch_rows for batch in batches[:-1])
        start = data.draw(st.integers(0, len(batches) + 1))
        later = stream.batches(epoch=epoch, shard=shard, shards=shards, start=start)
        assert [batch.to_pydict() for batch in later] == [
            batch.to_pydict() for batch in batches[start:]
        ]
        counts.append(len(batches))
        found += [value for batch in batches for value in batch["id"].to_pylist()]
    if stream.drop_last:
        assert (
            len(set(found)) == len(found) == shards * batch_rows * (count // shards // batch_rows)
        )
    else:
        assert sorted(found) == list(range(count))
        assert counts == sorted(counts, reverse=True)
    if not stream.shuffle_rows and not stream.drop_last:
        assert found == list(range(count))


@pytest.mark.parametrize("workers", [1, 3])
def test_ranks_and_workers_share_the_rows(file, workers):
    found = []
    for rank in range(2):
        stream = torch_stream(file, 32, columns=["id"]).at_rank(rank, 2)
        loader = stream.loader(workers)
        batches = ids(loader)
        assert len(batches) == len(loader)
        found += flat(batches)
    assert sorted(found) == list(range(1000))


def test_a_group_of_processes_of_torch_is_asked_for_the_rank(file, tmp_path):
    torch.multiprocessing.start_processes(
        _rank, args=(file, str(tmp_path)), nprocs=2, start_method="fork"
    )
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert sorted(flat(found)) == list(range(1000))
    assert abs(len(found[0]) - len(found[1])) <= 1


def _rank(rank, file, folder):
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    stream = torch_stream(file, 32, columns=["id"])
    found = flat(ids(stream.loader(2)))
    sent = pickle.dumps(torch_stream(file, 32, columns=["id"]))
    torch.distributed.destroy_process_group()
    # a worker that is started afresh gets the stream like this, and knows of no group
    assert sorted(flat(ids(pickle.loads(sent)))) == sorted(found)  # noqa: S301 - made above
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("workers", [None, 0, 1, 3])
@pytest.mark.parametrize("taken", [0, 1, 4, 5, 10, 11])
def test_what_goes_on_in_mid_epoch_is_what_was_never_cut_off(file, workers, taken):
    def made():
        stream = torch_stream(file, 47, columns=["id", "score"], seed=5).at_rank(1, 2)
        return stream if workers is None else stream.loader(workers)

    whole = made()
    uncut = [*ids(whole), *ids(whole)]
    assert len(uncut) == 22 or workers == 3
    cut = made()
    passing = iter(cut)
    before = ids(islice(passing, taken))
    state = json.loads(json.dumps(cut.state_dict()))
    del passing
    again = made()
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert [*before, *ids(again), *ids(again)] == uncut


def test_a_pass_that_is_begun_anew_begins_at_the_first_batch(file):
    stream = torch_stream(file, 100, columns=["id"])
    first = ids(islice(stream, 3))
    assert ids(stream)[:3] == first


def test_the_order_follows_from_seed_and_epoch(file):
    def order(seed, epoch):
        stream = torch_stream(file, 100, columns=["id"], seed=seed)
        stream.set_epoch(epoch)
        return flat(ids(stream))

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    stream = torch_stream(file, 100, columns=["id"], seed=1)
    assert [flat(ids(stream)), flat(ids(stream))] == [order(1, 0), order(1, 1)]


def test_the_first_batches_are_of_the_whole_time(file):
    stream = torch_stream(file, 100, columns=["id"], shuffle_rows=256)
    means = [np.mean(flat(ids(islice(torch_stream_of(file, seed), 1)))) for seed in range(40)]
    assert np.std(means) < 1000 / 12**0.5
    assert abs(np.mean(means) - 500) < 100
    assert np.mean(np.abs(np.diff(flat(ids(stream))))) > 60  # neighbours do not stay together


def torch_stream_of(file, seed):
    return torch_stream(file, 100, columns=["id"], shuffle_rows=256, seed=seed)


def test_columns_become_tensors_of_one_type_in_every_batch(file):
    stream = torch_stream(file, 3, codes={"user_id": ["u1", "u0"]}, shuffle_rows=0)
    batches = list(stream)
    assert list(batches[0]) == ["id", "score", "user_id", "seen"]
    assert {tuple(v.dtype for v in batch.values()) for batch in batches} == {
        (torch.int64, torch.float64, torch.int64, torch.float64)
    }
    assert batches[0]["user_id"].tolist() == [1, 0, -1]
    assert batches[0]["seen"].isnan().tolist() == [True, False, False]
    batches[0]["score"] += 1.0  # a trainer may write into its batch


def test_times_and_truth_values_become_tensors_when_they_are_asked_for(tmp_path):
    times = pa.array([1, 2_000_000], pa.timestamp("us", tz="UTC"))
    rows = pa.table({"at": times, "yes": [True, False], "few": pa.array([3, 4], pa.uint8())})
    batch = next(iter(torch_stream(write(tmp_path, rows), 2, columns=["at", "yes", "few"])))
    assert sorted(batch["at"].tolist()) == [1, 2_000_000]
    assert batch["yes"].dtype == torch.bool
    assert batch["few"].dtype == torch.int64


def test_what_tells_a_synthetic_row_is_no_feature_unless_it_is_asked_for(file):
    assert "is_synthetic" not in torch_stream(file, 3)._stream.columns
    with pytest.raises(UsageError, match="'is_synthetic' tells a synthetic row from a real one"):
        torch_stream(file, 3, columns=["id", "is_synthetic"])
    batch = next(iter(torch_stream(file, 3, columns=["is_synthetic"], telltales=True)))
    assert batch["is_synthetic"].dtype == torch.bool


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"columns": ["nothing"]}, "no column 'nothing'"),
        ({"columns": ["user_id"]}, "'user_id' is string.*codes="),
        ({"codes": {"nobody": [1]}, "columns": ["nobody"]}, "no column 'nobody'"),
        ({"batch_size": 0}, "1 or more"),
        ({"shuffle_rows": -1}, "0 to keep the order"),
    ],
)
def test_a_stream_that_cannot_be_made_says_why(file, more, word):
    with pytest.raises(UsageError, match=word):
        torch_stream(file, **({"batch_size": 3} | more))


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"seed": 1}, "seed was 0 and is 1 now"),
        ({"batch_size": 8}, "batch_size was 7"),
        ({"codes": {"user_id": ["u1"]}, "columns": ["id", "user_id"]}, "columns was"),
    ],
)
def test_a_state_of_another_stream_is_refused(file, more, word):
    usual = {"batch_size": 7, "columns": ["id"]}
    state = torch_stream(file, **usual).state_dict()
    with pytest.raises(UsageError, match=word):
        torch_stream(file, **(usual | more)).load_state_dict(state)
    with pytest.raises(UsageError, match="ranks was 1 and is 2 now"):
        torch_stream(file, **usual).at_rank(0, 2).load_state_dict(state)
    with pytest.raises(UsageError, match="rank 2 of 2"):
        torch_stream(file, **usual).at_rank(2, 2)
    with pytest.raises(UsageError, match="workers was 1 and is 2 now"):
        torch_stream(file, **usual).loader(2).load_state_dict(state)


def test_a_file_that_was_replaced_is_not_read_on(file):
    stream = torch_stream(file, 10, columns=["id"])
    pq.write_table(rows_of(999), file.path)
    with pytest.raises(DataError, match="others than when the stream was made"):
        next(iter(stream))
    file.path.unlink()
    with pytest.raises(DataError, match="gone"):
        next(iter(stream))


def test_a_set_in_memory_is_spooled_and_cleared_away(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dataset = MixedDataset(table=rows_of(500), manifest={})
    stream = dataset.to_torch(64, columns=["id"])
    assert len(list(tmp_path.iterdir())) == 1
    assert sorted(flat(ids(stream.loader(2)))) == list(range(500))
    assert dataset.to_torch(64, columns=["id"]).state_dict() == stream.loader(1).state_dict() | {
        "epoch": 0
    }
    del stream
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_arrow_batches_are_the_rows_in_order():
    dataset = MixedDataset(table=rows_of(500), manifest={})
    batches = list(dataset.to_batches(64))
    assert [batch.num_rows for batch in batches] == [64] * 7 + [52]
    assert pa.Table.from_batches(batches).equals(dataset.table)
