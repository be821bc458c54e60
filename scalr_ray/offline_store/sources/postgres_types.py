"""How a column of PostgreSQL is read, and how a bound on it is written.

| in PostgreSQL                                       | as                                        |
|-----------------------------------------------------|-------------------------------------------|
| smallint, integer, bigint, real, double, bool, text | the same                                  |
| timestamptz, timestamp, date, bytea                 | the same, in microseconds; naive is UTC   |
| numeric(p, 0) of up to 18 digits                    | int64, since such columns are keys        |
| other numeric                                       | double                                    |
| uuid, json, enums and everything else               | text                                      |

and arrays as lists of these. Lists have one dimension: an array of more is read as one long list.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.duck import quote_name, quote_text
from scalr_ray.offline_store.sources.reading import KeyFilter, TimeBound

_AS_IS = frozenset(
    [
        "bool",
        "bytea",
        "date",
        "float4",
        "float8",
        "int2",
        "int4",
        "int8",
        "text",
        "timestamp",
        "timestamptz",
        "varchar",
    ]
)
_INTEGERS = frozenset(("int2", "int4", "int8"))
_TEXTS = frozenset(("text", "varchar"))
_TIME_KINDS = {"timestamptz": "TIMESTAMPTZ", "timestamp": "TIMESTAMP", "date": "DATE"}
_FEAST_TYPES = {
    "bool": "boolean",
    "binary": "bytea",
    "date32[day]": "date",
    "double": "double precision",
    "float": "real",
    "int16": "smallint",
    "int32": "integer",
    "int64": "bigint",
    "string": "text",
}
# PostgreSQL's own first day, 4713 BC: what the driver gives for an infinite time lies before it.
_FIRST_DAY = -2_440_588 - 366
_DAY_US = 86_400_000_000


def has_infinite_time(column: pa.Array) -> bool:
    """Whether a time in `column` is PostgreSQL's `infinity` or `-infinity`."""
    if pa.types.is_list(column.type):
        return has_infinite_time(column.flatten())
    if pa.types.is_timestamp(column.type):
        first: int | None = pc.min(column.cast(pa.int64())).as_py()
        return first is not None and first < _FIRST_DAY * _DAY_US
    if pa.types.is_date(column.type):
        first = pc.min(column.cast(pa.int32())).as_py()
        return first is not None and first < _FIRST_DAY
    return False


def _type_name(column: pa.Field) -> str:
    """PostgreSQL's name of the type of a column, or of the elements of an array."""
    name = str(column.metadata[b"POSTGRESQL:type"].decode())
    return name.removeprefix("_") if pa.types.is_list(column.type) else name


def time_kind(column: pa.Field) -> str:
    """The type of a column as `check_columns` wants it: times as DuckDB calls them."""
    name = str(column.metadata[b"POSTGRESQL:type"].decode())
    return _TIME_KINDS.get(name, name)


def column_sql(column: pa.Field) -> str:
    """A column, as SQL, in the type that it is read as."""
    name = _type_name(column)
    if name in _AS_IS:
        return quote_name(column.name)
    array = "[]" if pa.types.is_list(column.type) else ""
    number = "int8" if _is_whole(column) else "float8"
    return f"{quote_name(column.name)}::{number if name == 'numeric' else 'text'}{array}"


def _is_whole(column: pa.Field) -> bool:
    """Whether a numeric is declared without decimals and fits into 64 bits."""
    modifier = int(column.metadata.get(b"POSTGRESQL:typmod", b"-1"))
    digits, scale = divmod(modifier - 4, 1 << 16)
    return modifier >= 4 and digits <= 18 and scale == 0


def bound_sql(bound: TimeBound, column: pa.Field) -> str:
    """A predicate that an index on the column can answer; no zone of the session enters it."""
    zoned = _type_name(column) == "timestamptz"
    ends = ((">=", bound.since), ("<=", bound.until))
    name = quote_name(bound.column)
    parts = [f"{name} {sign} {_time_sql(end, zoned=zoned)}" for sign, end in ends if end]
    return " AND ".join(parts) or "true"


def key_sql(keys: KeyFilter, column: pa.Field) -> str:
    """A predicate that an index on the column can answer; true where the kinds do not agree."""
    kind = _type_name(column)
    if not keys.values:
        return "false"
    if kind in _INTEGERS and all(isinstance(value, int) for value in keys.values):
        listed = [str(value) for value in keys.values]
    elif kind in _TEXTS and all(isinstance(value, str) for value in keys.values):
        # PostgreSQL keeps no NUL in a text, so that such a value can equal nothing there
        listed = [quote_text(str(value).replace("\0", "")) for value in keys.values]
    else:
        return "true"
    return f"{quote_name(keys.column)} IN ({', '.join(listed)})"


def feast_columns(schema: pa.Schema) -> list[tuple[str, str]]:
    """Columns with their types as Feast's inference names those of PostgreSQL."""
    return [(column.name, _feast_type(column.type)) for column in schema]


def _feast_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_feast_type(kind.value_type)}[]"
    if pa.types.is_timestamp(kind):
        return f"timestamp {'with' if kind.tz else 'without'} time zone"
    return _FEAST_TYPES[str(kind)]


def _time_sql(moment: datetime, *, zoned: bool) -> str:
    utc = moment.astimezone(UTC)
    if zoned:
        return f"{quote_text(utc.isoformat())}::timestamptz"
    return f"{quote_text(utc.replace(tzinfo=None).isoformat())}::timestamp"
