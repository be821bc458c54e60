"""Who lives in the world: tastes, and in which domains a user is active from when on.

Membership, arrival and activity are drawn apart from taste and apart from each other in every
domain. This keeps the null world honest: were, say, busy source users busy target users as well,
the rare items of both domains would meet more often than chance, with no taste behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.keyed import stream_seed
from scalr_ray.simulate.config import WorldConfig

_EARLY = (0.0, 0.3)
_LATE = (0.6, 0.95)


@dataclass(frozen=True, kw_only=True)
class Population:
    """The users, as arrays in the order of their ids (`U` users, `L` latent width).

    Attributes:
        user_ids: `u000000` and so on.
        source_taste: (U, L), standard normal; the same in all source domains.
        target_taste: (U, L), standard normal; its correlation with the source taste is the square
            root of `transfer`.
        in_source: (U,), whether the user has source events.
        in_target: (U,), whether the user has target events.
    """

    user_ids: list[str]
    source_taste: NDArray[np.float64]
    target_taste: NDArray[np.float64]
    in_source: NDArray[np.bool_]
    in_target: NDArray[np.bool_]


def make_population(config: WorldConfig) -> Population:
    """The users of the world; `transfer` changes nothing but their target taste."""
    size = (config.users, config.latent)
    shared = np.random.default_rng(stream_seed(config.seed, "taste", "shared")).normal(size=size)
    own = np.random.default_rng(stream_seed(config.seed, "taste", "own")).normal(size=size)
    lot = np.random.default_rng(stream_seed(config.seed, "membership")).random(config.users)
    return Population(
        user_ids=[f"u{user:06d}" for user in range(config.users)],
        source_taste=shared,
        target_taste=np.sqrt(config.transfer) * shared + np.sqrt(1 - config.transfer) * own,
        in_source=lot >= config.target_only_frac,
        in_target=lot < config.target_only_frac + config.overlap_frac,
    )


def arrival_frac(config: WorldConfig, domain: str) -> NDArray[np.float64]:
    """When each user comes to `domain`, (U,), as a share of the world's length in [0, 1).

    Most come early. In the target domain, `late_frac` of the users come late: at a cut in between
    they have source history and no target history.
    """
    rng = np.random.default_rng(stream_seed(config.seed, "arrival", domain))
    early = rng.uniform(*_EARLY, size=config.users)
    late = rng.uniform(*_LATE, size=config.users)
    is_late = rng.random(config.users) < config.late_frac
    return np.where(is_late & (domain == config.target_domain), late, early)
