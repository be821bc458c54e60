"""A generated world: its events, and the truth behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.clock import parse_time
from scalr_ray.core.errors import UsageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP, TIMESTAMP
from scalr_ray.simulate.catalogue import Catalogue, make_catalogue
from scalr_ray.simulate.choice import choose_items
from scalr_ray.simulate.config import WORLD_START, WorldConfig
from scalr_ray.simulate.population import Population, make_population
from scalr_ray.simulate.visits import make_visits

EVENT_TYPE = "purchase"


@dataclass(frozen=True, kw_only=True)
class World:
    """Events of all domains, and the true probabilities they were drawn from.

    Attributes:
        config: what the world was generated from.
        events: `user_id, item_id, domain, event_timestamp, event_type, value, available_at`, sorted
            by `event_timestamp`; times are UTC with microseconds, `value` is the item's price.
    """

    config: WorldConfig
    events: pa.Table
    _population: Population = field(repr=False)
    _target: Catalogue = field(repr=False)

    @classmethod
    def generate(cls, config: WorldConfig) -> World:
        """The world of `config`, the same at every call."""
        population = make_population(config)
        target = make_catalogue(config, config.target_domain, config.target_items)
        sources = [
            make_catalogue(config, domain, config.source_items) for domain in config.source_domains
        ]
        tables = [_domain_events(config, population, item) for item in (*sources, target)]
        events = pa.concat_tables(tables).combine_chunks()
        # A stable sort: which of two simultaneous events stands first is no accident.
        micros = events[EVENT_TIMESTAMP].cast(pa.int64()).to_numpy()
        events = events.take(pa.array(np.argsort(micros, kind="stable")))
        return cls(config=config, events=events, _population=population, _target=target)

    @property
    def target_item_ids(self) -> list[str]:
        """The items of the target domain, in the order of the columns of the probabilities."""
        return list(self._target.item_ids)

    def target_probabilities(self, user_ids: Sequence[str], at: datetime) -> NDArray[np.float64]:
        """The true P(target item | user, time), (U, I); each row sums to one.

        It is the distribution of a choice on the day of `at` by a user who owns no target item yet.
        For a user who owns some, take these out and normalise again. An item that is not launched
        yet has probability 0.

        Raises:
            UsageError: a user does not live in this world, or `at` lies outside it.
        """
        tastes = self._population.target_taste[self._user_indices(user_ids)]
        weight = self._target.affinity(tastes) * self._target.popularity[self._day(at)]
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))

    def entropy_bound(self, user_ids: Sequence[str], at: datetime) -> float:
        """The mean entropy of the users' choices in nats: no model's log loss can be below it.

        Raises:
            UsageError: there are no users, one does not live here, or `at` lies outside the world.
        """
        if not user_ids:
            raise UsageError("no users to bound the entropy of; name at least one")
        truth = self.target_probabilities(user_ids, at)
        log_truth = np.log(truth, out=np.zeros_like(truth), where=truth > 0)
        return float(-(truth * log_truth).sum(axis=1).mean())

    def _user_indices(self, user_ids: Sequence[str]) -> NDArray[np.int64]:
        index_of = {name: index for index, name in enumerate(self._population.user_ids)}
        unknown = [name for name in user_ids if name not in index_of]
        if unknown:
            raise UsageError(
                f"user {unknown[0]!r} does not live in this world; "
                f"its users are u000000 to {self._population.user_ids[-1]}"
            )
        return np.array([index_of[name] for name in user_ids], dtype=np.int64)

    def _day(self, at: datetime) -> int:
        day = (parse_time(at, "at") - WORLD_START) // timedelta(days=1)
        if not 0 <= day < self.config.days:
            end = WORLD_START + timedelta(days=self.config.days)
            raise UsageError(
                f"{at.isoformat()} lies outside this world; choose a time from "
                f"{WORLD_START.isoformat()} to before {end.isoformat()}"
            )
        return day


def _domain_events(config: WorldConfig, population: Population, catalogue: Catalogue) -> pa.Table:
    is_target = catalogue.domain == config.target_domain
    visits = make_visits(
        config,
        catalogue.domain,
        population.in_target if is_target else population.in_source,
        mean_events=config.target_events_per_user if is_target else config.source_events_per_user,
        items=len(catalogue.item_ids),
    )
    tastes = population.target_taste if is_target else population.source_taste
    item = choose_items(config.seed, catalogue, tastes, visits)
    return pa.table(
        {
            "user_id": pa.array(population.user_ids, pa.string()).take(pa.array(visits.user)),
            "item_id": pa.array(catalogue.item_ids, pa.string()).take(pa.array(item)),
            "domain": pa.repeat(pa.scalar(catalogue.domain, pa.string()), len(item)),
            EVENT_TIMESTAMP: pa.array(visits.micros, TIMESTAMP),
            "event_type": pa.repeat(pa.scalar(EVENT_TYPE, pa.string()), len(item)),
            "value": pa.array(catalogue.prices[item], pa.float64()),
            AVAILABLE_AT: pa.array(visits.available_micros, TIMESTAMP),
        }
    )
