"""The prior of a run: as configured, or the look-backs that predict the validation window best.

How long popularity lasts differs from log to log by an order of magnitude, and no translator makes
up for a prior that looks back too far. Each event of the window is predicted as of its own time:
asked as of the start of the window instead, the look-backs would be weighed for a prior that is
months old by the time it is used, and come out too long.

A translator draws under the prior of the generation time, which may be later than its training: by
the same look-backs and the same count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import LeakageError
from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.translator.prior import PopularityIndex, prior_mix_shares
from scalr_ray.translator.prior_fit import fit_prior_mix
from scalr_ray.translator.prior_mix import PriorMix
from scalr_ray.translator.protocol import Translator

TranslatorT = TypeVar("TranslatorT", bound=Translator)

LOOK_BACKS: tuple[int | None, ...] = (7, 14, 30, 60, 90, 180, 365, None)


def fit_prior(
    events: TrainingEvents,
    start: datetime,
    end: datetime,
    *,
    look_backs: Sequence[int | None] = LOOK_BACKS,
) -> PriorMix:
    """Weigh the look-backs by how well they predict the target events in [start, end).

    Args:
        events: coded events.
        start: start of the validation window.
        end: its end; what was not visible as of then does not count.
        look_backs: days, ascending, None (all time) the last.

    Raises:
        DataError: no event of the window is on an item that was seen before it.
    """
    windows = tuple(look_backs)
    seen = events.as_of(end).target_log.first_to_appear()
    outcomes = seen.between(start, end)
    index = PopularityIndex.of(
        seen.items,
        seen.times,
        seen.known_from,
        items=len(events.target_items),
        mix=PriorMix(windows_days=(None,), weights=(1.0,)),
    )
    shares = index.window_shares(outcomes.items, outcomes.times, windows)
    return fit_prior_mix(shares, windows_days=windows)


def prior_as_of(
    events: TrainingEvents,
    moment: datetime,
    *,
    kind: str,
    mix: PriorMix,
) -> NDArray[np.float64]:
    """The prior of every target item as of a time, each (user, item) pair counted once.

    Args:
        events: coded events; those not visible as of `moment` are ignored.
        moment: the time.
        kind: of translator. Counts go by the first event of a pair, as their table does; a network
            learns from many times at once, and goes by the event that appears first.
        mix: the look-backs and their weights.

    Returns:
        (I,) probabilities that sum to one; 0 for an item that was not visible, and everywhere when
        none was.
    """
    return _shares(events.target_log, moment, items=len(events.target_items), kind=kind, mix=mix)


def with_prior_as_of(
    translator: TranslatorT,
    events: TrainingEvents,
    moment: datetime,
    *,
    new: NDArray[np.bool_] | None = None,
) -> TranslatorT:
    """The translator with the prior of a generation time; its evidence stays as it was learnt.

    The prior is that which a training as of then would count under the same look-backs, given that
    the item is one that the translator knows.

    Args:
        translator: of any kind.
        events: coded events of the target domain; those not visible as of `moment` are ignored, and
            as of the train cutoff all are, unless some item is new: the translator is the answer.
        moment: the generation time.
        new: (I,) items that were added to the translator, known by something else than events.

    Raises:
        LeakageError: the translator was trained later.
    """
    if moment < translator.train_cutoff:
        raise LeakageError(
            f"the translator was trained as of {translator.train_cutoff}, after {moment}; train "
            "one as of then"
        )
    if moment == translator.train_cutoff and new is None:
        return translator
    items = len(translator.target_items)
    codes = translator.target_items.codes(events.target_items.ids)
    # Items that the translator does not know count too, behind those that it does.
    unknown = codes < 0
    codes = np.where(unknown, items + np.cumsum(unknown) - 1, codes)
    shares = _shares(
        replace(events.target_log, items=codes[events.target_log.items]),
        moment,
        items=int(codes.max(initial=items - 1)) + 1,
        kind=translator.kind,
        mix=translator.mix,
        new=new,
    )
    prior = shares[:items]
    if shares[items:].any() and prior.any():
        prior = prior / prior.sum()
    return translator.with_prior(prior)


def _shares(
    log: CodedEvents,
    moment: datetime,
    *,
    items: int,
    kind: str,
    mix: PriorMix,
    new: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """(items,) the prior; `new` says which of the first items are known without events."""
    log = log.as_of(moment)
    once = log.first_to_appear() if kind == "neural" else log.firsts()
    return prior_mix_shares(
        once.items,
        once.appear,
        items=items,
        as_of_micros=to_micros(moment),
        mix=mix,
        new=None if new is None else np.append(new, np.zeros(items - len(new), dtype=bool)),
    )
