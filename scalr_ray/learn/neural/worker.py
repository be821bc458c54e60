"""What runs in each worker of Ray Train: the loop of one device, with peers.

The loop asks its peers at every step how many queries the batch has in all. With that question
travels what the first worker finds due by its clock, so that all act after the same step: ask Ray
whether a node is about to be taken away, and write a checkpoint.
"""

from __future__ import annotations

import logging
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from ray.train.torch import get_device
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from scalr_ray.core import logs
from scalr_ray.core.errors import ConfigError, ScalrError
from scalr_ray.core.keyed import stream_seed
from scalr_ray.learn.neural.checkpoints import Standing, load_checkpoint, save_checkpoint
from scalr_ray.learn.neural.feed import Feed
from scalr_ray.learn.neural.loop import EpochReport, LoopSettings, LoopState, train_loop
from scalr_ray.learn.neural.pace import Pace
from scalr_ray.learn.neural.sharding import clip_gradients, replicate, shard_tables
from scalr_ray.learn.neural.validation import shared_validation
from scalr_ray.translator.neural.batch import Batch
from scalr_ray.translator.neural.candidates import Candidates
from scalr_ray.translator.neural.config import NetShape
from scalr_ray.translator.neural.net import TranslatorNet

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.train import CheckpointUploadMode

_LOG = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0
# Epochs of a small table take less time than a checkpoint.
_BETWEEN_EPOCHS_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker is given.

    Attributes:
        shape: of the net.
        settings: of the loop.
        feed: training rows.
        validation: rows to validate on; None trains for all epochs.
        catalogue: an ObjectRef of the `Catalogue`.
        threads: of each worker on CPUs.
        shard_from_rows: tables with as many rows are sharded.
        save_every_s: a checkpoint is written after as many seconds, beside those after epochs.
        fingerprint: of the run.
        board: where news go.
    """

    shape: NetShape
    settings: LoopSettings
    feed: Feed
    validation: Feed | None
    catalogue: Any
    threads: int
    shard_from_rows: int
    save_every_s: float
    fingerprint: str
    board: ActorHandle[Any]


def fresh_net(shape: NetShape, seed: int) -> TranslatorNet:
    """An untrained net, the same for the same seed."""
    torch.manual_seed(stream_seed("net", seed) >> 1)
    return TranslatorNet(shape)


def train_worker(config: dict[str, Job]) -> ScalrError | None:
    """Train as one of the workers; an error that another attempt would meet again is returned."""
    try:
        _train(config["job"])
    except ScalrError as error:
        return error
    return None


def _train(job: Job) -> None:
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    logs.set_up(stage="train", rank=rank)
    torch.set_num_threads(job.threads)
    device = get_device()
    _LOG.info("worker %d of %d trains on %s", rank + 1, workers, device)
    net = fresh_net(job.shape, job.settings.seed).to(device)
    sharded = []
    if workers > 1:
        mesh = init_device_mesh(device.type, (workers,))
        sharded = shard_tables(net, mesh, from_rows=job.shard_from_rows)
    peers = RayPeers(job, device, rank=rank, workers=workers, sharded=sharded)
    catalogue = ray.get(job.catalogue)
    train_loop(
        net,
        partial(job.feed.batches, rank=rank, workers=workers),
        shared_validation(job.validation, catalogue, peers),
        job.settings,
        catalogue=catalogue,
        peers=peers,
        state=_restore(job, net, rank),
        on_epoch=peers.after_epoch,
    )


def _restore(job: Job, net: TranslatorNet, rank: int) -> LoopState | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        if Standing.read(Path(folder)).fingerprint != job.fingerprint:
            raise ConfigError(
                "a run of this name has other settings, another catalogue or other rows; choose "
                "another name, or the same settings to go on with it"
            )
        return load_checkpoint(Path(folder), net, job.settings, rank=rank)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class RayPeers:
    """The workers of a Ray Train run, as the loop sees them.

    Args:
        job: what the run is about.
        device: that this worker trains on.
        rank: of this worker.
        workers: how many there are.
        sharded: names of the parameters that are sharded by rows.
    """

    def __init__(
        self, job: Job, device: torch.device, *, rank: int, workers: int, sharded: list[str]
    ) -> None:
        self.rank = rank
        self.workers = workers
        self._job = job
        self._device = device
        self._sharded = sharded
        # Apart from each other and from the gradients, for they are used at the same time.
        self._small = dist.new_group(backend="gloo") if workers > 1 else None
        self._writing = dist.new_group(backend="gloo") if workers > 1 else None
        now = time.monotonic()
        self._looked = self._saved = now
        self._epoch_saved = -math.inf
        self._pace = Pace(job.settings, steps=job.feed.steps, workers=workers)
        self._look = self._save = self._warned = False

    def call(self, net: TranslatorNet) -> Callable[[Batch, Candidates], Tensor]:
        """The net, replicated where there are others."""
        return net if self.workers == 1 else replicate(net, self._sharded)

    def clip(self, parameters: list[nn.Parameter], largest: float) -> Tensor:
        """See `clip_gradients`."""
        return clip_gradients(parameters, largest)

    def total(self, values: list[float]) -> list[float]:
        """Each value, added up; notes on the way what is due."""
        now = time.monotonic()
        first = self.rank == 0
        look = first and now - self._looked > _LOOK_EVERY_S
        save = first and now - self._saved > self._job.save_every_s
        added = torch.tensor([*values, look, save], dtype=torch.float64)
        if self.workers > 1:
            dist.all_reduce(added, group=self._small)
        *totals, look_due, save_due = added.tolist()
        self._look, self._save = self._look or look_due > 0, self._save or save_due > 0
        return totals

    def after_step(self, snapshot: Callable[[], LoopState]) -> None:
        """Tell how far it is, and do what is due."""
        now = time.monotonic()
        if self.rank == 0:
            progress = self._pace.after_step(snapshot)
            if progress is not None:
                self._job.board.put.remote(progress)
        if self._look:
            self._look, self._looked = False, now
            self._heed_preemption(snapshot)
        if self._save:
            self._report(snapshot(), mode=ray.train.CheckpointUploadMode.ASYNC)

    def after_epoch(self, state: LoopState, report: EpochReport) -> None:
        """Write a checkpoint while the next epoch begins, unless the last one is quite new."""
        self._pace.after_epoch(report.examples)
        if self.rank == 0:
            self._job.board.put.remote(report)
            _LOG.info("epoch %d is over", state.epoch, extra=logs.fields(**asdict(report)))
        settings, now = self._job.settings, time.monotonic()
        last = state.epoch >= settings.epochs or state.waited >= settings.patience
        due = self.rank == 0 and now - self._epoch_saved > _BETWEEN_EPOCHS_S
        if last or self.total([float(due)])[0] > 0:
            self._epoch_saved = now
            self._report(state, mode=ray.train.CheckpointUploadMode.ASYNC)

    def _heed_preemption(self, snapshot: Callable[[], LoopState]) -> None:
        """Once a node is about to be taken away, have a checkpoint written before that."""
        if ray.train.get_preemption_info() is not None and not self._warned:
            self._warned = True
            self._report(snapshot(), mode=ray.train.CheckpointUploadMode.SYNC)

    def _report(self, state: LoopState, *, mode: CheckpointUploadMode) -> None:
        self._save, self._saved = False, time.monotonic()
        peaks = [0.0] * self.workers
        peaks[self.rank] = _peak_bytes(self._device)
        loss, examples, *peaks = self.total([state.loss, state.examples, *peaks])
        whole = replace(state, loss=loss, examples=int(examples))
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
        writing = save_checkpoint(
            folder,
            whole,
            fingerprint=self._job.fingerprint,
            workers=self.workers,
            peak_memory_bytes=int(max(peaks)),
            rank=self.rank,
            group=self._writing,
        )
        storage = ray.train.get_context().get_storage()

        def upload(written: Checkpoint, name: str) -> Checkpoint:
            writing.result()
            kept = storage.persist_current_checkpoint(written, name)
            shutil.rmtree(folder)
            return kept

        last = state.reports[-1] if state.reports else None
        ray.train.report(
            {"epochs": state.epoch, "step": state.step} | (asdict(last) if last else {}),
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_upload_mode=mode,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=upload,
        )
