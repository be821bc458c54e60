"""What a domain offers: items with a place in the space of tastes, and their popularity by day.

Shapes: `I` items, `L` latent width, `T` days, `U` users. Popularity never depends on the vectors,
so taste and popularity can be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.keyed import stream_seed
from scalr_ray.simulate.config import WorldConfig

# An item lies this far from the centre of its genre, relative to the centre's length.
_SPREAD_WITHIN_GENRE = 0.4
_PRICE_SIGMA = 0.6
_MEDIAN_PRICE = 20.0


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The items of one domain.

    Attributes:
        domain: its name.
        item_ids: `domain:000000` and so on, in the order of all arrays.
        vectors: (I, L), places in the space of tastes; all of length `sharpness`.
        popularity: (T, I), weight of each item on each day; 0 before its launch.
        prices: (I,), the value of an event with the item.
    """

    domain: str
    item_ids: list[str]
    vectors: NDArray[np.float64]
    popularity: NDArray[np.float64]
    prices: NDArray[np.float64]

    def affinity(self, tastes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The factor (U, I) by which `tastes` (U, L) multiply the popularity of each item."""
        return np.asarray(np.exp(tastes @ self.vectors.T))


def make_catalogue(config: WorldConfig, domain: str, items: int) -> Catalogue:
    """The catalogue of `domain`; it depends on no other domain and on no user."""
    prices = np.random.default_rng(stream_seed(config.seed, "prices", domain))
    return Catalogue(
        domain=domain,
        item_ids=[f"{domain}:{item:06d}" for item in range(items)],
        vectors=_item_vectors(config, domain, items),
        popularity=_daily_popularity(config, domain, items),
        prices=np.round(prices.lognormal(np.log(_MEDIAN_PRICE), _PRICE_SIGMA, items), 2),
    )


def _item_vectors(config: WorldConfig, domain: str, items: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(stream_seed(config.seed, "vectors", domain))
    centres = rng.normal(size=(config.genres, config.latent))
    genre = rng.integers(config.genres, size=items)
    vectors = centres[genre] + _SPREAD_WITHIN_GENRE * rng.normal(size=(items, config.latent))
    # Equal lengths give every item the same mean factor over users: popularity stays popularity.
    return np.asarray(config.sharpness * vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _daily_popularity(config: WorldConfig, domain: str, items: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(stream_seed(config.seed, "popularity", domain))
    rank = rng.permutation(items) + 1.0  # permuted, so that an id says nothing about popularity
    level = -config.popularity_exponent * np.log(rank)
    launched = rng.random(items) < config.launch_frac
    launch_day = np.where(launched, rng.integers(config.days, size=items), 0)
    popularity = np.asarray(np.exp(level + _drift(rng, config, items)))
    popularity[np.arange(config.days)[:, None] < launch_day] = 0.0
    return popularity


def _drift(rng: np.random.Generator, config: WorldConfig, items: int) -> NDArray[np.float64]:
    """A stationary Gaussian random walk per item (Ornstein-Uhlenbeck), (T, I)."""
    kept = np.exp(-1.0 / config.drift_days)
    walk = rng.normal(size=(config.days, items))
    for day in range(1, config.days):
        walk[day] = kept * walk[day - 1] + np.sqrt(1 - kept**2) * walk[day]
    return np.asarray(config.drift * walk)
