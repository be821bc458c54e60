"""One training of a net: what it is given, what it gives, and doing it in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.core.keyed import stream_seed
from scalr_ray.learn.neural.feed import table_feed
from scalr_ray.learn.neural.loop import EpochReport, LoopSettings, LoopState, train_loop
from scalr_ray.learn.neural.pace import Pace, Progress
from scalr_ray.learn.neural.peers import Alone
from scalr_ray.offline_store.parts import rows_fingerprint
from scalr_ray.translator.neural.candidates import Catalogue
from scalr_ray.translator.neural.config import NetShape
from scalr_ray.translator.neural.loss import tuned_log_likelihood
from scalr_ray.translator.neural.net import TranslatorNet

if TYPE_CHECKING:  # it brings Ray, which a training in this process does without
    from scalr_ray.learn.neural.examples_ray import RowsOnCluster

_VALIDATION_ROWS = 512

OnEpoch = Callable[[str, EpochReport], None]


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """All that a net is trained from, wherever that happens.

    Attributes:
        name: of the run, for those who show or resume it.
        shape: of the net.
        settings: of the loop.
        catalogue: what queries are compared with.
        rows: training rows; those that lie on a cluster are for `train_distributed` alone.
        validation: rows that say when to stop; None trains for all epochs.
    """

    name: str
    shape: NetShape
    settings: LoopSettings
    catalogue: Catalogue
    rows: pa.Table | RowsOnCluster
    validation: pa.Table | RowsOnCluster | None

    @property
    def queries(self) -> int:
        """How many there are in an epoch."""
        if not isinstance(self.rows, pa.Table):
            return self.rows.queries
        return int(pc.sum(pc.list_value_length(self.rows["query_item"])).as_py())

    @property
    def fingerprint(self) -> str:
        """sha256 over shape, settings, rows and catalogue: equal for equal trainings."""
        digest = hashlib.sha256(fingerprint([self.shape.to_json(), asdict(self.settings)]).encode())
        for rows in (self.rows, self.validation):
            digest.update(b"" if rows is None else _known_by(rows).encode())
        catalogue = self.catalogue
        tensors = [] if catalogue.features is None else sorted(catalogue.features.items())
        arrays = [
            catalogue.first_seen,
            catalogue.shares,
            catalogue.feature_times,
            *(tensor.numpy() for _, tensor in tensors),
        ]
        for array in arrays:
            digest.update(array.tobytes())
        return digest.hexdigest()


def in_this_process(rows: pa.Table | RowsOnCluster) -> pa.Table:
    """The rows of a task that is for one process."""
    assert isinstance(rows, pa.Table), "rows that lie on a cluster are for train_distributed"
    return rows


def _known_by(rows: pa.Table | RowsOnCluster) -> str:
    return rows_fingerprint(rows) if isinstance(rows, pa.Table) else rows.fingerprint


@dataclass(frozen=True, kw_only=True)
class TrainedNet:
    """What training gave: the best weights, on the CPU, and a report per epoch."""

    weights: dict[str, Tensor]
    reports: Sequence[EpochReport]

    @property
    def epochs(self) -> int:
        """How many epochs led to the weights."""
        return 1 + max(report.epoch for report in self.reports if report.best)

    @property
    def metrics(self) -> dict[str, Any]:
        """What the ledger keeps of the training."""
        seconds = sum(report.seconds for report in self.reports)
        return {
            "loss": [report.loss for report in self.reports],
            "validation": [report.validation for report in self.reports],
            "best_validation": max(report.validation for report in self.reports),
            "examples_per_s": sum(report.examples for report in self.reports) / seconds,
            "seconds": seconds,
        }


Train = Callable[[TrainingTask, OnEpoch], TrainedNet]


def train_here(
    task: TrainingTask,
    on_epoch: OnEpoch,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TrainedNet:
    """Train in this process, on its GPU if it has one.

    Args:
        task: what to train.
        on_epoch: called with the name of the task and the report of each epoch.
        on_progress: called about twice a second.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = new_net(task).to(device)
    settings = task.settings
    rows = in_this_process(task.rows)
    feed = table_feed(rows, batch_rows=settings.batch_rows, seed=settings.seed)
    pace = Pace(settings, steps=feed.steps)

    def after_epoch(_: LoopState, report: EpochReport) -> None:
        pace.after_epoch(report.examples)
        on_epoch(task.name, report)

    state = train_loop(
        net,
        feed.batches,
        validation_of(task),
        task.settings,
        catalogue=task.catalogue,
        peers=_Telling(pace, on_progress),
        on_epoch=after_epoch,
    )
    weights = {name: weight.cpu() for name, weight in state.best.items()}
    return TrainedNet(weights=weights, reports=state.reports)


class _Telling(Alone):
    """One worker, which says how far it is."""

    def __init__(self, pace: Pace, tell: Callable[[Progress], None]) -> None:
        self._pace, self._tell = pace, tell

    def after_step(self, snapshot: Callable[[], LoopState]) -> None:
        """Tell if it is time."""
        progress = self._pace.after_step(snapshot)
        if progress is not None:
            self._tell(progress)


def new_net(task: TrainingTask) -> TranslatorNet:
    """The net before training, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("net", task.settings.seed) >> 1)
        return TranslatorNet(task.shape)


def validation_of(task: TrainingTask) -> Callable[[TranslatorNet], float]:
    """What an epoch is judged by; without validation rows, each is better than the last."""
    if task.validation is None:
        epochs = count()
        return lambda _: float(next(epochs))
    rows = in_this_process(task.validation)
    full = replace(task.catalogue, negatives=0)
    tables = [rows.slice(at, _VALIDATION_ROWS) for at in range(0, rows.num_rows, _VALIDATION_ROWS)]
    return lambda net: tuned_log_likelihood(net, tables, full)
