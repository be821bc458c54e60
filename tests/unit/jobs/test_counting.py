"""How a repository counts: what noise needs, and the secret behind it."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from feast_config import feast_config
from small_worlds import day

from scalr_ray.core.config import ScalrConfig
from scalr_ray.core.errors import ConfigError
from scalr_ray.core.layout import Layout
from scalr_ray.jobs.counting import counting_of


def repository(folder: Path, **translator: Any) -> Any:
    """As much of an opened repository as counting looks at."""
    config = ScalrConfig.model_validate({"translator": translator})
    layout = Layout(repo=folder, data=folder)
    store = SimpleNamespace(config=feast_config(folder, memory_limit="2GB", threads=3))
    return SimpleNamespace(config=config, layout=layout, store=store)


def test_by_default_every_user_event_and_pair_counts_alike(tmp_path):
    counting = counting_of(repository(tmp_path), day(0))
    assert counting.rules.is_plain
    assert (counting.min_users, counting.noise) == (1, None)
    assert (counting.limits.memory_limit, counting.limits.threads) == ("2GB", 3)
    assert list(tmp_path.iterdir()) == []


def test_noise_without_a_floor_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="min_users to 2 or more"):
        counting_of(repository(tmp_path, noise_epsilon=1.0), day(0))


def test_noise_is_the_same_for_a_release_another_for_the_next_and_its_key_is_kept(tmp_path):
    noisy = repository(tmp_path, noise_epsilon=1.0, min_users=30)
    first = counting_of(noisy, day(0))
    assert counting_of(noisy, day(0)).noise == first.noise
    assert counting_of(noisy, day(1)).noise.seed != first.noise.seed
    other = repository(tmp_path, noise_epsilon=1.0, min_users=31)
    assert counting_of(other, day(0)).noise.seed != first.noise.seed
    key = tmp_path / "noise.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_text()) == 64
