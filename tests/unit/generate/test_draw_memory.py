"""What drawing takes of memory: that of a chunk of users, however many there are."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
from scipy import sparse
from small_drawings import small_drawing

from scalr_ray.translator import Vocabulary

ITEMS = 20_000


def wide(drawing):
    """The same drawing over a catalogue of very many items."""
    narrow = drawing.translator
    counts = narrow.counts.tocoo()
    return drawing.by(
        replace(
            narrow,
            target_items=Vocabulary(ids=pa.array([f"t{at:06d}" for at in range(ITEMS)])),
            counts=sparse.csr_matrix(
                (counts.data, (counts.row, counts.col)), shape=(counts.shape[0], ITEMS)
            ),
            marginal=np.ones(ITEMS),
            prior=np.full(ITEMS, 1 / ITEMS),
            first_seen=np.zeros(ITEMS, dtype=np.int64),
        )
    )


def peak_of(drawing, users, **changes):
    tracemalloc.start()
    try:
        drawing.draw(drawing.plan.slice(0, users), **changes)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_users(monkeypatch):
    for budget in (
        "generate.kernel.proposals._LISTED_SCORES",
        "generate.kernel.negatives._SCORES_AT_ONCE",
        "translator.shortlist._CHUNK_SCORES",
    ):
        monkeypatch.setattr(f"scalr_ray.{budget}", 8 * ITEMS)
    drawing = wide(small_drawing())
    peak_of(drawing, 8)  # warms what is computed once
    for changes in ({}, {"top_p": 0.5}, {"negatives": 1, "candidates": 100}):
        few, many = (peak_of(drawing, users, **changes) for users in (40, 120))
        assert many < 2 * few, changes  # of thrice the users
        assert many < 120 * ITEMS * 4  # less than the scores of all of them alone
