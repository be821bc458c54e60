"""Training rows of users whose next target item follows from their source events, made at once.

Needs numpy, pyarrow and torch alone. Source item s makes the target item s mod I more likely; items
are drawn by a power law, as in real catalogues.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.translator.neural.candidates import Catalogue
from scalr_ray.translator.neural.config import NetShape

_DAY = 86_400_000_000
_START = 20_000 * _DAY


@dataclass(frozen=True, kw_only=True)
class FlatPrior:
    """Every item is as likely as any other, at any time."""

    def log_prior(
        self, items: NDArray[np.int64], times: NDArray[np.int64] | int
    ) -> NDArray[np.float32]:
        shape = np.broadcast_shapes(np.shape(items), np.shape(times))
        return np.zeros(shape, dtype=np.float32)


def planted_rows(
    *, users: int, tokens: int, queries: int, items: int, seed: int, signal: float = 0.7
) -> pa.Table:
    """One row per user, with `tokens` source events before its `queries`."""
    draw = np.random.default_rng(seed)
    sources = _power_law(draw, (users, tokens), items)
    likely = sources[np.arange(users)[:, None], draw.integers(0, tokens, (users, queries))]
    wanted = np.where(
        draw.random((users, queries)) < signal, likely, _power_law(draw, (users, queries), items)
    )
    gaps = draw.integers(1, _DAY, (users, tokens + queries))
    times = _START + np.cumsum(gaps, axis=1)
    flat = users * tokens
    return pa.table(
        {
            "user": np.arange(users),
            "token_item": _lists(sources.astype(np.int32)),
            "token_side": _lists(np.zeros((users, tokens), dtype=np.int8)),
            "token_type": _lists(np.zeros((users, tokens), dtype=np.int16)),
            "token_time": _lists(times[:, :tokens]),
            "token_value": _lists(np.full(flat, np.nan, np.float32).reshape(users, tokens)),
            "query_item": _lists(wanted.astype(np.int32)),
            "query_time": _lists(times[:, tokens:]),
            "query_prefix": _lists(np.full((users, queries), tokens, dtype=np.int32)),
        }
    )


def flat_catalogue(items: int, *, negatives: int = 0) -> Catalogue:
    """Items that were always there, none more popular than another."""
    return Catalogue(
        prior=FlatPrior(),
        first_seen=np.zeros(items, dtype=np.int64),
        shares=np.full(items, 1.0 / items),
        negatives=negatives,
    )


def small_shape(items: int) -> NetShape:
    """A net without dropout, so that any number of workers draws alike."""
    return NetShape(
        source_items=items,
        target_items=items,
        event_types=1,
        length=16,
        width=16,
        layers=1,
        heads=2,
        dropout=0.0,
        id_dropout=0.0,
    )


def _power_law(draw: np.random.Generator, shape: tuple[int, int], items: int) -> NDArray[np.int64]:
    return np.minimum(items * draw.random(shape) ** 3, items - 1).astype(np.int64)


def _lists(values: NDArray[np.generic]) -> pa.Array:
    offsets = pa.array(np.arange(len(values) + 1) * values.shape[1])
    return pa.LargeListArray.from_arrays(offsets, pa.array(values.ravel()))
