"""Times of a log, brought to UTC with microseconds; never by guessing a zone.

Accepted are timestamps that carry a zone, dates (their midnight in UTC), and ISO 8601 text that is
all dates or all times with one and the same offset. Text with several offsets is refused: it is the
mark of a log glued together, or of local times across a clock change, and a wrong guess moves
events across the cut.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.clock import to_micros
from scalr_ray.core.duck import duck
from scalr_ray.core.errors import DataError
from scalr_ray.core.events import TIMESTAMP

FIRST_YEAR, LAST_YEAR = 1970, 2100

_MICROS_PER_SECOND = 1_000_000
_TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_END_S = to_micros(datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC)) // _MICROS_PER_SECOND

_ISO = (
    r"^(?P<day>\d{4}-\d{2}-\d{2})"
    r"(?:[Tt ](?P<time>\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)"
    r" ?(?P<zone>Z|z|UTC|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?)?$"
)
_DATE, _NAIVE = "a bare date", "no zone"


def to_event_time(file: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as `timestamp[us, UTC]`; nanoseconds are cut off.

    Null stands for null, and for a time outside the years `FIRST_YEAR` to `LAST_YEAR`.

    Raises:
        DataError: the column is no time, has no zone, mixes zones, or has a text that is no time.
    """
    found = column.type
    if pa.types.is_dictionary(found):
        return to_event_time(file, name, column.cast(found.value_type))
    if pa.types.is_null(found):
        return column.cast(TIMESTAMP)
    if pa.types.is_timestamp(found):
        if found.tz is None:
            raise _no_zone(file, name, f"({found})")
        return _in_range(column.cast(pa.int64()), _TICKS_PER_SECOND[found.unit])
    if pa.types.is_date(found):
        days = column.cast(pa.date32(), safe=False).cast(pa.int32()).cast(pa.int64())
        return _in_range(pc.multiply(days, 86_400), 1)
    if (
        pa.types.is_string(found)
        or pa.types.is_large_string(found)
        or pa.types.is_string_view(found)
    ):
        return _in_range(_parsed(file, name, column.cast(pa.string())), _MICROS_PER_SECOND)
    raise DataError(
        f"{file}: column {name!r} is {found}; write timestamps with a zone, for example with "
        f"pandas.to_datetime(column, unit='s', utc=True) for seconds since 1970"
    )


def first_row(mask: pa.ChunkedArray) -> int:
    """The place of the first true value, or -1."""
    return int(pc.index(mask, pa.scalar(value=True)).as_py())


def _in_range(ticks: pa.ChunkedArray, per_second: int) -> pa.ChunkedArray:
    inside = pc.and_(pc.greater_equal(ticks, 0), pc.less(ticks, _END_S * per_second))
    kept = pc.if_else(inside, ticks, pa.scalar(None, pa.int64()))
    if per_second > _MICROS_PER_SECOND:
        micros = pc.divide(kept, per_second // _MICROS_PER_SECOND)
    else:
        micros = pc.multiply(kept, _MICROS_PER_SECOND // per_second)
    return micros.cast(TIMESTAMP)


def _parsed(file: Path, name: str, texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Microseconds since 1970 in UTC of ISO 8601 texts."""
    parts = pc.extract_regex(texts, _ISO)
    _refuse_unparsed(file, name, texts, parts)
    day, time, zone = (pc.struct_field(parts, part) for part in ("day", "time", "zone"))
    zone = pc.if_else(pc.equal(zone, ""), _NAIVE, zone)
    form = pc.if_else(pc.equal(time, ""), _DATE, zone)
    offset_s = _one_offset_s(file, name, form)
    local = pc.binary_join_element_wise(day, pc.if_else(pc.equal(time, ""), "00:00", time), "T")
    micros = _local_micros(local)
    _refuse_unparsed(file, name, texts, micros)
    return pc.subtract(micros, offset_s * _MICROS_PER_SECOND)


def _refuse_unparsed(
    file: Path, name: str, texts: pa.ChunkedArray, parsed: pa.ChunkedArray
) -> None:
    lost = pc.and_(texts.is_valid(), parsed.is_null())
    row = first_row(lost)
    if row >= 0:
        raise DataError(
            f"{file}: column {name!r} has {texts[row].as_py()!r} in row {row}, which is no "
            "ISO 8601 time; write for example 2026-03-01T00:00:00Z"
        )


def _one_offset_s(file: Path, name: str, form: pa.ChunkedArray) -> int:
    """The offset from UTC, in seconds, that all the times share."""
    examples: dict[str, str] = {}
    for text in pc.unique(form.drop_null()).to_pylist():
        examples.setdefault(_label(text), text)
    rows = {label: pc.index(form, pa.scalar(text)).as_py() for label, text in examples.items()}
    if len(rows) > 1:
        seen = ", ".join(f"{label} in row {row}" for label, row in list(rows.items())[:3])
        raise DataError(f"{file}: column {name!r} mixes zones ({seen}); write all times in UTC")
    if _NAIVE in rows:
        raise _no_zone(file, name, f"from row {rows[_NAIVE]} on")
    label = next(iter(rows), _DATE)
    return 0 if label == _DATE else _seconds(label)


def _label(form: str) -> str:
    """The same text for all spellings of an offset."""
    if form in (_DATE, _NAIVE):
        return form
    digits = form[1:].replace(":", "").ljust(4, "0")
    if form[0] not in "+-" or digits == "0000":
        return "+00:00"
    return f"{form[0]}{digits[:2]}:{digits[2:]}"


def _seconds(label: str) -> int:
    size = int(label[1:3]) * 3600 + int(label[4:6]) * 60
    return -size if label[0] == "-" else size


def _local_micros(local: pa.ChunkedArray) -> pa.ChunkedArray:
    with duck() as session:
        session.register("texts", pa.table({"local": local}))
        query = "SELECT epoch_us(try_cast(local AS TIMESTAMP)) AS micros FROM texts"
        return session.sql(query).to_arrow_table()["micros"]


def _no_zone(file: Path, name: str, where: str) -> DataError:
    return DataError(
        f"{file}: column {name!r} has times without a zone {where}; write them with their zone, "
        "for example with pandas: column.dt.tz_localize('UTC')"
    )
