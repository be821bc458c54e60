"""Two processes with sharded tables train as one process does, each with its rows only."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from planted_rows import flat_catalogue, planted_rows, small_shape
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import Backend, BackendConfig
from torch.distributed.tensor import DTensor
from torch.multiprocessing import spawn

from scalr_ray.learn.neural.feed import table_feed
from scalr_ray.learn.neural.loop import LoopSettings, LoopState, train_loop
from scalr_ray.learn.neural.peers import Alone
from scalr_ray.learn.neural.sharding import backend, clip_gradients, replicate, shard_tables
from scalr_ray.translator.neural.net import TranslatorNet

_ITEMS = 60
_SETTINGS = LoopSettings(epochs=3, batch_rows=32, warmup_steps=2, learning_rate=0.01, clip=0.1)


class _Steps(Alone):
    """Notes the norm of the gradient at each step."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def clip(self, parameters, largest):
        norm = clip_gradients(parameters, largest)
        self.norms.append(float(norm))
        return norm


class _Pair(_Steps):
    workers = 2

    def __init__(self, rank: int, sharded: list[str]) -> None:
        super().__init__()
        self.rank = rank
        self.sharded = sharded

    def call(self, net):
        return replicate(net, self.sharded)

    def total(self, values):
        added = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(added)
        return added.tolist()


def _rows() -> pa.Table:
    # the last batch has one row, so that one of the two has none
    return planted_rows(users=129, tokens=9, queries=2, items=_ITEMS, seed=1)


def _net() -> TranslatorNet:
    torch.manual_seed(0)
    return TranslatorNet(small_shape(_ITEMS))


def _train(net: TranslatorNet, peers: Any) -> LoopState:
    feed = table_feed(_rows(), batch_rows=_SETTINGS.batch_rows, seed=0)

    def batches(epoch: int):
        return feed.batches(epoch, rank=peers.rank, workers=peers.workers)

    passed = count()
    catalogue = flat_catalogue(_ITEMS)
    return train_loop(
        net, batches, lambda _: next(passed), _SETTINGS, catalogue=catalogue, peers=peers
    )


def _moment_rows(optimizer: dict[str, Any]) -> dict[str, int]:
    """How many rows of each sharded parameter's second moment this process holds."""
    names = [name for group in optimizer["param_groups"] for name in group["param_names"]]
    moments = {name: optimizer["state"][at]["exp_avg_sq"] for at, name in enumerate(names)}
    return {n: len(m.to_local()) for n, m in moments.items() if isinstance(m, DTensor)}


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    net = _net()
    sharded = shard_tables(net, init_device_mesh("cpu", (2,)), from_rows=_ITEMS)
    peers = _Pair(rank, sharded)
    state = _train(net, peers)
    result = {
        "losses": [report.loss for report in state.reports],
        "norms": peers.norms,
        "own": {name: len(net.get_parameter(name).to_local()) for name in sharded},
        "moments": _moment_rows(state.optimizer),
    }
    weights = {
        name: weight.full_tensor() if name in sharded else weight
        for name, weight in net.state_dict().items()
    }
    save_file(weights, f"{folder}/{rank}.safetensors")
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def test_two_processes_with_sharded_tables_train_as_one_does(tmp_path):
    torch.set_num_threads(1)
    net, steps = _net(), _Steps()
    losses = [report.loss for report in _train(net, steps).reports]
    spawn(_worker, (str(tmp_path),), nprocs=2)

    pair = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for one in pair:
        np.testing.assert_allclose(one["losses"], losses, rtol=1e-5)
        np.testing.assert_allclose(one["norms"], steps.norms, rtol=1e-4)
    assert losses[-1] < losses[0] - 0.1
    assert min(steps.norms) > _SETTINGS.clip  # what is clipped is clipped alike
    rows = _ITEMS + 1
    for one, own in zip(pair, (rows - rows // 2, rows // 2), strict=True):
        assert one["own"] == {"source_table.weight": own, "target_table.weight": own}
        assert one["moments"] == one["own"]
    for rank in range(2):
        weights = load_file(tmp_path / f"{rank}.safetensors")
        assert weights.keys() == net.state_dict().keys()
        for name, weight in net.state_dict().items():
            if name.startswith("age."):  # all are of one age: its gradient is rounding
                continue
            torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("use_gpu", "wanted"), [(False, {"cpu": "gloo"}), (True, {"cpu": "gloo", "cuda": "nccl"})]
)
def test_workers_can_agree_on_a_checkpoint_in_memory_whatever_they_train_on(use_gpu, wanted):
    understood = BackendConfig(Backend(backend(use_gpu=use_gpu))).get_device_backend_map()
    assert wanted.items() <= understood.items()
