"""The training loop on one device, the same whether it runs alone or as one of many workers.

All randomness is keyed: which rows lose their target history by (seed, epoch, user), dropout by
(seed, step, shard), drawn candidates by (seed, epoch, step, shard). The state after any step is
therefore all that a resumed run needs to go on as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scalr_ray.core.errors import TooLittleData, TrainingDiverged
from scalr_ray.core.keyed import keyed_uniform, stream_seed
from scalr_ray.learn.neural.peers import Alone, Peers
from scalr_ray.translator.neural.batch import Batch, collate
from scalr_ray.translator.neural.candidates import Candidates, Catalogue
from scalr_ray.translator.neural.loss import log_likelihood
from scalr_ray.translator.neural.net import TranslatorNet


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How a net is trained.

    Attributes:
        epochs: the most passes over the rows.
        batch_rows: rows of a batch; who yields the batches goes by it.
        learning_rate: the highest.
        weight_decay: of AdamW, on everything but biases and norms.
        warmup_steps: over which the learning rate rises.
        cosine: whether it falls to 0 over the epochs, along a cosine; else it stays.
        clip: the largest norm of the gradient.
        accumulate: batches whose gradients make one step.
        drop_own: share of rows that lose their own target tokens in an epoch, because users whose
            target history is unknown are served too.
        bf16: autocast to bfloat16, on a GPU that has it.
        compile: whether the net is compiled.
        patience: epochs without a better validation after which training ends.
        seed: of everything random.
    """

    epochs: int = 20
    batch_rows: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    cosine: bool = False
    clip: float = 1.0
    accumulate: int = 1
    drop_own: float = 0.5
    bf16: bool = True
    compile: bool = False
    patience: int = 3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch came to.

    Attributes:
        epoch: its number, from 0.
        loss: mean negative log-likelihood per query, nats.
        validation: what `validate` returned.
        examples: queries trained on.
        seconds: it took, validation included.
        best: whether no epoch so far validated better.
    """

    epoch: int
    loss: float
    validation: float
    examples: int
    seconds: float
    best: bool


@dataclass(kw_only=True)
class LoopState:
    """Where training stands after an epoch; all that a resumed run needs.

    Attributes:
        epoch: epochs done.
        step: optimizer steps done.
        batch: batches done of the epoch that is running.
        loss: summed over the queries of that epoch so far.
        examples: queries of that epoch so far.
        waited: epochs since the best validation.
        best_value: the best validation; -inf before any.
        model: the weights.
        best: the weights that validated best.
        optimizer: the optimizer's state.
        reports: one per epoch.
    """

    epoch: int = 0
    step: int = 0
    batch: int = 0
    loss: float = 0.0
    examples: int = 0
    waited: int = 0
    best_value: float = -math.inf
    model: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    reports: list[EpochReport] = field(default_factory=list)


def train_loop(
    net: TranslatorNet,
    batches: Callable[[int], Iterator[pa.Table]],
    validate: Callable[[TranslatorNet], float],
    settings: LoopSettings,
    *,
    catalogue: Catalogue,
    peers: Peers | None = None,
    state: LoopState | None = None,
    on_epoch: Callable[[LoopState, EpochReport], None] | None = None,
) -> LoopState:
    """Train `net` until validation gets no better; it ends with the weights that validated best.

    Args:
        net: on the device that trains it.
        batches: the tables of training rows of an epoch, a batch each, in an order that depends on
            (seed, epoch) alone.
        validate: a mean log-likelihood, higher is better; called with the net after each epoch.
        settings: how to train.
        catalogue: what queries are compared with.
        peers: the workers that train the net together; None for this one alone.
        state: where an earlier run of the same settings stood; None to begin.
        on_epoch: called after each epoch. The tensors of the state are those that training goes on
            with: write or copy them before returning.

    Returns:
        The state after the last epoch.

    Raises:
        DataError: an epoch has no query on a visible item.
        TrainingDiverged: the loss or the gradient is not finite.
    """
    state = state or LoopState()
    optimizer = make_optimizer(net, settings)
    if state.step:
        net.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
    peers = peers or Alone()
    call = peers.call(net)
    step = _Step(
        net=net,
        call=torch.compile(call, dynamic=True) if settings.compile else call,
        optimizer=optimizer,
        settings=settings,
        catalogue=catalogue,
        peers=peers,
    )
    while state.epoch < settings.epochs and state.waited < settings.patience:
        report = _epoch(step, state, batches, validate)
        if on_epoch is not None:
            on_epoch(state, report)
    net.load_state_dict(state.best)
    return state


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One optimizer step of the net on some batches."""

    net: TranslatorNet
    call: Callable[[Batch, Candidates], Tensor]
    optimizer: torch.optim.AdamW
    settings: LoopSettings
    catalogue: Catalogue
    peers: Peers

    def run(self, tables: list[pa.Table], epoch: int, step: int) -> tuple[float, int]:
        """Accumulate the gradients of the tables and move; the summed loss and the queries."""
        rate = _learning_rate(self.settings, epoch, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(stream_seed("dropout", self.settings.seed, step, self.peers.rank) >> 1)
        total, count = 0.0, 0
        for part, rows in enumerate(tables):
            loss, queries = self._loss(rows, epoch, stream_seed(epoch, step, part, self.peers.rank))
            # Averaged over the workers, this gives each query of the batch the same weight.
            share = max(self.peers.total([queries])[0], 1.0) / self.peers.workers
            (loss / (share * len(tables))).backward()  # type: ignore[no-untyped-call]
            total, count = total + float(loss.detach()), count + queries
        norm = self.peers.clip(list(self.net.parameters()), self.settings.clip)
        if not (math.isfinite(total) and bool(torch.isfinite(norm))):
            raise TrainingDiverged(
                f"the loss is no longer finite in epoch {epoch}; lower the learning rate "
                f"({self.settings.learning_rate:g}) or look for extreme feature values"
            )
        self.optimizer.step()
        return total, count

    def _loss(self, rows: pa.Table, epoch: int, key: int) -> tuple[Tensor, int]:
        settings, device = self.settings, next(self.net.parameters()).device
        batch = collate(
            rows,
            features=self.net.shape.user_features,
            drop_own=_drop_own(np.asarray(rows["user"]), epoch, settings),
        )
        candidates = self.catalogue.candidates(
            batch, stream_seed("candidates", settings.seed, key)
        ).to(device)
        bf16 = settings.bf16 and device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            match = self.call(batch.to(device), candidates)
        values, visible = log_likelihood(match.float(), candidates)
        return -values.sum(), int(visible.sum())


def _epoch(
    step: _Step,
    state: LoopState,
    batches: Callable[[int], Iterator[pa.Table]],
    validate: Callable[[TranslatorNet], float],
) -> EpochReport:
    """One pass over the rows, or what is left of it, and its validation; moves `state` on."""
    settings, began = step.settings, time.monotonic()

    def snapshot() -> LoopState:
        state.model, state.optimizer = step.net.state_dict(), step.optimizer.state_dict()
        return state

    step.net.train()
    left = islice(batches(state.epoch), state.batch, None)
    for tables in _groups(left, settings.accumulate):
        loss, queries = step.run(tables, state.epoch, state.step)
        state.loss, state.examples = state.loss + loss, state.examples + queries
        state.step, state.batch = state.step + 1, state.batch + len(tables)
        step.peers.after_step(snapshot)
    loss, count = step.peers.total([state.loss, state.examples])
    if count == 0:
        raise TooLittleData(
            "there is no target event to learn from on an item that was known before; "
            "move the cuts or import more events"
        )
    value = validate(step.net)
    best = value > state.best_value
    report = EpochReport(
        epoch=state.epoch,
        loss=loss / count,
        validation=value,
        examples=int(count),
        seconds=time.monotonic() - began,
        best=best,
    )
    snapshot()
    if best:
        state.best_value = value
        state.best = {name: weight.clone() for name, weight in state.model.items()}
    state.waited = 0 if best else state.waited + 1
    state.epoch, state.batch, state.loss, state.examples = state.epoch + 1, 0, 0.0, 0
    state.reports.append(report)
    return report


def _groups(tables: Iterator[pa.Table], size: int) -> Iterator[list[pa.Table]]:
    """The tables that make one step, `size` at a time."""
    group: list[pa.Table] = []
    for table in tables:
        group.append(table)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _drop_own(users: NDArray[np.int64], epoch: int, settings: LoopSettings) -> NDArray[np.bool_]:
    """(R,) which rows lose their own target tokens in an epoch."""
    seed = stream_seed("drop-own", settings.seed, epoch)
    return np.asarray(keyed_uniform(seed, users) < settings.drop_own)


def _learning_rate(settings: LoopSettings, epoch: int, step: int) -> float:
    rate = settings.learning_rate * min(1.0, (step + 1) / settings.warmup_steps)
    if settings.cosine:
        rate *= 0.5 * (1.0 + math.cos(math.pi * epoch / settings.epochs))
    return rate


def make_optimizer(net: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW that decays matrices and tables only; its state names the parameters."""
    groups: dict[tuple[bool, type], list[tuple[str, Tensor]]] = {}
    for name, weight in net.named_parameters():
        # Fused kernels take tensors of one kind; a net sharded from outside has two.
        groups.setdefault((weight.ndim > 1, type(weight.data)), []).append((name, weight))
    return torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": settings.weight_decay if matrices else 0.0}
            for (matrices, _), weights in groups.items()
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
