"""Taking users out of a frequency translator, so that it is as if they had never been counted.

What they gave to pairs and marginals is subtracted in whole units, so that what is left is exactly
a count of the others. Prior, first sightings and delays are counted again from the others, because
nothing can be subtracted from shares and quantiles. Strength, look-backs and the vocabularies stay:
they were chosen on all users of a window, and other codes would make another translator.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scalr_ray.core.clock import to_micros
from scalr_ray.learn.counts import (
    Counting,
    delay_quantiles,
    first_sightings,
    translator_as_of,
)
from scalr_ray.learn.events import TrainingEvents
from scalr_ray.learn.pairs import PairRows, count_pairs
from scalr_ray.offline_store.limits import Limits
from scalr_ray.translator.frequency import FrequencyTranslator
from scalr_ray.translator.prior import prior_mix_shares

if TYPE_CHECKING:  # it brings Feast
    from scalr_ray.offline_store.engine import Engine


def without_users(
    translator: FrequencyTranslator, gone: PairRows, left: TrainingEvents, limits: Limits
) -> FrequencyTranslator:
    """The translator without what some users gave.

    Args:
        translator: counted with them; without noise.
        gone: every event of these users that it was counted with.
        left: the events of everybody else, visible as of the train cutoff.
        limits: of DuckDB.

    Raises:
        DataError: it was counted with other events; `recounted` gives what these give.
        UsageError: the memory limit is too low.
    """
    given = count_pairs(gone, translator.weighing.rules, limits)
    counted = translator.without(given.coded(translator.source_items, translator.target_items))
    seen = _under_codes(translator, left)
    return replace(
        counted,
        prior=prior_mix_shares(
            seen.target.items,
            seen.target.appear,
            items=len(translator.target_items),
            as_of_micros=to_micros(translator.train_cutoff),
            mix=translator.mix,
        ),
        first_seen=first_sightings(seen),
        delays=delay_quantiles(seen.source, seen.target),
    )


def recounted(
    translator: FrequencyTranslator, left: TrainingEvents, limits: Limits, engine: Engine
) -> FrequencyTranslator:
    """The translator counted anew, at the strength it has, from nothing but the events given.

    Args:
        translator: without noise.
        left: the events that count.
        limits: of DuckDB.
        engine: whether a Ray cluster counts.

    Raises:
        UsageError: the memory limit is too low.
        RetryLater: the cluster gave up.
    """
    weighing = translator.weighing
    return translator_as_of(
        _under_codes(translator, left),
        translator.train_cutoff,
        strength=translator.strength,
        mix=translator.mix,
        counting=Counting(
            rules=weighing.rules,
            history_half_life_days=weighing.history_half_life_days,
            min_users=weighing.min_users,
            most_source_items=weighing.most_source_items,
            most_target_items=weighing.most_target_items,
            noise=None,
            limits=limits,
            engine=engine,
        ),
    )


def _under_codes(translator: FrequencyTranslator, left: TrainingEvents) -> TrainingEvents:
    seen = left.as_of(translator.train_cutoff)
    return seen.under(translator.source_items, translator.target_items)
