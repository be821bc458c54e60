"""Batches: training rows as padded tensors.

A training row is one user, or a segment of a user with many events:

```
user                                       int64    code: the key of what is random about the row
token_item, token_side, token_type,        lists    events in order of appearance; side 0 is
token_time, token_value                             source, 1 the user's own target events
query_item, query_time, query_prefix       lists    target events to predict, and how many of the
                                                    row's tokens their time may see
feature.<name>                             list     user features as of each query's time
```

Legend: R rows, L tokens (padded to the longest row), Q queries, M owned (query, item) pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalr_ray.translator.neural.features import FeatureSpec

if TYPE_CHECKING:
    from scalr_ray.translator.neural.candidates import Candidates

SOURCE_SIDE = 0
TARGET_SIDE = 1
FEATURE_PREFIX = "feature."
_DAY_MICROS = 86_400_000_000.0
# Lengths are padded to a multiple of this, so that few different shapes are compiled or allocated.
_PAD_TO = 16


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tokens of R rows and the queries upon them.

    Attributes:
        items: (R, L) codes plus one, of the side's item table; 0 is unknown or padding.
        sides: (R, L) 0 source, 1 target.
        types: (R, L) event type codes plus one; 0 is none.
        gaps: (R, L) float32, log(1 + days since the row's token before).
        values: (R, L, 2) float32, sign(value) log(1 + |value|) and whether there is a value.
        query_rows: (Q,) row of each query.
        query_positions: (Q,) the last token that the query may see; -1 without any.
        query_gaps: (Q,) float32, log(1 + days since that token).
        query_times: (Q,) microseconds since 1970.
        query_items: (Q,) target item code to predict.
        owned: (2, M) query and target item code of what the user has by the query's time.
        features: encoded user features, Q rows each; None where the net takes none.
    """

    items: Tensor
    sides: Tensor
    types: Tensor
    gaps: Tensor
    values: Tensor
    query_rows: Tensor
    query_positions: Tensor
    query_gaps: Tensor
    query_times: Tensor
    query_items: Tensor
    owned: Tensor
    features: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.query_rows)

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return replace(self, **moved(self, device))


def moved(held: Batch | Candidates, device: torch.device) -> dict[str, Any]:
    """The tensors of a frozen dataclass, and its mapping of features, by field, on `device`."""
    fields_of = {field.name: getattr(held, field.name) for field in fields(held)}
    features = fields_of.pop("features")
    there = {name: tensor.to(device, non_blocking=True) for name, tensor in fields_of.items()}
    if features is not None:
        features = {name: tensor.to(device, non_blocking=True) for name, tensor in features.items()}
    return {**there, "features": features}


@dataclass(frozen=True, kw_only=True)
class _Lists:
    """A list column: (rows + 1,) offsets and flat values."""

    offsets: NDArray[np.int64]
    values: pa.Array

    @classmethod
    def of(cls, table: pa.Table, name: str) -> _Lists:
        column = table[name].combine_chunks()
        offsets = np.asarray(column.offsets, dtype=np.int64)
        return cls(offsets=offsets - offsets[0], values=column.flatten())

    @property
    def rows(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def numpy(self) -> NDArray[np.generic]:
        return np.asarray(self.values.to_numpy(zero_copy_only=False))


def collate(
    rows: pa.Table,
    *,
    features: FeatureSpec | None = None,
    drop_own: NDArray[np.bool_] | None = None,
) -> Batch:
    """One batch of all the `rows`.

    Args:
        rows: training rows (see above).
        features: how user features are encoded; None where the net takes none.
        drop_own: (R,) rows that lose all their own target tokens, as if their target history were
            unknown; what they own stays masked.

    Returns:
        Tensors on the CPU; queries in the order of the rows.
    """
    token = _Lists.of(rows, "token_item")
    sides = _Lists.of(rows, "token_side").numpy().astype(np.int64)
    keep = np.ones(len(sides), dtype=bool)
    if drop_own is not None:
        keep = ~(drop_own[token.rows] & (sides == TARGET_SIDE))
    query = _Lists.of(rows, "query_item")
    prefixes = _Lists.of(rows, "query_prefix").numpy().astype(np.int64)
    query_times = _Lists.of(rows, "query_time").numpy().astype(np.int64)
    starts = token.offsets[:-1][query.rows]
    kept_before = np.concatenate(([0], np.cumsum(keep)))
    positions = kept_before[starts + prefixes] - kept_before[starts] - 1
    items = token.numpy().astype(np.int64)
    times = _Lists.of(rows, "token_time").numpy().astype(np.int64)
    tokens = _pad_tokens(
        rows=token.rows[keep],
        offsets=kept_before[token.offsets],
        items=items[keep],
        sides=sides[keep],
        types=_Lists.of(rows, "token_type").numpy().astype(np.int64)[keep],
        times=times[keep],
        values=_Lists.of(rows, "token_value").numpy().astype(np.float32)[keep],
    )
    kept_times = times[keep]
    last = np.maximum(kept_before[starts] + positions, 0)
    since = query_times - (kept_times[last] if len(kept_times) else query_times)
    return Batch(
        **tokens,
        query_rows=torch.from_numpy(query.rows),
        query_positions=torch.from_numpy(positions),
        query_gaps=torch.from_numpy(_log_days(np.where(positions >= 0, since, 0))),
        query_times=torch.from_numpy(query_times.copy()),
        query_items=torch.from_numpy(query.numpy().astype(np.int64)),
        owned=torch.from_numpy(_owned(items, sides, starts, prefixes)),
        features=None if features is None else features.encode(_query_features(rows)),
    )


def padded_lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) to how many places rows of so many tokens are padded where none beside is longer."""
    return np.asarray(-(-np.maximum(counts, 1) // _PAD_TO) * _PAD_TO)


def _pad_tokens(
    *,
    rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
    items: NDArray[np.int64],
    sides: NDArray[np.int64],
    types: NDArray[np.int64],
    times: NDArray[np.int64],
    values: NDArray[np.float32],
) -> dict[str, Tensor]:
    """The token tensors of a batch, padded on the right."""
    shape = (len(offsets) - 1, int(padded_lengths(np.diff(offsets)).max(initial=_PAD_TO)))
    places = (rows, np.arange(len(rows)) - offsets[:-1][rows])
    gaps = np.diff(times, prepend=times[:1])
    gaps[places[1] == 0] = 0
    present = np.isfinite(values)
    known = np.where(present, values, np.float32(0))

    def padded(flat: NDArray[np.generic]) -> Tensor:
        dense = np.zeros((*shape, *flat.shape[1:]), dtype=flat.dtype)
        dense[places] = flat
        return torch.from_numpy(dense)

    return {
        "items": padded(items + 1),
        "sides": padded(sides),
        "types": padded(types + 1),
        "gaps": padded(_log_days(gaps)),
        "values": padded(
            np.stack((np.sign(known) * np.log1p(np.abs(known)), present), axis=1).astype(np.float32)
        ),
    }


def _owned(
    items: NDArray[np.int64],
    sides: NDArray[np.int64],
    starts: NDArray[np.int64],
    prefixes: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(2, M) the target tokens within the prefix of each query: its number, and their items."""
    own = np.flatnonzero(sides == TARGET_SIDE)
    low, high = np.searchsorted(own, starts), np.searchsorted(own, starts + prefixes)
    counts = high - low
    query = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack((query, items[own[low[query] + within]]))


def _query_features(rows: pa.Table) -> pa.Table:
    """(Q rows) the user features of the queries under their own names."""
    names = [name for name in rows.column_names if name.startswith(FEATURE_PREFIX)]
    return pa.table(
        {name.removeprefix(FEATURE_PREFIX): _Lists.of(rows, name).values for name in names}
    )


def _log_days(micros: NDArray[np.int64]) -> NDArray[np.float32]:
    """log(1 + days); a late arrival may stand after a younger event, which counts as no time."""
    return np.log1p(np.maximum(micros, 0) / _DAY_MICROS).astype(np.float32)
