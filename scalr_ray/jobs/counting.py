"""How a repository counts pairs of items: its settings, within the limits of its store."""

from __future__ import annotations

from datetime import datetime

from scalr_ray.core.errors import ConfigError
from scalr_ray.core.keyed import stream_seed
from scalr_ray.core.private import secret_in
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.learn import Counting
from scalr_ray.offline_store.store import engine_of, session_of
from scalr_ray.translator.counts import PairRules
from scalr_ray.translator.noise import Bound, Noise

# What one user contributes at most under noise: more hides less (`tests/bench/pairs.py`).
_NOISY_SOURCE_ITEMS, _NOISY_TARGET_ITEMS = 8, 2


def counting_of(workspace: Workspace, cutoff: datetime) -> Counting:
    """How pairs are counted under the configuration, up to a train cutoff.

    Raises:
        ConfigError: there is to be noise, but no floor, without which it promises nothing.
    """
    config = workspace.config
    settings, noise = config.translator, None
    if settings.noise_epsilon is not None:
        if settings.min_users < 2:
            raise ConfigError(
                "translator.noise_epsilon promises nothing unless rare pairs are dropped; set "
                "translator.min_users to 2 or more"
            )
        # Secret, and another for each release, or the noise could be subtracted again.
        seed = stream_seed(
            secret_in(workspace.layout.data / "noise.key"), config.fingerprint, cutoff
        )
        bound = Bound(source_items=_NOISY_SOURCE_ITEMS, target_items=_NOISY_TARGET_ITEMS)
        noise = Noise(epsilon=settings.noise_epsilon, bound=bound, seed=seed)
    return Counting(
        rules=PairRules(
            event_weights=settings.event_weights, half_life_days=settings.pair_half_life_days
        ),
        history_half_life_days=settings.history_half_life_days,
        min_users=settings.min_users,
        most_source_items=settings.most_source_items,
        most_target_items=settings.most_target_items,
        noise=noise,
        limits=session_of(workspace.store.config).limits,
        engine=engine_of(workspace.store.config),
    )
