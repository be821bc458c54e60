"""`python -m training.train`, in one process and on Ray Train."""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_ray import local_ray
from ranker_cases import random_pairs
from ray_processes import kill_one
from ray_training import training_workers

from scalr_ray.core.clock import parse_time
from training.models import IALSConfig, PopularityConfig
from training.models.state import State
from training.train import main, settings_of

pytestmark = [
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
    # Ray reads what it wrote of an earlier run with a deprecated call of pydantic.
    pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated"),
]

CUT = "2026-03-01T00:00:00+00:00"


@pytest.fixture(scope="module", autouse=True)
def session():
    with local_ray(cpus=3):
        yield


@pytest.fixture
def rows(tmp_path):
    users, items = random_pairs(60, 30, 500).T
    days = np.arange(500) % 40
    times = np.datetime64("2026-01-10", "us") + days.astype("timedelta64[D]")
    table = pa.table(
        {
            "user_id": pa.array([f"u{user}" for user in users]),
            "item_id": pa.array(items),
            "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
            "sample_weight": np.where(days % 3 == 0, 0.5, 1.0),
            "is_synthetic": days % 3 == 0,
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def trained(rows, *given, model="two-tower"):
    out = rows.with_name("ranker.safetensors")
    argv = ["--rows", rows, "--as-of", CUT, "--model", model, "--out", out, *given]
    assert main([str(part) for part in argv]) == 0
    return State.read(out)


@pytest.mark.parametrize(
    ("model", "way", "counts"),
    [("two-tower", "fold-in", [1, 2]), ("two-tower", "head", [2]), ("sequential", "pretrain", [2])],
)
def test_workers_give_what_one_process_gives(rows, model, way, counts):
    given = ("--synthetic", way, "--set", "epochs=3", "--set", "batch=64", "--seed", "5")
    alone = trained(rows, *given, model=model)
    for workers in counts:
        there = trained(rows, *given, "--workers", workers, model=model)
        assert there.progress == alone.progress
        assert there.tensors.keys() == alone.tensors.keys()
        tolerance = {"rtol": 0, "atol": 0} if workers == 1 else {"rtol": 1e-3, "atol": 1e-4}
        for name, array in alone.tensors.items():
            np.testing.assert_allclose(there.tensors[name], array, **tolerance)
    assert training_workers() == []


def test_a_worker_that_dies_costs_nothing_but_time(rows, tmp_path, monkeypatch):
    given = ("--set", "epochs=6", "--set", "batch=16", "--seed", "5")
    alone = trained(rows, *given)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = []

    def kill_after_the_first_checkpoint() -> None:
        while not list(tmp_path.glob("scalr-train*/**/ranker.safetensors")):
            time.sleep(0.02)
        killed.append(kill_one("RayTrainWorker"))

    killer = threading.Thread(target=kill_after_the_first_checkpoint, daemon=True)
    killer.start()
    there = trained(rows, *given, "--workers", 1)
    killer.join(timeout=10)
    assert killed == [True]
    assert there.progress == alone.progress
    for name, array in alone.tensors.items():
        np.testing.assert_array_equal(there.tensors[name], array)


@pytest.mark.parametrize("model", ["popularity", "ials", "implicit", "trees"])
def test_the_others_train_in_one_process(rows, model):
    assert trained(rows, model=model).kind == model


def test_how_far_popularity_looks_back_can_be_set():
    cut = parse_time(CUT, "cut")
    ials = settings_of("ials", cut, ["prior.mix=[[7, 0.5], [null, 0.5]]", "prior_weight=0.2"])
    mixed = PopularityConfig(as_of=cut, mix=((7, 0.5), (None, 0.5)))
    assert ials == IALSConfig(prior=mixed, prior_weight=0.2)
    assert settings_of("popularity", cut, ["window_days=14"]) == replace(
        mixed, mix=(), window_days=14
    )


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--model", "trees", "--workers", "2"], "trains in one process"),
        (["--model", "two-tower", "--set", "depth=3"], "has no setting 'depth'"),
        (["--model", "ials", "--set", "window_days=14"], "has no setting 'window_days'"),
        (["--model", "ials", "--set", "prior.as_of=now"], "has no setting 'prior.as_of'"),
        (["--model", "ials", "--set", "prior.mix=[[7, 1.0]]"], "(None, weight), all time, last"),
        (["--model", "ials", "--set", "prior.mix=[7]"], "has no meaning"),
        (["--model", "two-tower", "--synthetic", "tail"], "synthetic is 'tail'"),
        (["--model", "two-tower", "--set", "epochs=many"], "has no meaning"),
        (["--model", "dwarf"], "dwarf"),
    ],
)
def test_bad_input_gets_one_line(rows, capsys, given, line):
    argv = ["--rows", str(rows), "--as-of", CUT, "--out", str(rows.with_name("x")), *given]
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1


def test_rows_have_to_be_named(capsys, tmp_path):
    assert main(["--model", "ials", "--out", str(tmp_path / "x")]) == 2
    assert "name the rows" in capsys.readouterr().err


def test_a_file_that_is_no_parquet_is_refused(capsys, tmp_path):
    (tmp_path / "rows").write_text("user,item")
    argv = ["--rows", str(tmp_path / "rows"), "--as-of", CUT, "--model", "ials"]
    assert main([*argv, "--out", str(tmp_path / "x")]) == 2
    assert "cannot be read as Parquet" in capsys.readouterr().err
