"""Event logs by somebody who means harm: one line of ours, or an import; never half of one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import NAMES, damaged, examples, names, tried
from hypothesis import given
from hypothesis import strategies as st
from ingest_logs import NOON, SOURCE, TARGET, bytes_below, layout_in, log_file, read, sound_rows

from scalr_ray.core.errors import DataError
from scalr_ray.ingest import import_log, infer_ids
from scalr_ray.ingest.columns import LOG_COLUMNS

ROWS = 6
TYPES = [
    pa.null(),
    pa.bool_(),
    pa.int8(),
    pa.uint64(),
    pa.float16(),
    pa.float64(),
    pa.decimal128(38, 10),
    pa.decimal256(76, 0),
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.binary(4),
    pa.date32(),
    pa.date64(),
    pa.time32("s"),
    pa.duration("us"),
    pa.timestamp("s", "UTC"),
    pa.timestamp("ns", "UTC"),
    pa.timestamp("us"),
    pa.timestamp("us", "Europe/Berlin"),
    pa.list_(pa.string()),
    pa.list_(pa.int64(), 2),
    pa.map_(pa.string(), pa.int64()),
    pa.struct([("a", pa.struct([("b", pa.list_(pa.int32()))]))]),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.timestamp("ms", "UTC")),
]
VALUES: list[object] = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    2**64 - 1,
    -(2**63),
    1e308,
    float("nan"),
    float("-inf"),
    Decimal("9" * 28),
    "",
    "u0",
    SOURCE,
    TARGET,
    "1e309",
    "9999-12-31T23:59:60Z",
    "2026-03-01T12:00:00+23:59",
    "x" * 100_000,
    b"\xff\xfe\x00",
    date(1, 1, 1),
    date(9999, 12, 31),
    NOON,
    NOON + timedelta(days=10**6),
    [1, [2]],
    {"a": {"b": [1]}},
    [("k", 1)],
    *NAMES,
]
columns = st.sampled_from(LOG_COLUMNS) | names


def array_of(kind: pa.DataType, values: list[object]) -> pa.Array:
    """Those of the values that fit, and null for the others."""

    def fits(value: object) -> object:
        try:
            return pa.scalar(value, kind).as_py() if value is not None else None
        except (pa.ArrowException, ValueError, TypeError, OverflowError, KeyError):
            return None

    try:
        return pa.array([fits(value) for value in values], kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.nulls(len(values), kind)


arrays = st.builds(
    array_of,
    st.sampled_from(TYPES),
    st.lists(st.sampled_from(VALUES), min_size=ROWS, max_size=ROWS),
)


def imported(write: Callable[[Path], None], columns: dict[str, str] | None = None) -> object:
    """Import a file beside a sound one; an error leaves every byte as it was."""
    with TemporaryDirectory() as folder:
        layout = layout_in(Path(folder))
        import_log(read(log_file(Path(folder))), layout, source=[SOURCE], target=TARGET)
        file = Path(folder) / "hostile.parquet"
        write(file)
        before = bytes_below(Path(folder))
        tried(lambda: infer_ids(file, columns), DataError)

        def act() -> object:
            log = read(file, columns=columns)
            return import_log(log, layout, source=[SOURCE], target=TARGET)

        got = tried(act, DataError)
        after = bytes_below(Path(folder))
        if isinstance(got, DataError):
            assert after == before
        else:
            assert {name: after[name] for name in before} == before
        assert not [name for name in after if "escaped" in name or name.endswith(".tmp")]
        return got


@examples(25)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes(content: bytes, framed: bool):  # noqa: FBT001
    inside = b"PAR1" + content + len(content).to_bytes(4, "little") + b"PAR1"
    imported(lambda file: file.write_bytes(inside if framed else content) and None)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return log_file(tmp_path_factory.mktemp("sound"), sound_rows(12)).read_bytes()


@examples(40)
@given(data=st.data())
def test_any_damage(sound: bytes, data: st.DataObject):
    content = data.draw(damaged(sound))
    imported(lambda file: file.write_bytes(content) and None)


@examples(50)
@given(
    st.dictionaries(columns, arrays, max_size=4),
    st.sets(st.sampled_from(LOG_COLUMNS), max_size=2),
    st.none() | st.dictionaries(columns, columns, max_size=2),
)
def test_any_columns_among_sound_ones(
    drawn: dict[str, pa.Array], gone: set[str], mapped: dict[str, str] | None
):
    rows = sound_rows(ROWS)
    made = {name: pa.array([row[name] for row in rows]) for name in rows[0] if name not in gone}

    def write(file: Path) -> None:
        pq.write_table(pa.table({**made, **drawn}), file)

    try:
        with TemporaryDirectory() as folder:
            write(Path(folder) / "log.parquet")
    except (pa.ArrowException, NotImplementedError):
        return  # Parquet cannot hold it, so nobody can send it
    imported(write, mapped)


def test_hostile_values_are_text_like_any_other():
    rows = [
        entry | {"user_id": f"{entry['user_id']}{name}", "item_id": name or "i", "event_type": name}
        for name in NAMES
        for entry in sound_rows(4)
    ]
    got = imported(lambda file: log_file(file.parent, rows, name=file.name) and None)
    assert not isinstance(got, DataError)
