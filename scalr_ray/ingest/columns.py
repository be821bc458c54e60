"""The columns of a log: found by name, checked by type, brought to the types of an event.

Everything here judges a column as a whole; what is wrong with it is wrong with the file, and ends
in a `DataError`. Rows that are wrong one by one are `log.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP, IdType, arrow_id_type
from scalr_ray.ingest.times import first_row, to_event_time

REQUIRED = ("user_id", "item_id", "domain", EVENT_TIMESTAMP)
OPTIONAL = ("event_type", AVAILABLE_AT, "value")
LOG_COLUMNS = (*REQUIRED, *OPTIONAL)

DEFAULT_EVENT_TYPE = "interaction"

_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)


def read_columns(file: Path, names: Mapping[str, str]) -> pa.Table:
    """The columns of a log under our names, with the types and the row order of the file.

    Args:
        file: the Parquet file.
        names: our name to the file's name, where they differ.

    Raises:
        DataError: there is no such file, it is no readable Parquet, a column is missing, or a
            required one has nulls.
    """
    there = _schema(file)
    wanted = _wanted(file, names, there)
    try:
        table = pq.read_table(file, columns=list(dict.fromkeys(wanted.values())), partitioning=None)
        table.validate(full=True)
    except _DAMAGE as error:
        raise _unreadable(file, error) from error
    for ours in REQUIRED:
        _refuse_nulls(file, wanted[ours], table[wanted[ours]])
    return pa.table({ours: table[theirs] for ours, theirs in wanted.items()})


def infer_ids(file: Path, columns: Mapping[str, str] | None = None) -> IdTypes:
    """The id types a log suggests: `int64` for integer columns, `string` for text.

    Args:
        file: the Parquet file.
        columns: our name to the file's name, where they differ.

    Raises:
        DataError: there is no such file, it is no Parquet, or an id column is missing or of another
            type.
    """
    there = _schema(file)
    wanted = _wanted(file, columns or {}, there)
    user_id, item_id = (
        _id_type(file, wanted[ours], there.field(wanted[ours]).type)
        for ours in ("user_id", "item_id")
    )
    return IdTypes(user_id=user_id, item_id=item_id)


def event_columns(
    file: Path, raw: pa.Table, ids: IdTypes, names: Mapping[str, str]
) -> dict[str, pa.ChunkedArray]:
    """The columns of `read_columns` in the types of an event.

    In the time columns, null stands for null and for a time outside the years an event may have.

    Raises:
        DataError: a column has a wrong type, or times without one clear zone.
    """
    makers: dict[str, Callable[[Path, str, pa.ChunkedArray], pa.ChunkedArray]] = {
        "user_id": partial(_ids, key="user_id", wanted=ids.user_id),
        "item_id": partial(_ids, key="item_id", wanted=ids.item_id),
        "domain": _text,
        "event_type": _text,
        "value": _number,
        EVENT_TIMESTAMP: to_event_time,
        AVAILABLE_AT: to_event_time,
    }
    return {ours: makers[ours](file, names.get(ours, ours), raw[ours]) for ours in raw.column_names}


def shorten(names: Sequence[str]) -> str:
    """Names for a message of one line: the first twenty of them."""
    more = " and more" if len(names) > 20 else ""
    return ", ".join(repr(name) for name in names[:20]) + more


def _schema(file: Path) -> pa.Schema:
    if file.is_dir():
        raise DataError(f"{file} is a folder; name one Parquet file")
    if not file.exists():
        raise DataError(f"{file} is not there; check the path of the event log")
    try:
        schema = pq.read_schema(file)
        schema.names  # noqa: B018 - decodes the names, which may be damaged
    except _DAMAGE as error:
        raise _unreadable(file, error) from error
    return schema


def _unreadable(file: Path, error: Exception) -> DataError:
    why = " ".join(str(error).split())
    return DataError(f"{file} cannot be read as Parquet; write it anew ({why})")


def _wanted(file: Path, names: Mapping[str, str], there: pa.Schema) -> dict[str, str]:
    unknown = sorted(set(names) - set(LOG_COLUMNS))
    if unknown:
        raise DataError(f"--columns maps {unknown[0]!r}; a log has {', '.join(LOG_COLUMNS)}")
    wanted = {}
    for ours in LOG_COLUMNS:
        theirs = names.get(ours, ours)
        places = there.get_all_field_indices(theirs)
        if len(places) > 1:
            raise DataError(f"{file}: column {theirs!r} is there {len(places)} times; rename one")
        if places:
            wanted[ours] = theirs
        elif ours in REQUIRED or ours in names:
            raise DataError(
                f"{file}: column {theirs!r} is missing (there are {shorten(there.names)}); "
                f"rename one, or map it with --columns {ours}=NAME"
            )
    return wanted


def _refuse_nulls(file: Path, name: str, column: pa.ChunkedArray) -> None:
    if column.null_count:
        raise DataError(
            f"{file}: column {name!r} is null in {column.null_count} of {len(column)} rows, first "
            f"in row {first_row(column.is_null())}; fill them or drop these rows"
        )


def _id_type(file: Path, name: str, found: pa.DataType) -> IdType:
    plain = found.value_type if pa.types.is_dictionary(found) else found
    if pa.types.is_integer(plain):
        return "int64"
    if _is_text(plain):
        return "string"
    raise DataError(f"{file}: column {name!r} is {found}; ids are integers or text, so cast it")


def _ids(
    file: Path, name: str, column: pa.ChunkedArray, *, key: str, wanted: IdType
) -> pa.ChunkedArray:
    found = _id_type(file, name, column.type)
    if found != wanted:
        raise DataError(
            f"{file}: column {name!r} is {column.type}, but ids.{key} is {wanted}; "
            f"set ids.{key}: {found} in scalr.yaml, or cast the column"
        )
    plain = _decoded(column)
    if pa.types.is_uint64(plain.type):
        _refuse_overflow(file, name, plain)
    return plain.cast(arrow_id_type(wanted))


def _refuse_overflow(file: Path, name: str, column: pa.ChunkedArray) -> None:
    row = first_row(pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())))
    if row >= 0:
        raise DataError(
            f"{file}: column {name!r} does not fit into int64, first in row {row}; cast it to text"
        )


def _text(file: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    plain = _decoded(column)
    if not (_is_text(plain.type) or pa.types.is_null(plain.type)):
        raise DataError(f"{file}: column {name!r} is {column.type}; it must be text, so cast it")
    return plain.cast(pa.string())


def _number(file: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    found = column.type
    if not (
        pa.types.is_integer(found)
        or pa.types.is_floating(found)
        or pa.types.is_decimal(found)
        or pa.types.is_null(found)
    ):
        raise DataError(f"{file}: column {name!r} is {found}; it must be a number, so cast it")
    return column.cast(pa.float64(), safe=False)  # beyond 2**53 an integer is rounded


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(found: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(found)
        or pa.types.is_large_string(found)
        or pa.types.is_string_view(found)
    )
