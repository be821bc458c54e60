from __future__ import annotations

import pytest

from scalr_ray.simulate import World, WorldConfig


@pytest.fixture(scope="session")
def default_world():
    return World.generate(WorldConfig())


@pytest.fixture(scope="session")
def small_world():
    return World.generate(
        WorldConfig(
            users=800,
            source_items=120,
            target_items=60,
            days=120,
            source_domains=("books", "films"),
            target_domain="music",
            source_events_per_user=12,
            target_events_per_user=8,
        )
    )
