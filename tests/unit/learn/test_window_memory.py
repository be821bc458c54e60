"""What is held while a window is scored does not grow with its users."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse
from small_worlds import day, users_of

from scalr_ray.core.clock import to_micros
from scalr_ray.learn import calibration, strength, window
from scalr_ray.learn.window import Window
from scalr_ray.translator import FrequencyTranslator, PriorMix, Strength
from scalr_ray.translator.encode import Vocabulary

USERS, ITEMS, SOURCES = 200, 5000, 50


@pytest.fixture(scope="module")
def world() -> tuple[FrequencyTranslator, Window]:
    draw = np.random.default_rng(0)

    def matrix(rows: int, columns: int, share: float) -> sparse.csr_matrix:
        return sparse.csr_matrix((draw.random((rows, columns)) < share).astype(np.float32))

    history, own = matrix(USERS, SOURCES, 0.1), matrix(USERS, ITEMS, 0.001)
    relevant = matrix(USERS, ITEMS, 0.001) + sparse.csr_matrix(
        (np.ones(USERS, np.float32), (np.arange(USERS), draw.integers(0, ITEMS, USERS))),
        shape=(USERS, ITEMS),
    )
    relevant.data[:] = 1.0
    relevant = (relevant - relevant.multiply(own)).tocsr()
    relevant.eliminate_zeros()
    asked = np.flatnonzero(np.diff(relevant.indptr) > 0)
    prior = draw.random(ITEMS) + 0.01
    translator = FrequencyTranslator(
        train_cutoff=day(0),
        source_items=Vocabulary(ids=pa.array([f"s{at:03d}" for at in range(SOURCES)])),
        target_items=Vocabulary(ids=pa.array([f"t{at:05d}" for at in range(ITEMS)])),
        counts=matrix(SOURCES, ITEMS, 0.05),
        marginal=np.full(ITEMS, 20.0),
        mix=PriorMix.recent(window_days=30, background=0.01),
        prior=prior / prior.sum(),
        first_seen=np.full(ITEMS, to_micros(day(-9))),
        delays=np.zeros(0, dtype=np.int64),
        strength=Strength(shrinkage=1.0, alpha=0.5, temperature=1.3),
    )
    users = users_of(history[asked], own[asked])
    return translator, Window(users=users, own=own[asked], relevant=relevant[asked])


def test_chunks_are_as_large_as_memory_allows_and_at_least_one_user(world, monkeypatch):
    _, whole = world
    sizes = {}
    for scores in (10, 7 * ITEMS, 10**9):
        monkeypatch.setattr(window, "_CHUNK_SCORES", scores)
        sizes[scores] = [len(chunk) for chunk in whole.chunks()]
        assert sum(sizes[scores]) == len(whole)
    assert {max(found) for found in sizes.values()} == {1, 7, min(256, len(whole))}


def test_calibration_is_the_same_whatever_is_held(world, monkeypatch):
    translator, whole = world
    at_once = calibration(translator, whole)
    monkeypatch.setattr(window, "_CHUNK_SCORES", 7 * ITEMS)
    assert vars(calibration(translator, whole)) == pytest.approx(vars(at_once), rel=1e-5)


def test_calibration_holds_a_part_of_the_window(world, monkeypatch):
    translator, whole = world
    monkeypatch.setattr(window, "_CHUNK_SCORES", 4 * ITEMS)
    monkeypatch.setattr(strength, "_HELD_SCORES", 20 * ITEMS)
    tracemalloc.start()
    calibration(replace(translator), whole)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(whole) * ITEMS * 4 / 2
