"""While a net is trained, its loss, its speed and what is left are seen within the epochs."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from planted_rows import flat_catalogue, planted_rows, small_shape
from rich.console import Console

from scalr_ray.core.config import load_config
from scalr_ray.jobs.fitting import Shown, _Trainings
from scalr_ray.jobs.progress import Progress
from scalr_ray.learn.neural import pace
from scalr_ray.learn.neural.loop import LoopSettings
from scalr_ray.learn.neural.pace import Progress as Pace
from scalr_ray.learn.neural.task import TrainingTask
from scalr_ray.translator.neural.features import FeatureSpec
from scalr_ray.translator.prior_mix import PriorMix

ITEMS = 20


@pytest.fixture
def workspace():
    """As much of a workspace as a training in this process asks of it."""
    written = io.StringIO()
    repo = Path(__file__).parents[3] / "feature_repo"
    return SimpleNamespace(
        progress=Progress(Console(file=written, width=200)),
        config=load_config(repo, ["translator.neural.workers=0"]),
        written=written,
    )


def task() -> TrainingTask:
    return TrainingTask(
        name="validation",
        shape=small_shape(ITEMS),
        settings=LoopSettings(epochs=2, batch_rows=8),
        catalogue=flat_catalogue(ITEMS),
        rows=planted_rows(users=64, seed=0, tokens=8, queries=2, items=ITEMS),
        validation=None,
    )


def train(workspace, asked: TrainingTask) -> list[str]:
    trainings = _Trainings(workspace, PriorMix.recent(window_days=90, background=0.1))
    trainings.train(asked, lambda _, __: None)
    return workspace.written.getvalue().splitlines()


def test_a_file_is_told_of_epoch_loss_speed_and_time_left(workspace, monkeypatch):
    monkeypatch.setattr(pace, "_TELL_EVERY_S", 0.0)
    monkeypatch.setattr("scalr_ray.jobs.progress._LINE_EVERY_S", 0.0)
    *lines, done = train(workspace, task())
    assert done.startswith("✓ Train the neural translator (validation) ")
    # After each of 8 steps in each of 2 epochs, but for the first, from which on time is taken.
    assert len(lines) == 15
    shown = r"  Train .*: [\d,]+ of 256, [\d,]+/s, \d+ s left, epoch [12] of 2, loss \d\.\d{4}"
    for line in lines:
        assert re.fullmatch(shown, line), line
    assert ": 256 of 256, " in lines[-1]


def test_features_that_are_not_learned_from_are_told_once(workspace):
    asked = task()
    served = pa.table(
        {
            "seen_at": pa.array([0] * 4, pa.timestamp("us", tz="UTC")),
            "spent": pa.array([1.0, 2.0, None, 4.0]),
        }
    )
    spec = FeatureSpec.fit(served)
    shape = replace(asked.shape, item_features=spec)
    encoded = spec.encode(served.take([0] * ITEMS))
    asked = replace(asked, shape=shape, catalogue=replace(asked.catalogue, features=encoded))
    trainings = _Trainings(workspace, PriorMix.recent(window_days=90, background=0.1))
    for name in ("validation", "final"):
        trainings.train(replace(asked, name=name), lambda _, __: None)
    lines = workspace.written.getvalue().splitlines()
    told = [line.strip() for line in lines if "seen_at" in line]
    assert told == ["feature seen_at is left out: the type timestamp[us, tz=UTC] is not supported"]
    assert not any("spent" in line for line in lines)


def test_a_lost_worker_does_not_turn_the_count_back():
    told: list[tuple[int, str]] = []
    shown = Shown(lambda units, said="": told.append((units, said)), 100)

    def at(epoch: int, step: int) -> Pace:
        return Pace(
            epoch=epoch, epochs=3, step=step, steps=10, loss=2.0, examples_per_s=1.0, eta_s=1.0
        )

    for progress in (at(0, 5), at(1, 0), at(0, 8), at(1, 2)):
        shown(progress)
    assert [units for units, _ in told] == [50, 50, 0, 20]
    assert told[-1][1] == "epoch 2 of 3, loss 2.0000"
