"""The statistics of a translator as of a cut: counts, prior, first sightings, delays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.learn.pairs import counts_to_keep
from scalr_ray.learn.prior import prior_as_of
from scalr_ray.offline_store.limits import Limits
from scalr_ray.translator.counts import PairRules
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.frequency import (
    FrequencyTranslator,
    Strength,
    count_users,
    overlap_marginal,
)
from scalr_ray.translator.noise import Noise
from scalr_ray.translator.prior_mix import PriorMix
from scalr_ray.translator.weighing import Weighing

if TYPE_CHECKING:  # it brings Feast, for which the workers of a cluster need not wait
    from scalr_ray.offline_store.engine import Engine
_DELAY_QUANTILES = 101
# Without them an item with one or two owners has a huge lift by chance. On both directions of the
# Amazon food and kitchen logs the validation likelihood rises up to about 20 and stays flat.
MARGINAL_PSEUDO_USERS = 20.0
# Pairs of a user's items that the matrix product may go through: beyond as many (1.6 GB, where all
# are distinct) DuckDB counts, which spills to disk.
_MOST_PAIRS = 1 << 27
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class Counting:
    """How pairs of items are counted, where users, events and pairs do not all count alike.

    Attributes:
        rules: what one user adds to a pair.
        history_half_life_days: in which a source event loses half of its say; None: it keeps it.
        min_users: pairs of fewer users are dropped.
        most_source_items: users with more are not in the events; they are left out of nothing.
        most_target_items: the same of target items.
        noise: put on the pairs before those of few users are dropped; None: none.
        limits: of DuckDB, which counts.
        engine: whether it counts here or on a Ray cluster.
    """

    rules: PairRules
    history_half_life_days: float | None
    min_users: int
    noise: Noise | None
    limits: Limits
    engine: Engine
    most_source_items: int | None = None
    most_target_items: int | None = None

    def weighing(self, event_types: Vocabulary) -> Weighing:
        """The same for events whose types are coded so."""
        return Weighing(
            rules=self.rules,
            event_types=event_types,
            history_half_life_days=self.history_half_life_days,
            min_users=self.min_users,
            noisy=self.noise is not None,
            most_source_items=self.most_source_items,
            most_target_items=self.most_target_items,
        )


def translator_as_of(
    events: TrainingEvents,
    cutoff: datetime,
    *,
    strength: Strength,
    mix: PriorMix,
    counting: Counting | None = None,
) -> FrequencyTranslator:
    """Count what was visible as of `cutoff`.

    Args:
        events: coded events; those not visible as of `cutoff` are ignored.
        cutoff: the train cutoff.
        strength: exponents and shrinkage.
        mix: the look-backs of the prior.
        counting: how pairs are counted; None counts every user, event and pair alike.

    Returns:
        A translator under the codes of `events`; an item that was not visible has prior 0.
    """
    seen = events.as_of(cutoff)
    history, own = seen.history(), seen.own()
    items = len(events.target_items)
    weighing = Weighing() if counting is None else counting.weighing(events.event_types)
    if weighing.is_plain:  # the types of events say nothing then
        weighing = replace(weighing, event_types=Weighing().event_types)
    by_product = counting is None or (weighing.is_plain and _product_fits(seen, counting.engine))
    nothing = sparse.csr_matrix((len(events.source_items), items), dtype=np.float32)
    translator = FrequencyTranslator(
        train_cutoff=cutoff,
        source_items=events.source_items,
        target_items=events.target_items,
        counts=count_users(history, own) if by_product else nothing,
        marginal=overlap_marginal(history, own) + MARGINAL_PSEUDO_USERS,
        mix=mix,
        prior=prior_as_of(seen, cutoff, kind="frequency", mix=mix),
        first_seen=first_sightings(seen),
        delays=delay_quantiles(seen.source, seen.target),
        strength=strength,
        weighing=weighing,
    )
    if counting is None or by_product:
        return translator
    kept = counts_to_keep(
        seen, weighing, counting.limits, noise=counting.noise, engine=counting.engine
    )
    return translator.with_counts(kept, weighing, pseudo_users=MARGINAL_PSEUDO_USERS)


def _product_fits(seen: TrainingEvents, engine: Engine) -> bool:
    """Whether users are counted by a product of matrices: what the statement gives, but sooner."""
    if engine.takes_cluster(len(seen.source_log) + len(seen.target_log)):
        return False
    sides = (seen.source.users, seen.target.users)
    of_source, of_target = (np.bincount(side, minlength=len(seen.users)) for side in sides)
    return int(of_source @ of_target) <= _MOST_PAIRS


def first_sightings(events: TrainingEvents) -> NDArray[np.int64]:
    """(I,) microseconds since 1970 of the first event on each target item; the largest without."""
    first_seen = np.full(len(events.target_items), _NEVER, dtype=np.int64)
    np.minimum.at(first_seen, events.target.items, events.target.times)
    return first_seen


def first_appearances(events: TrainingEvents) -> NDArray[np.int64]:
    """(I,) from when on each target item is known of, us since 1970; the largest without events."""
    appears = np.full(len(events.target_items), _NEVER, dtype=np.int64)
    np.minimum.at(appears, events.target_log.items, events.target_log.appear)
    return appears


def delay_quantiles(source: CodedEvents, target: CodedEvents) -> NDArray[np.int64]:
    """(Q,) ascending quantiles of the time from a user's last source event to a target event.

    Only pairs with the source event strictly before the target event count. Without any, there are
    no quantiles and the result is empty.
    """
    users = np.concatenate((source.users, target.users))
    times = np.concatenate((source.times, target.times))
    is_source = np.arange(len(users)) < len(source)
    # At equal times a target event sorts first: what stands before it is strictly before.
    order = np.lexsort((is_source, times, users))
    users, times, is_source = users[order], times[order], is_source[order]
    last_source = np.maximum.accumulate(np.where(is_source, np.arange(len(order)), -1))
    at = np.flatnonzero(~is_source & (last_source >= 0))
    at = at[users[last_source[at]] == users[at]]
    delays = times[at] - times[last_source[at]]
    if delays.size == 0:
        return np.empty(0, dtype=np.int64)
    grid = np.linspace(0.0, 1.0, _DELAY_QUANTILES)
    return np.asarray(np.quantile(delays, grid, method="inverted_cdf"), dtype=np.int64)
