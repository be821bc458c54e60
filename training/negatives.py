"""Negatives for real events: drawn as of the time of each event, or given.

A negative has the user and the times of its event, so that it is enriched at the same moment, with
the features of another item.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.errors import DataError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_COLUMNS, EVENT_TIMESTAMP, TIMESTAMP
from scalr_ray.core.keyed import id_keys, keyed_bits, stream_seed
from training.guard import check_clocks
from training.mix import Negatives
from training.selection import Window

NEGATIVE = "negative"

_ATTEMPTS = 8
_GIVEN = ("event_id", "user_id", "item_id", EVENT_TIMESTAMP, AVAILABLE_AT)


def drawn(real: pa.Table, wanted: Negatives) -> pa.Table:
    """Negatives for real events, in their columns; the order of the events does not matter.

    Args:
        real: rows of real events.
        wanted: how many, and how.
    """
    real = real.sort_by([(EVENT_TIMESTAMP, "ascending"), ("event_id", "ascending")])
    chosen, items = _choose(real, wanted)
    event, slot = np.nonzero(chosen >= 0)
    rows = real.take(pa.array(event))
    names = pc.binary_join_element_wise(rows["event_id"], pa.array(slot).cast(pa.string()), "~")
    return _as_negatives(
        rows, {"event_id": names, "item_id": items.take(pa.array(chosen[event, slot]))}
    )


def given(table: pa.Table, like: pa.Table, window: Window) -> pa.Table:
    """Negatives that somebody else has, such as impressions, in the columns of `like`.

    Raises:
        DataError: a column is missing or of another type.
        LeakageError: one of them could not have been known at T.
    """
    if missing := [name for name in _GIVEN if name not in table.column_names]:
        raise DataError(f"the negatives have no column {missing[0]!r}; they need {_GIVEN}")
    columns = {
        name: table[name] if name in table.column_names else pa.nulls(table.num_rows)
        for name in EVENT_COLUMNS
    }
    others = {
        field.name: pa.nulls(table.num_rows) for field in like.schema if field.name not in columns
    }
    others["is_synthetic"] = pa.repeat(pa.scalar(value=False), table.num_rows)
    others["sample_weight"] = pa.repeat(1.0, table.num_rows)
    try:
        rows = pa.table(columns | others).select(like.column_names).cast(like.schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"the negatives do not fit real events: {error}") from error
    rows = _as_negatives(rows, {})
    check_clocks(rows, window.as_of)
    return window.inside(rows)


def _as_negatives(rows: pa.Table, changes: dict[str, pa.Array]) -> pa.Table:
    count = rows.num_rows
    changes = {
        "event_type": pa.repeat(NEGATIVE, count),
        "value": pa.nulls(count, pa.float64()),
        "label": pa.repeat(0.0, count),
        **changes,
    }
    for name, values in changes.items():
        field = rows.schema.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, values.cast(field.type))
    return rows


def _choose(real: pa.Table, wanted: Negatives) -> tuple[NDArray[np.int64], pa.Array]:
    """(N, K) places of items, -1 where none was found; and the items."""
    users, _ = _coded(real["user_id"])
    codes, items = _coded(real["item_id"])
    times = _micros(real[EVENT_TIMESTAMP])
    # Visible at t: event_timestamp < t and available_at <= t, both at once from then on.
    appears = np.maximum(times + 1, _micros(real[AVAILABLE_AT]))
    order = np.argsort(appears, kind="stable")
    pool, since = codes[order], appears[order]
    if wanted.by == "uniform":
        _, first = np.unique(pool, return_index=True)
        first.sort()
        pool, since = pool[first], since[first]
    visible = np.searchsorted(since, times, side="right").astype(np.uint64)
    taken = _Taken(users, codes, appears, len(items))
    keys = id_keys(real["event_id"].combine_chunks())
    seed = stream_seed("sampled negatives", wanted.seed)
    chosen = np.full((len(codes), wanted.per_event), -1, dtype=np.int64)
    for slot in range(wanted.per_event):
        open_ = np.flatnonzero(visible)
        for attempt in range(_ATTEMPTS):
            if not len(open_):
                break
            bits = keyed_bits(seed, keys[open_], slot * _ATTEMPTS + attempt)
            item = pool[(bits % visible[open_]).astype(np.int64)]
            refused = taken.by(users[open_], item, times[open_]) | (item == codes[open_])
            refused |= (chosen[open_, :slot] == item[:, None]).any(axis=1)
            chosen[open_[~refused], slot] = item[~refused]
            open_ = open_[refused]
    return chosen, items


class _Taken:
    """From when on it is known that a user took an item."""

    def __init__(
        self,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        appears: NDArray[np.int64],
        item_count: int,
    ) -> None:
        self._item_count = item_count
        pairs = users * item_count + items
        order = np.lexsort((appears, pairs))
        self._pairs, first = np.unique(pairs[order], return_index=True)
        self._since = appears[order][first]

    def by(
        self, users: NDArray[np.int64], items: NDArray[np.int64], times: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether the user had taken the item, as known at the time."""
        pairs = users * self._item_count + items
        place = np.searchsorted(self._pairs, pairs).clip(max=max(len(self._pairs) - 1, 0))
        return np.asarray((self._pairs[place] == pairs) & (self._since[place] <= times))


def _coded(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    coded = column.combine_chunks().dictionary_encode()
    return coded.indices.to_numpy().astype(np.int64), coded.dictionary


def _micros(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(column.cast(TIMESTAMP).cast(pa.int64()))
