"""Every way a file can be unfit: one clear line, and a data folder that nobody touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_logs import (
    NOON,
    SOURCE,
    TARGET,
    bytes_below,
    layout_in,
    log_file,
    read,
    row,
    sound_rows,
    strings,
    table_of,
)

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError
from scalr_ray.ingest import import_log, infer_ids

Write = Callable[[Path], Path]


@dataclass(frozen=True)
class Bad:
    """A file that is refused, and what the line about it must name."""

    write: Write
    names: tuple[str, ...]
    asked: dict[str, Any] = field(default_factory=dict)


def rows_with(*changed: dict[str, object], types: dict[str, pa.DataType] | None = None) -> Write:
    """Sound rows, of which those from row 3 on are changed."""
    rows = sound_rows()
    for place, changes in enumerate(changed, start=3):
        rows[place] = rows[place] | changes
    return lambda folder: log_file(folder, rows, types)


def with_column(name: str, values: list[object] | pa.Array) -> Write:
    """Sound rows, with another column of that name."""

    def write(folder: Path) -> Path:
        table = table_of(sound_rows(len(values)))
        if name in table.column_names:
            table = table.drop_columns(name)
        column = values if isinstance(values, pa.Array) else pa.array(values)
        file = folder / "log.parquet"
        pq.write_table(table.append_column(name, column), file)
        return file

    return write


def without(name: str) -> Write:
    def write(folder: Path) -> Path:
        file = folder / "log.parquet"
        pq.write_table(table_of(sound_rows()).drop_columns(name), file)
        return file

    return write


def text_times(*texts: str | None) -> Write:
    return with_column("event_timestamp", [texts[slot % len(texts)] for slot in range(6)])


def broken(keep: slice) -> Write:
    def write(folder: Path) -> Path:
        file = log_file(folder)
        file.write_bytes(file.read_bytes()[keep])
        return file

    return write


def scrambled(folder: Path) -> Path:
    """A sound footer over damaged pages."""
    file = log_file(folder)
    content = bytearray(file.read_bytes())
    content[4:400] = bytes(396)
    file.write_bytes(bytes(content))
    return file


def no_text(folder: Path) -> Path:
    """A column that calls itself text and is not UTF-8."""
    raw = pa.array([b"\xff\xfe"] * 6, pa.binary())
    return with_column("user_id", pa.Array.from_buffers(pa.string(), 6, raw.buffers()))(folder)


def twice_the_same_name(folder: Path) -> Path:
    table = table_of(sound_rows())
    file = folder / "log.parquet"
    pq.write_table(table.append_column("user_id", table["user_id"]), file)
    return file


def in_other_words(text: str) -> Write:
    def write(folder: Path) -> Path:
        file = folder / "log.parquet"
        file.write_text(text)
        return file

    return write


def no_rows(folder: Path) -> Path:
    file = folder / "log.parquet"
    pq.write_table(table_of(sound_rows()).slice(0, 0), file)
    return file


def folder_of_files(folder: Path) -> Path:
    (folder / "log.parquet").mkdir()
    return folder / "log.parquet"


NAIVE = pa.timestamp("us")
NAIVE_NOON = NOON.replace(tzinfo=None)

BAD = {
    "missing_file": Bad(lambda folder: folder / "log.parquet", ("is not there",)),
    "folder": Bad(folder_of_files, ("is a folder",)),
    "empty_file": Bad(in_other_words(""), ("Parquet",)),
    "csv": Bad(in_other_words("user_id,item_id\n1,2\n"), ("Parquet",)),
    "cut_short": Bad(broken(slice(0, -20)), ("Parquet",)),
    "damaged_pages": Bad(scrambled, ("Parquet",)),
    "not_utf8": Bad(no_text, ("Parquet",)),
    "no_rows": Bad(no_rows, ("no rows",)),
    "no_user_id": Bad(without("user_id"), ("'user_id' is missing", "'item_id', 'domain'")),
    "no_item_id": Bad(without("item_id"), ("'item_id' is missing", "--columns item_id=")),
    "no_domain": Bad(without("domain"), ("'domain' is missing",)),
    "no_event_timestamp": Bad(without("event_timestamp"), ("'event_timestamp' is missing",)),
    "mapped_but_missing": Bad(
        rows_with(), ("'stars' is missing", "user_id"), {"columns": {"value": "stars"}}
    ),
    "unknown_mapping": Bad(rows_with(), ("'user'", "user_id"), {"columns": {"user": "user_id"}}),
    "column_twice": Bad(twice_the_same_name, ("'user_id'", "2 times")),
    "float_user": Bad(with_column("user_id", [1.0, 2.0] * 3), ("'user_id'", "double")),
    "list_item": Bad(with_column("item_id", [[1], [2]] * 3), ("'item_id'", "list")),
    "bytes_user": Bad(with_column("user_id", [b"a", b"b"] * 3), ("'user_id'", "binary")),
    "bool_user": Bad(with_column("user_id", [True, False] * 3), ("'user_id'", "bool")),
    "float_categories": Bad(
        with_column("item_id", pa.array([1.5, 2.5] * 3).dictionary_encode()), ("'item_id'",)
    ),
    "integer_domain": Bad(with_column("domain", [1, 2] * 3), ("'domain'", "int64", "text")),
    "integer_type": Bad(with_column("event_type", [1, 2] * 3), ("'event_type'", "int64")),
    "text_value": Bad(with_column("value", ["1", "2"] * 3), ("'value'", "string", "number")),
    "bool_value": Bad(with_column("value", [True, False] * 3), ("'value'", "bool")),
    "user_beyond_int64": Bad(
        with_column("user_id", pa.array([1, 1, 2**63, 2**64 - 1], pa.uint64())),
        ("'user_id'", "row 2", "int64"),
    ),
    "strings_for_integers": Bad(
        rows_with(),
        ("'user_id'", "ids.user_id is int64", "set ids.user_id: string"),
        {"ids": IdTypes(user_id="int64", item_id="string")},
    ),
    "integers_for_strings": Bad(
        with_column("item_id", [1, 2] * 3),
        ("'item_id'", "ids.item_id is string", "set ids.item_id: int64"),
        {"ids": strings()},
    ),
    "null_user": Bad(
        rows_with({"user_id": None}, {}, {"user_id": None}), ("'user_id'", "2 of 8", "row 3")
    ),
    "null_item": Bad(rows_with({"item_id": None}), ("'item_id'", "1 of 8", "row 3")),
    "null_domain": Bad(rows_with({"domain": None}), ("'domain'", "1 of 8", "row 3")),
    "null_time": Bad(
        rows_with({"event_timestamp": None}), ("'event_timestamp'", "1 of 8", "row 3")
    ),
    "all_null_user": Bad(with_column("user_id", [None] * 6), ("'user_id'", "6 of 6", "row 0")),
    "naive_time": Bad(
        with_column("event_timestamp", pa.array([NAIVE_NOON] * 6, NAIVE)),
        ("'event_timestamp'", "without a zone"),
    ),
    "naive_available_at": Bad(
        with_column("available_at", pa.array([NAIVE_NOON] * 6, NAIVE)),
        ("'available_at'", "without a zone"),
    ),
    "integer_time": Bad(
        with_column("event_timestamp", [1_772_366_400] * 6), ("'event_timestamp'", "int64", "unit")
    ),
    "float_time": Bad(with_column("event_timestamp", [1.7e9] * 6), ("'event_timestamp'",)),
    "time_of_day": Bad(
        with_column("event_timestamp", pa.array([1] * 6, pa.time64("us"))), ("'event_timestamp'",)
    ),
    "naive_text": Bad(
        text_times("2026-03-01T12:00:00"), ("'event_timestamp'", "without a zone", "row 0")
    ),
    "some_without_zone": Bad(
        text_times("2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z", "2026-03-01 13:00"),
        ("mixes zones", "+00:00 in row 0", "no zone in row 2"),
    ),
    "different_offsets": Bad(
        text_times("2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"),
        ("mixes zones", "+01:00 in row 0", "+02:00 in row 1"),
    ),
    "dates_and_times": Bad(
        text_times("2026-03-01", "2026-03-01T12:00:00Z"), ("mixes zones", "a bare date in row 0")
    ),
    "no_time_text": Bad(
        text_times("2026-03-01T12:00:00Z", "yesterday"), ("'yesterday'", "row 1", "ISO 8601")
    ),
    "no_such_day": Bad(
        text_times("2026-02-28T12:00:00Z", "2026-02-30T12:00:00Z"), ("2026-02-30", "row 1")
    ),
    "no_such_minute": Bad(
        text_times("2026-02-28T12:00:00Z", "2026-02-28T12:61:00Z"), ("12:61", "row 1")
    ),
    "text_of_many_lines": Bad(text_times("2026-02-28\nT12:00:00Z"), ("'event_timestamp'", "row 0")),
    "mixed_available_at": Bad(
        with_column("available_at", ["2026-03-09T12:00Z", "2026-03-09T12:00+01:00"] * 3),
        ("'available_at'", "mixes zones"),
    ),
    "unknown_source": Bad(rows_with(), ("'music'", "'books', 'films'"), {"source": ["music"]}),
    "unknown_target": Bad(rows_with(), ("'music'", "'books', 'films'"), {"target": "music"}),
    "hostile_domain": Bad(rows_with(), ("x\\n' OR 1=1",), {"target": "x\n' OR 1=1"}),
    "no_overlap": Bad(
        lambda folder: log_file(
            folder, [entry | {"user_id": str(entry["domain"])} for entry in sound_rows()]
        ),
        ("no user_id", SOURCE, TARGET),
    ),
    "overlap_only_in_malformed_rows": Bad(
        lambda folder: log_file(
            folder,
            [
                row(0),
                row(1, user_id="other"),
                row(3, user_id="u0", available_at=NOON - timedelta(days=9)),
            ],
        ),
        ("no user_id",),
    ),
    "only_malformed_rows": Bad(
        lambda folder: log_file(
            folder, [row(0), row(1, item_id=""), row(3, item_id="", user_id="u0")]
        ),
        ("'films'", "malformed"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gets_one_line_and_leaves_the_data_folder_alone(case: str, tmp_path: Path):
    bad = BAD[case]
    layout = layout_in(tmp_path)
    before_folder = tmp_path / "before"
    before_folder.mkdir()
    import_log(read(log_file(before_folder)), layout, source=[SOURCE], target=TARGET)
    before = bytes_below(layout.data)
    file = bad.write(tmp_path)
    with pytest.raises(DataError) as caught:
        read(file, **bad.asked)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    for part in bad.names:
        assert part in caught.value.message
    assert bytes_below(layout.data) == before


@pytest.mark.parametrize("case", ["missing_file", "folder", "csv", "no_user_id", "float_user"])
def test_inferring_the_ids_of_a_bad_file_gets_one_line(case: str, tmp_path: Path):
    with pytest.raises(DataError) as caught:
        infer_ids(BAD[case].write(tmp_path))
    assert "\n" not in str(caught.value)
    for part in BAD[case].names:
        assert part in caught.value.message


def test_a_wide_file_with_a_missing_column_still_gets_a_short_line(tmp_path: Path):
    wide = {f"feature_{number}": [1.0] for number in range(5000)}
    pq.write_table(pa.table(wide), tmp_path / "wide.parquet")
    with pytest.raises(DataError, match="'user_id' is missing") as caught:
        read(tmp_path / "wide.parquet")
    assert len(str(caught.value)) < 600
