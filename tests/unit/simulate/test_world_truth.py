from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from simulate_arrays import domain_events

from scalr_ray.core.errors import UsageError
from scalr_ray.simulate import WORLD_START, World, WorldConfig


def users_of(world):
    return [f"u{user:06d}" for user in range(world.config.users)]


def moment(day):
    return WORLD_START + timedelta(days=day, hours=12)


@pytest.fixture(scope="module")
def replayed():
    """Truth given ownership at each target event: probabilities (E, I) and the chosen item (E,)."""
    world = World.generate(
        WorldConfig(users=1500, source_items=50, target_items=60, days=60, sharpness=1.5, seed=3)
    )
    events = domain_events(world, "target")
    truth = np.stack(
        [world.target_probabilities(users_of(world), moment(day)) for day in range(60)]
    )
    owned = np.zeros((world.config.users, world.config.target_items), dtype=bool)
    rows = np.empty((len(events.user), world.config.target_items))
    for event, (user, item, day) in enumerate(
        zip(events.user, events.item, events.day, strict=True)
    ):
        left = np.where(owned[user], 0.0, truth[int(day), user])
        rows[event] = left / left.sum()
        owned[user, item] = True
    return rows, events.item


def test_item_frequencies_match_the_truth(replayed):
    rows, item = replayed
    observed = np.bincount(item, minlength=rows.shape[1])
    z = (observed - rows.sum(axis=0)) / np.sqrt((rows * (1 - rows)).sum(axis=0))
    assert abs((z**2).mean() - 1) < 0.6
    assert np.abs(z).max() < 4.5


def test_choices_are_as_likely_as_the_truth_says(replayed):
    rows, item = replayed
    log_rows = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
    expected = (rows * log_rows).sum(axis=1)
    variance = (rows * log_rows**2).sum(axis=1) - expected**2
    surprise = log_rows[np.arange(len(item)), item] - expected
    assert abs(surprise.sum()) < 4 * np.sqrt(variance.sum())


def test_the_truth_of_another_user_explains_choices_worse(replayed):
    rows, item = replayed
    event = np.arange(len(item))
    possible = np.roll(rows, 1, axis=0)[event, item] > 0
    own = np.log(rows[event, item][possible]).mean()
    others = np.log(np.roll(rows, 1, axis=0)[event, item][possible]).mean()
    assert own > others + 0.5


def test_nobody_chooses_what_is_impossible(replayed):
    rows, item = replayed
    assert rows[np.arange(len(item)), item].min() > 0


def test_rows_sum_to_one_and_move_with_time(small_world):
    first = small_world.target_probabilities(users_of(small_world), moment(0))
    last = small_world.target_probabilities(users_of(small_world), moment(119))
    assert first.shape == (800, 60) == last.shape
    np.testing.assert_allclose(first.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(last.sum(axis=1), 1.0, rtol=1e-12)
    assert np.abs(first - last).sum(axis=1).mean() > 0.3


def test_items_not_launched_yet_have_no_probability(default_world):
    launched = [
        (default_world.target_probabilities(["u000000"], moment(day)) > 0).sum()
        for day in (0, 180, 359)
    ]
    assert launched == sorted(launched)
    assert launched[0] < 0.8 * 800
    assert launched[2] == 800


def test_rows_follow_the_order_of_the_users_asked_for(small_world):
    forward = small_world.target_probabilities(["u000001", "u000002"], moment(5))
    backward = small_world.target_probabilities(["u000002", "u000001"], moment(5))
    np.testing.assert_array_equal(forward, backward[::-1])


def test_entropy_bound_is_the_mean_over_users_and_below_the_uniform_one(small_world):
    one = small_world.entropy_bound(["u000001"], moment(5))
    two = small_world.entropy_bound(["u000002"], moment(5))
    both = small_world.entropy_bound(["u000001", "u000002"], moment(5))
    assert both == pytest.approx((one + two) / 2)
    assert 0 < both < np.log(60)


def test_a_flat_world_has_the_entropy_of_its_catalogue():
    flat = World.generate(
        WorldConfig(users=20, sharpness=0, popularity_exponent=0, drift=0, launch_frac=0, days=30)
    )
    assert flat.entropy_bound(["u000003"], moment(7)) == pytest.approx(np.log(800))


def test_questions_outside_the_world_are_refused(small_world):
    with pytest.raises(UsageError, match="u000800"):
        small_world.target_probabilities(["u000800"], moment(0))
    with pytest.raises(UsageError, match="outside"):
        small_world.target_probabilities(["u000000"], moment(120))
    with pytest.raises(UsageError, match="outside"):
        small_world.target_probabilities(["u000000"], WORLD_START - timedelta(seconds=1))
    with pytest.raises(UsageError, match="time zone"):
        small_world.target_probabilities(["u000000"], datetime(2025, 2, 1))  # noqa: DTZ001
    with pytest.raises(UsageError, match="at least one"):
        small_world.entropy_bound([], moment(0))
