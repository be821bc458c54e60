"""Entity rows: what the caller of `get_historical_features` wants features for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import EVENT_TIMESTAMP, TIMESTAMP


def read_entities(entity_df: Any) -> pa.Table:  # noqa: ANN401 - checked here
    """Return the entity rows as an Arrow table whose time column is timestamp[us, UTC].

    A time without a zone is taken as UTC, as Feast does. Everything finer than a microsecond is cut
    off.

    Raises:
        UsageError: it is SQL or of an unknown kind.
        DataError: a column mixes types or is there twice, or there is no usable time column.
    """
    if isinstance(entity_df, str):
        raise UsageError(
            "entity_df is SQL, but the sources are files; pass a pandas DataFrame or an Arrow table"
        )
    if isinstance(entity_df, pd.DataFrame):
        try:
            table = pa.Table.from_pandas(entity_df, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(f"entity_df cannot be turned into columns: {error}") from error
    elif isinstance(entity_df, pa.Table):
        table = entity_df
    else:
        raise UsageError(
            f"entity_df is a {type(entity_df).__name__}; pass a pandas DataFrame or an Arrow table"
        )
    table = table.replace_schema_metadata(None)
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"entity_df has the column(s) {', '.join(twice)} twice; rename one")
    name = time_column(table.schema)
    kind = table.schema.field(name).type
    if not table.num_rows:
        kind = pa.null()  # pandas takes a column without values for one of floats
        table = table.set_column(names.index(name), name, pa.nulls(0))
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind)):
        raise DataError(f"entity_df: {name!r} is {kind}, not a timestamp; convert it first")
    times = table[name].cast(TIMESTAMP, safe=False)
    return table.set_column(table.column_names.index(name), name, times)


def time_column(schema: pa.Schema) -> str:
    """The name of the column that holds t: `event_timestamp`, or the only timestamp there is.

    Raises:
        DataError: there is none, or there are several.
    """
    if EVENT_TIMESTAMP in schema.names:
        return EVENT_TIMESTAMP
    found: list[str] = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    if len(found) != 1:
        raise DataError(
            f"entity_df needs one timestamp column named {EVENT_TIMESTAMP!r}; "
            f"it has {', '.join(schema.names) or 'no columns'}"
        )
    return found[0]


def time_range(times: pa.ChunkedArray) -> tuple[Any, Any]:
    """The earliest and the latest t as datetimes in UTC; None where there is none."""
    ends = pc.min_max(times).as_py()
    return ends["min"], ends["max"]


def key_columns(
    entities: pa.Table, names: Sequence[str], kinds: Sequence[pa.DataType], view: str
) -> list[pa.ChunkedArray]:
    """The entity key columns, in the types that the feature rows of `view` use.

    Numbers are converted when that loses nothing (pandas turns integers with a null into floats).

    Raises:
        DataError: a column is missing, or is text where the view has numbers or the reverse.
    """
    if missing := [name for name in names if name not in entities.column_names]:
        raise DataError(
            f"entity_df lacks the key column(s) {', '.join(missing)} of feature view {view!r}"
        )
    return [
        _as_key(entities[name], kind, name, view) for name, kind in zip(names, kinds, strict=True)
    ]


def _as_key(column: pa.ChunkedArray, kind: pa.DataType, name: str, view: str) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    given = column.type
    if pa.types.is_null(given) or not len(column):
        return pa.chunked_array([pa.nulls(len(column), kind)])
    wrong = f"entity_df: {name!r} is {given}, but feature view {view!r} keys it as {kind}"
    if is_text(given) != is_text(kind) or pa.types.is_nested(given) != pa.types.is_nested(kind):
        raise DataError(f"{wrong}; convert it first")
    if pa.types.is_floating(given) and pa.types.is_integer(kind):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(f"{wrong}, and {error}; convert it first") from error
    return column


def is_text(kind: pa.DataType) -> bool:
    """Whether keys of this type are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
