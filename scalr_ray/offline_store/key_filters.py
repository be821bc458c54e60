"""Few entity keys: what a source need not read because nobody asks for it."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.offline_store.entity_rows import is_text
from scalr_ray.offline_store.sources.reading import KeyFilter

# Beyond as many values pyiceberg no longer compares a file's bounds with them, and a list in a SQL
# statement no longer beats a join.
MOST_KEYS = 200
_FIRST_ROWS = 10_000


def key_filters(entities: pa.Table, keys: Mapping[str, str]) -> tuple[KeyFilter, ...]:
    """A filter for each key of which `entities` holds at most `MOST_KEYS` different values.

    Args:
        entities: the entity rows.
        keys: column of the source -> column of `entities`.
    """
    found = {column: _few_values(entities[shown]) for column, shown in keys.items()}
    return tuple(
        KeyFilter(column=column, values=values)
        for column, values in found.items()
        if values is not None
    )


def _few_values(column: pa.ChunkedArray) -> tuple[int, ...] | tuple[str, ...] | None:
    """The different integers or texts of a column, null aside; None if they are many or others."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_null(kind):
        return ()
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or is_text(kind)):
        return None
    # most columns of many keys show it early, and need not be read to their end
    if len(pc.unique(column.slice(0, _FIRST_ROWS))) > MOST_KEYS + 1:
        return None
    values = pc.unique(column).drop_null()
    if len(values) > MOST_KEYS:
        return None
    if pa.types.is_floating(kind):
        try:
            values = values.cast(pa.int64())
        except pa.ArrowInvalid:
            return None
    return tuple(values.to_pylist())
