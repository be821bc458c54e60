"""Fitting a frequency translator: strength from the validation window, counts to the cutoff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic

from scalr_ray.learn.counts import Counting, translator_as_of
from scalr_ray.learn.events import TrainingEvents
from scalr_ray.learn.strength import Chosen, T, choose_strength
from scalr_ray.learn.window import validation_window
from scalr_ray.translator.frequency import FrequencyTranslator, Strength
from scalr_ray.translator.prior_mix import PriorMix


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is tried on the validation window.

    Attributes:
        shrinkages: pseudo-users per source item.
        alphas: exponents of the evidence; 0 is always tried.
        counting: how pairs are counted (not searched); None counts all alike.
    """

    shrinkages: Sequence[float]
    alphas: Sequence[float]
    counting: Counting | None = None


@dataclass(frozen=True, kw_only=True)
class FittedTranslator(Generic[T]):
    """A translator refitted up to the cutoff, with what validation measured.

    Attributes:
        translator: everything visible as of the train cutoff is in it, at the chosen strength.
        at_validation: the same as of the start of the validation window.
        chosen: what the window said, of `at_validation`.
    """

    translator: T
    at_validation: T
    chosen: Chosen[T]

    @property
    def transfers(self) -> bool:
        """Whether the evidence helps on users it was not chosen on, at 95 %."""
        return self.chosen.transfers


def fit_translator(
    events: TrainingEvents,
    *,
    validation_cut: datetime,
    cutoff: datetime,
    grid: Grid,
    mix: PriorMix,
    seed: int,
) -> FittedTranslator[FrequencyTranslator]:
    """Choose on [validation_cut, cutoff), then recount everything before `cutoff`.

    Args:
        events: coded events; those not visible as of `cutoff` are ignored.
        validation_cut: start of the validation window.
        cutoff: the train cutoff.
        grid: what to try.
        mix: the look-backs of the prior.
        seed: of the split of users.

    Raises:
        DataError: there are too few users to validate on.
    """
    # Under codes of their own, so that what is not visible cannot move even the last bit.
    visible = events.as_of(cutoff).compact()
    window = validation_window(visible, validation_cut, cutoff, seed)
    weakest = Strength(shrinkage=grid.shrinkages[0], alpha=0.0)
    counted = translator_as_of(
        visible, validation_cut, strength=weakest, mix=mix, counting=grid.counting
    )
    candidates = [counted.with_shrinkage(shrinkage) for shrinkage in grid.shrinkages]
    chosen = choose_strength(candidates, window, alphas=grid.alphas)
    strength = chosen.translator.strength
    return FittedTranslator(
        translator=translator_as_of(
            events, cutoff, strength=strength, mix=mix, counting=grid.counting
        ),
        at_validation=chosen.translator,
        chosen=chosen,
    )
