"""One net on many workers: large tables sharded by rows, everything else replicated.

Applied to a net from outside; the net itself knows one device. A table with many rows becomes a
DTensor of which each worker holds an equal range of rows, and the optimizer, which makes its state
per parameter, holds that state for the same rows only. The rest is replicated by
DistributedDataParallel. Gradients are averaged over the workers, of sharded rows as of the rest.

Legend: W workers, N rows of a table, D width, U distinct rows that a worker asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch gives it
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Below this a copy on every worker costs less than the exchange of rows at every step.
SHARDED_FROM_ROWS = 2**18


def backend(*, use_gpu: bool) -> str:
    """How workers talk, in the words of PyTorch.

    Checkpoints are agreed on in memory while the GPUs exchange gradients: PyTorch refuses to write
    one in the background where the workers have nothing but nccl.
    """
    return "cpu:gloo,cuda:nccl" if use_gpu else "gloo"


class ShardedTable(nn.Module):
    """An embedding table of which each worker holds a range of rows.

    A look-up is a collective: every worker asks for rows at the same time. Each distinct row is
    asked for once, answered by its owner alone, and its gradient goes back to the owner.

    Args:
        table: holds all rows, the same on every worker; it is not kept.
        mesh: the workers, in one dimension.
    """

    def __init__(self, table: nn.Embedding, mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh = mesh
        shape, stride = table.weight.shape, table.weight.stride()
        rows = distribute_tensor(table.weight.detach(), mesh, [Shard(0)], src_data_rank=None)
        own = rows.to_local().clone()  # a view would keep all rows in memory
        self.weight = nn.Parameter(
            DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
        )
        # A look-up adds up the gradients of all workers; the other parameters have their mean.
        self.weight.register_hook(lambda gradient: gradient / mesh.size())  # type: ignore[no-untyped-call]

    def forward(self, rows: Tensor) -> Tensor:
        """(...) row numbers to (..., D)."""
        wanted, place = torch.unique(rows, return_inverse=True)
        longest = torch.tensor(len(wanted), device=rows.device)
        dist.all_reduce(longest, op=dist.ReduceOp.MAX, group=self.mesh.get_group())
        asked = F.pad(wanted, (0, int(longest) - len(wanted)))
        by_all = DTensor.from_local(asked, self.mesh, [Shard(0)], run_check=False)
        found = F.embedding(by_all.redistribute(self.mesh, [Replicate()]), self.weight)
        assert isinstance(found, DTensor)
        answers = found.redistribute(self.mesh, [Shard(0)])
        return F.embedding(place, answers.to_local())


def shard_tables(
    net: nn.Module, mesh: DeviceMesh, *, from_rows: int = SHARDED_FROM_ROWS
) -> list[str]:
    """Replace the embedding tables of `net` with at least `from_rows` rows by sharded ones.

    The names of the parameters stay what they were.

    Returns:
        The names of the sharded parameters.
    """
    large = {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, nn.Embedding) and module.num_embeddings >= from_rows
    }
    for name, table in large.items():
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, ShardedTable(table, mesh))
    return [f"{name}.weight" for name in large]


def replicate(net: nn.Module, sharded: list[str]) -> DistributedDataParallel:
    """`net` with the gradients of all but the `sharded` parameters averaged over the workers."""
    ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model  # noqa: SLF001 - PyTorch has no other way to say it
    ignore(net, sharded)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(net)


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Scale all gradients, sharded or not, down to a norm of `largest`.

    Returns:
        The norm of all of them together before, the same on every worker.
    """
    kinds: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for parameter in parameters:
        if parameter.grad is not None:
            kinds[isinstance(parameter, DTensor)].append(parameter)
    norms = []
    for kind in kinds.values():
        norm = nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total = torch.hypot(*norms)
    for kind in kinds.values():
        nn.utils.clip_grads_with_norm_(kind, largest, total)
    return total
