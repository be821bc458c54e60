"""Checkpoints by somebody who means harm: refused in one line, or what was kept."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hostile import changed, damaged, examples, json_values, tried
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scalr_ray.core.errors import DataError
from scalr_ray.learn.neural.checkpoints import (
    Standing,
    best_weights,
    load_checkpoint,
    save_checkpoint,
)
from scalr_ray.learn.neural.loop import EpochReport, LoopSettings, LoopState, make_optimizer

SETTINGS = LoopSettings()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    net = nn.Linear(3, 2)
    optimizer = make_optimizer(net, SETTINGS)
    net(torch.ones(3)).sum().backward()
    optimizer.step()
    report = EpochReport(epoch=0, loss=1.0, validation=2.0, examples=3, seconds=0.1, best=True)
    state = LoopState(
        epoch=1,
        model=net.state_dict(),
        best=net.state_dict(),
        optimizer=optimizer.state_dict(),
        reports=[report],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_checkpoint(
            folder, state, fingerprint="f", workers=1, peak_memory_bytes=1, rank=0, group=None
        ).result()
    return folder


def read(folder: Path) -> None:
    def act() -> None:
        standing = Standing.read(folder)
        assert standing.finished(SETTINGS) in (True, False)
        best_weights(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_checkpoint(folder, nn.Linear(3, 2), SETTINGS, rank=0)

    tried(act, DataError)


def test_a_sound_one_is_read(sound: Path):
    read(sound)
    assert {name: weight.shape for name, weight in best_weights(sound).items()} == {
        "weight": (2, 3),
        "bias": (2,),
    }


@examples(40)
@given(data=st.data())
def test_any_standing(sound: Path, data: st.DataObject):
    said = json.loads((sound / "state.json").read_text())
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "c"
        shutil.copytree(sound, copy)
        (copy / "state.json").write_text(json.dumps(data.draw(changed(said) | json_values())))
        read(copy)


@examples(25)
@given(data=st.data())
def test_any_damage(sound: Path, data: st.DataObject):
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "c"
        shutil.copytree(sound, copy)
        file = data.draw(st.sampled_from(sorted(copy.iterdir())))
        file.write_bytes(data.draw(damaged(file.read_bytes())))
        read(copy)
