"""What the workers of one training run agree on, and the worker that is alone.

The loop trains on one device and asks its peers wherever several of them have to do the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from scalr_ray.translator.neural.batch import Batch
from scalr_ray.translator.neural.candidates import Candidates
from scalr_ray.translator.neural.net import TranslatorNet

if TYPE_CHECKING:
    from scalr_ray.learn.neural.loop import LoopState


class Peers(Protocol):
    """The workers that train one net together, each on its part of every batch."""

    @property
    def rank(self) -> int:
        """Which of them this is."""

    @property
    def workers(self) -> int:
        """How many there are."""

    def call(self, net: TranslatorNet) -> Callable[[Batch, Candidates], Tensor]:
        """What is called in place of `net`, so that gradients are averaged over the workers."""

    def total(self, values: list[float]) -> list[float]:
        """Each value, added up over the workers."""

    def clip(self, parameters: list[nn.Parameter], largest: float) -> Tensor:
        """Scale the gradients down to a norm of `largest` over all of them; the norm before."""

    def after_step(self, snapshot: Callable[[], LoopState]) -> None:
        """Called after each step; a snapshot holds the tensors that training goes on with."""


class Alone:
    """One worker, which agrees with itself."""

    rank = 0
    workers = 1

    def call(self, net: TranslatorNet) -> Callable[[Batch, Candidates], Tensor]:
        """The net."""
        return net

    def total(self, values: list[float]) -> list[float]:
        """The values."""
        return values

    def clip(self, parameters: list[nn.Parameter], largest: float) -> Tensor:
        """Scale the gradients down to a norm of `largest`; the norm before."""
        return nn.utils.clip_grad_norm_(parameters, largest)

    def after_step(self, snapshot: Callable[[], LoopState]) -> None:
        """Nothing."""
