"""How far a training has come and how fast it goes, as the process that trains sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from scalr_ray.learn.neural.loop import LoopSettings, LoopState

_TELL_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training has come.

    Attributes:
        epoch: the running epoch, from 0.
        epochs: the most there will be; early stopping may end it sooner.
        step: batches done in it.
        steps: batches of an epoch.
        loss: mean so far in this epoch, nats per query, of the first worker.
        examples_per_s: queries trained on per second, of all workers.
        eta_s: seconds until all epochs are done at this speed.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    examples_per_s: float
    eta_s: float


class Pace:
    """Looks at a training after its steps, and tells of it twice a second at most.

    Args:
        settings: of the loop.
        steps: batches of an epoch.
        workers: who train as much as this process does.
    """

    def __init__(self, settings: LoopSettings, *, steps: int, workers: int = 1) -> None:
        self._settings, self._steps, self._workers = settings, steps, workers
        self._told = time.monotonic()
        # When this process began to step, and what had been done by then.
        self._start: tuple[float, int, float] | None = None
        self._of_epochs = 0.0

    def after_epoch(self, examples: int) -> None:
        """Count the queries of an epoch that is over, of all workers."""
        self._of_epochs += examples

    def after_step(self, snapshot: Callable[[], LoopState]) -> Progress | None:
        """What there is to tell after a step; None if it is too early to tell again."""
        now = time.monotonic()
        if self._start is not None and now - self._told < _TELL_EVERY_S:
            return None
        state = snapshot()
        examples = self._of_epochs + state.examples * self._workers
        self._told = now
        if self._start is None:  # the first step of a process is slow, and is not counted
            self._start = now, state.step, examples
            return None
        began, step, before = self._start
        left = (self._settings.epochs - state.epoch) * self._steps - state.batch
        seconds_each = (now - began) / (state.step - step) / self._settings.accumulate
        return Progress(
            epoch=state.epoch,
            epochs=self._settings.epochs,
            step=state.batch,
            steps=self._steps,
            loss=state.loss / max(state.examples, 1),
            examples_per_s=(examples - before) / (now - began),
            eta_s=left * seconds_each,
        )
