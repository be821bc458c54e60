"""Checkpoints of a training run: safetensors shards and one JSON file, nothing pickled.

PyTorch's distributed checkpoints (DCP) are pickled by default, their index as well as scalars; with
its safetensors storage each worker writes the tensors, or the parts of them, that it holds, and a
header in JSON that says which. Any number of workers reads them again.

    state.json                     where training stands: epochs, steps, reports, fingerprint
    shard-0000W-model-....safetensors    of worker W
        model.<name>                   the weights
        optimizer.<name>.<key>         the optimizer's state
        best.<name>                    the weights that validated best, where these are others

Best and latest are in one checkpoint, which is therefore all that a resumed run has to find.
"""

from __future__ import annotations

import json
import warnings
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from scalr_ray.core.damage import refusing_damage
from scalr_ray.learn.neural.loop import EpochReport, LoopSettings, LoopState, make_optimizer

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a run stands, without its tensors.

    Attributes:
        fingerprint: of everything that its trajectory depends on.
        best_is_model: whether the latest weights are those that validated best.
        progress: the plain fields of the `LoopState`.
        reports: one per epoch done.
        workers: how many there were.
        peak_memory_bytes: of the worker that took most; on the GPU where it trained on one.
    """

    fingerprint: str
    best_is_model: bool
    progress: dict[str, Any]
    reports: list[EpochReport]
    workers: int
    peak_memory_bytes: int

    def finished(self, settings: LoopSettings) -> bool:
        """Whether there is nothing left to do."""
        progress = self.progress
        return bool(progress["epoch"] >= settings.epochs or progress["waited"] >= settings.patience)

    @classmethod
    def read(cls, folder: Path) -> Standing:
        """Of the checkpoint in `folder`.

        Raises:
            DataError: it is damaged.
        """
        with _reading(folder):
            plain = json.loads((folder / _STATE_FILE).read_text())
            reports = [EpochReport(**report) for report in plain.pop("reports")]
            standing = cls(reports=reports, **plain)
            for name in _PLAIN:  # whoever goes on counts with them
                standing.progress[name] + 0
            return standing


def save_checkpoint(
    folder: Path,
    state: LoopState,
    *,
    fingerprint: str,
    workers: int,
    peak_memory_bytes: int,
    rank: int,
    group: ProcessGroup | None,
) -> Future[Any]:
    """Copy this worker's part of `state`, and write it into `folder` while training goes on.

    Args:
        folder: this worker's own, or one that all workers write to.
        state: on every worker its own, but for `loss` and `examples`, which are of all together.
        fingerprint: kept with it, as are the next two.
        workers: how many there are.
        peak_memory_bytes: of the worker that took most.
        rank: of this worker; the first also writes what is not sharded.
        group: for what workers agree on meanwhile; training must not use it.

    Returns:
        Done when all workers have written.
    """
    best_is_model = bool(state.reports) and state.batch == 0 and state.reports[-1].best
    tensors = {f"model.{name}": weight for name, weight in state.model.items()}
    tensors |= _optimizer_tensors(state.optimizer)
    if not best_is_model:
        tensors |= {f"best.{name}": weight for name, weight in state.best.items()}
    if rank == 0:
        standing = Standing(
            fingerprint=fingerprint,
            best_is_model=best_is_model,
            progress={name: getattr(state, name) for name in _PLAIN},
            reports=state.reports,
            workers=workers,
            peak_memory_bytes=peak_memory_bytes,
        )
        (folder / _STATE_FILE).write_text(json.dumps(asdict(standing)))
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    writing = async_save(tensors, storage_writer=writer, process_group=group)
    assert isinstance(writing, Future)
    return writing


def load_checkpoint(
    folder: Path, net: nn.Module, settings: LoopSettings, *, rank: int
) -> LoopState:
    """The state to go on from; reads of each tensor what this worker holds of it in `net`.

    The weights of `net` become those of the checkpoint.

    Raises:
        DataError: it is damaged.
    """
    standing = Standing.read(folder)
    with _reading(folder):
        return _load(standing, folder, net, settings, rank=rank)


def _load(
    standing: Standing, folder: Path, net: nn.Module, settings: LoopSettings, *, rank: int
) -> LoopState:
    model = net.state_dict()
    best = {name: torch.empty_like(weight) for name, weight in model.items()}
    optimizer = _empty_optimizer(net, settings)
    tensors = {f"model.{name}": weight for name, weight in model.items()}
    tensors |= _optimizer_tensors(optimizer)
    has_best = bool(standing.reports) and not standing.best_is_model
    if has_best:
        tensors |= {f"best.{name}": weight for name, weight in best.items()}
    load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))
    if not has_best:
        for name, weight in best.items():
            weight.copy_(model[name])
    state = LoopState(
        model=model,
        best=best if standing.reports else {},
        optimizer=optimizer,
        reports=standing.reports,
        **standing.progress,
    )
    if rank > 0:  # the first counts for all
        state.loss, state.examples = 0.0, 0
    return state


def best_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that validated best, whole and on the CPU, by name.

    Raises:
        DataError: the checkpoint is damaged.
    """
    standing = Standing.read(folder)
    with _reading(folder):
        return _best(standing, folder)


def _reading(folder: Path) -> AbstractContextManager[None]:
    remedy = "remove the folder of this training to train from the start"
    return refusing_damage(f"checkpoint {folder}", remedy, SafetensorError, CheckpointException)


def _best(standing: Standing, folder: Path) -> dict[str, Tensor]:
    prefix = "model." if standing.best_is_model or not standing.reports else "best."
    reader = HuggingFaceStorageReader(str(folder))
    known = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in known.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        # says that one process loads, which is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        load(tensors, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): weight for name, weight in tensors.items()}


_PLAIN = ("epoch", "step", "batch", "loss", "examples", "waited", "best_value")


def _optimizer_tensors(optimizer: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of an optimizer's `state_dict`, by the names of the parameters."""
    return {
        f"optimizer.{name}.{key}": value
        for group in optimizer["param_groups"]
        for number, name in zip(group["params"], group["param_names"], strict=True)
        for key, value in optimizer["state"].get(number, {}).items()
    }


def _empty_optimizer(net: nn.Module, settings: LoopSettings) -> dict[str, Any]:
    """The `state_dict` of the loop's optimizer with zeros for every parameter."""
    optimizer = make_optimizer(net, settings)
    for weight in net.parameters():
        optimizer.state[weight] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }
    return optimizer.state_dict()
