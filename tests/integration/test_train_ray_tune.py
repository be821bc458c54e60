"""The search for settings with Ray Tune."""

from __future__ import annotations

from dataclasses import replace

import pytest
from local_ray import local_ray
from ray_training import losses, trained_alone, training_task

from scalr_ray.core.errors import ConfigError
from scalr_ray.learn.neural.tune import DEFAULT_SPACE, _choices, applied, tune

pytestmark = [
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]


@pytest.fixture(scope="module")
def session():
    with local_ray(cpus=2):
        yield


@pytest.mark.usefixtures("session")
def test_a_search_finds_the_better_settings_and_stops_the_hopeless(tmp_path):
    task = training_task(users=640, epochs=6, patience=6)
    space = {"learning_rate": (1e-5, 1e-4, 0.02)}
    found = tune(task, trials=4, space=space, storage=str(tmp_path))

    assert found.best.settings["learning_rate"] in (0.01, 0.02)
    assert len(found.trials) == 4
    validations = found.table()["validation"].to_pylist()
    assert validations == sorted(validations, reverse=True)
    assert found.best.epochs == 6
    assert min(trial.epochs for trial in found.trials) < 6

    again = trained_alone(applied(task, found.best.settings))
    assert found.best.validation == pytest.approx(max(v for _, v in losses(again)), rel=1e-5)


def test_what_is_tried_depends_on_the_seed_alone_and_begins_with_the_own_settings():
    task = training_task(users=64)
    chosen = _choices(task, 12, DEFAULT_SPACE)
    assert chosen == _choices(task, 12, DEFAULT_SPACE)
    other = replace(task, settings=replace(task.settings, seed=1))
    assert chosen[1:] != _choices(other, 12, DEFAULT_SPACE)[1:]
    assert applied(task, chosen[0]) == task
    assert len({tuple(choice.values()) for choice in chosen}) == 12
    assert len(_choices(task, 50, {"layers": (1, 2)})) == 2


def test_what_cannot_be_searched_is_named(tmp_path):
    task = training_task(users=64)
    with pytest.raises(ConfigError, match="epochs cannot be searched"):
        tune(task, space={"epochs": (1,)}, storage=str(tmp_path))
    with pytest.raises(ConfigError, match="validation rows"):
        tune(replace(task, validation=None), storage=str(tmp_path))
