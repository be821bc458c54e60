from __future__ import annotations

import numpy as np
import pytest
from simulate_arrays import domain_events

from scalr_ray.simulate import World, WorldConfig


def test_default_world_has_the_size_it_should(default_world):
    assert 120_000 <= len(domain_events(default_world, "source").user) <= 200_000
    assert 40_000 <= len(domain_events(default_world, "target").user) <= 60_000


def test_default_world_has_many_cold_and_many_warm_test_users(default_world):
    source, target = domain_events(default_world, "source"), domain_events(default_world, "target")
    cut = np.floor(np.quantile(target.day, 0.8))
    tested = np.intersect1d(source.user[source.day < cut], target.user[target.day >= cut])
    known = target.user[target.day < cut]
    assert np.setdiff1d(tested, known).size >= 800
    assert np.intersect1d(tested, known).size >= 800


def test_some_users_live_in_one_domain_only(default_world):
    source = set(domain_events(default_world, "source").user)
    target = set(domain_events(default_world, "target").user)
    assert len(source & target) == pytest.approx(0.65 * 6000, rel=0.05)
    assert len(target - source) == pytest.approx(0.10 * 6000, rel=0.15)
    assert len(source - target) == pytest.approx(0.25 * 6000, rel=0.10)


def test_activity_has_a_heavy_tail(default_world):
    counts = np.bincount(domain_events(default_world, "source").user)
    assert np.quantile(counts, 0.99) > 4 * np.median(counts)


def test_popularity_follows_the_power_law_asked_for():
    world = World.generate(
        WorldConfig(
            users=3000, target_events_per_user=6, sharpness=0, drift=0, launch_frac=0,
            popularity_exponent=0.9,
        )
    )  # fmt: skip
    counts = np.sort(np.bincount(domain_events(world, "target").item, minlength=800))[::-1]
    rank = np.arange(10, 200)  # the head is flattened: nobody has an item twice
    slope = np.polyfit(np.log(rank), np.log(counts[rank - 1]), 1)[0]
    assert slope == pytest.approx(-0.9, abs=0.1)


def test_a_tenth_of_the_items_takes_a_large_share_of_the_default_events(default_world):
    counts = np.sort(np.bincount(domain_events(default_world, "source").item, minlength=1500))
    assert 0.3 < counts[-150:].sum() / counts.sum() < 0.7


@pytest.mark.parametrize("cut", [240, 270, 300, 330])
def test_recent_popularity_predicts_the_next_month_better_than_all_time(default_world, cut):
    events = domain_events(default_world, "target")
    future = (events.day >= cut) & (events.day < cut + 30)

    def log_likelihood(start):
        past = (events.day >= start) & (events.day < cut)
        counts = np.bincount(events.item[past], minlength=800) + 0.5
        return np.log(counts / counts.sum())[events.item[future]].mean()

    assert log_likelihood(cut - 90) > log_likelihood(0) + 0.02
