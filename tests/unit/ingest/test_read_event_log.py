from __future__ import annotations

import hashlib
import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_logs import (
    NOON,
    SOURCE,
    TARGET,
    bytes_below,
    log_file,
    read,
    row,
    sound_rows,
    strings,
    table_of,
)

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError
from scalr_ray.core.events import event_schema
from scalr_ray.core.fingerprint import file_fingerprint
from scalr_ray.ingest import infer_ids
from scalr_ray.ingest.log import DUPLICATE, SYNTHETIC

LATER = NOON + timedelta(days=40)


def times_of(folder: Path, column: pa.Array) -> list[datetime]:
    """What the event times of a file with this column are read as, in the order of the file."""
    rows = sound_rows(len(column))
    table = table_of(rows).drop_columns("event_timestamp").append_column("event_timestamp", column)
    pq.write_table(table, folder / "times.parquet")
    events = read(folder / "times.parquet").events.to_pylist()
    by_item = {event["item_id"]: event["event_timestamp"] for event in events}
    return [by_item[entry["item_id"]] for entry in rows]


def reasons(folder: Path, *bad: dict[str, object]) -> dict[int, str]:
    """Why rows were set aside, by their place after eight sound rows."""
    log = read(log_file(folder, [*sound_rows(), *bad]))
    assert log.events.num_rows + log.refused.num_rows == 8 + len(bad)
    return {entry["row"] - 8: entry["reason"] for entry in log.refused.to_pylist()}


def test_a_log_has_the_event_schema_and_is_sorted(tmp_path: Path):
    file = log_file(tmp_path, sound_rows()[::-1])
    log = read(file)
    assert log.events.schema.equals(event_schema("string", "string"))
    order = [(event["event_timestamp"], event["event_id"]) for event in log.events.to_pylist()]
    assert order == sorted(order)
    assert (log.rows_read, log.rows_other_domains, log.refused.num_rows) == (8, 0, 0)
    assert log.fingerprint == file_fingerprint(file)


def test_optional_columns_have_defaults(tmp_path: Path):
    for event in read(log_file(tmp_path)).events.to_pylist():
        assert event["event_type"] == "interaction"
        assert event["available_at"] == event["event_timestamp"]
        assert event["value"] is None


def test_nulls_in_optional_columns_take_the_defaults(tmp_path: Path):
    given = {"event_type": "buy", "available_at": LATER, "value": 2.5}
    rows = [row(0, **given), *sound_rows()[1:]]
    first, second, *_ = read(log_file(tmp_path, rows)).events.to_pylist()
    assert {name: first[name] for name in given} == given
    assert second["event_type"] == "interaction"
    assert second["available_at"] == second["event_timestamp"]
    assert second["value"] is None


def test_an_optional_column_may_be_wholly_null(tmp_path: Path):
    types = dict.fromkeys(("event_type", "available_at", "value"), pa.null())
    rows = [entry | dict.fromkeys(types) for entry in sound_rows()]
    assert read(log_file(tmp_path, rows, types)).events == read(log_file(tmp_path)).events


def test_other_columns_are_ignored_and_other_names_are_mapped(tmp_path: Path):
    plain = read(log_file(tmp_path)).events
    names = {"user_id": "who", "event_timestamp": "when", "domain": "shop.name"}
    table = table_of(sound_rows())
    table = table.rename_columns([names.get(name, name) for name in table.column_names])
    extra = table.append_column("nested", pa.array([{"a": [1]}] * 8))
    pq.write_table(extra, tmp_path / "mapped.parquet")
    assert read(tmp_path / "mapped.parquet", columns=names).events == plain
    assert infer_ids(tmp_path / "mapped.parquet", names) == strings()


def test_a_message_names_the_column_as_the_file_does(tmp_path: Path):
    table = table_of(sound_rows()).rename_columns(["who", "item_id", "domain", "event_timestamp"])
    pq.write_table(table, tmp_path / "mapped.parquet")
    with pytest.raises(DataError, match=r"'who' is string, .*ids\.user_id"):
        read(
            tmp_path / "mapped.parquet",
            columns={"user_id": "who"},
            ids=IdTypes(user_id="int64", item_id="string"),
        )


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (pa.int8(), "int64"),
        (pa.int32(), "int64"),
        (pa.int64(), "int64"),
        (pa.uint16(), "int64"),
        (pa.uint64(), "int64"),
        (pa.string(), "string"),
        (pa.large_string(), "string"),
        (pa.string_view(), "string"),
        (pa.dictionary(pa.int32(), pa.string()), "string"),
        (pa.dictionary(pa.int8(), pa.int32()), "int64"),
    ],
)
def test_ids_are_integers_or_text_of_any_kind(tmp_path: Path, found: pa.DataType, wanted: str):
    numbers = pa.array([slot % 3 for slot in range(8)])
    users = numbers.cast(pa.string() if wanted == "string" else pa.int64())
    if pa.types.is_dictionary(found):
        users = users.cast(found.value_type).dictionary_encode()
    table = table_of(sound_rows()).drop_columns("user_id")
    pq.write_table(table.append_column("user_id", users.cast(found)), tmp_path / "log.parquet")
    log = read(tmp_path / "log.parquet")
    assert infer_ids(tmp_path / "log.parquet").user_id == wanted
    assert log.events.schema.equals(event_schema(wanted, "string"))
    same = {"0", "1", "2"} if wanted == "string" else {0, 1, 2}
    assert set(log.events["user_id"].to_pylist()) == same


def test_categories_serve_for_domain_type_and_time(tmp_path: Path):
    plain = read(log_file(tmp_path)).events
    texts = [f"{entry['event_timestamp']:%Y-%m-%dT%H:%M:%S}Z" for entry in sound_rows()]
    table = table_of(sound_rows())
    columns = {
        "user_id": table["user_id"],
        "item_id": table["item_id"],
        "domain": table["domain"].dictionary_encode(),
        "event_type": pa.array(["interaction"] * 8).dictionary_encode(),
        "event_timestamp": pa.array(texts).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "categories.parquet")
    assert read(tmp_path / "categories.parquet").events == plain


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "+05:30"])
def test_timestamps_of_any_unit_and_zone_become_utc(tmp_path: Path, unit: str, zone: str):
    column = pa.array([NOON, NOON + timedelta(hours=1)], pa.timestamp(unit, zone))
    rows = [row(0), row(1)]
    table = table_of(rows).drop_columns("event_timestamp").append_column("event_timestamp", column)
    pq.write_table(table, tmp_path / "log.parquet", version="2.6")
    times = read(tmp_path / "log.parquet").events["event_timestamp"].to_pylist()
    assert times == [NOON, NOON + timedelta(hours=1)]


def test_microseconds_are_kept_and_nanoseconds_cut_off(tmp_path: Path):
    fine = pa.array([1_772_366_400_123_456_789, 1_772_366_400_123_456_000], pa.int64())
    kept = times_of(tmp_path, fine.cast(pa.timestamp("ns", "UTC")))
    assert kept == [NOON.replace(microsecond=123_456)] * 2


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_a_date_is_its_midnight_in_utc(tmp_path: Path, kind: pa.DataType):
    days = [NOON.date(), (NOON + timedelta(days=1)).date()]
    midnight = NOON.replace(hour=0)
    assert times_of(tmp_path, pa.array(days, kind)) == [midnight, midnight + timedelta(days=1)]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01", NOON.replace(hour=0)),
        ("2026-03-01T12:00:00Z", NOON),
        ("2026-03-01t12:00:00z", NOON),
        ("2026-03-01 12:00:00 UTC", NOON),
        ("2026-03-01T12:00Z", NOON),
        ("2026-03-01T14:00:00+02:00", NOON),
        ("2026-03-01T14:00:00+0200", NOON),
        ("2026-03-01 14:00:00+02", NOON),
        ("2026-03-01T06:30:00-05:30", NOON),
        ("2026-03-01T12:00:00.5-00:00", NOON.replace(microsecond=500_000)),
        ("2026-03-01T12:00:00.000001Z", NOON.replace(microsecond=1)),
        ("2026-03-01T12:00:00.123456999Z", NOON.replace(microsecond=123_456)),
    ],
)
def test_iso_text_is_read(tmp_path: Path, text: str, moment: datetime):
    assert times_of(tmp_path, pa.array([text, text])) == [moment, moment]


def test_spellings_of_one_offset_are_no_mixture(tmp_path: Path):
    texts = ["2026-03-01T12:00:00Z", "2026-03-01T12:00:00+00:00", "2026-03-01T12:00:00+0000"]
    assert times_of(tmp_path, pa.array(texts)) == [NOON] * 3


@settings(max_examples=30, deadline=None)
@given(
    moments=st.lists(
        st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001 - a zone follows
        min_size=2,
        max_size=6,
    ),
    offset=st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m))),
)
def test_iso_text_of_any_one_offset_is_what_python_reads(moments: list[datetime], offset: timezone):
    texts = [moment.replace(tzinfo=offset).isoformat() for moment in moments]
    with TemporaryDirectory() as folder:
        read_as = times_of(Path(folder), pa.array(texts))
    assert read_as == [datetime.fromisoformat(text).astimezone(UTC) for text in texts]


def test_malformed_rows_are_set_aside_with_the_reason(tmp_path: Path):
    far = datetime(2101, 1, 1, tzinfo=UTC)
    before = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    found = reasons(
        tmp_path,
        row(8, user_id=""),
        row(9, item_id=""),
        row(10, event_timestamp=far),
        row(11, event_timestamp=before),
        row(12, available_at=far),
        row(13, available_at=NOON + timedelta(hours=13, microseconds=-1)),
        row(14, value=float("nan")),
        row(15, value=float("-inf")),
        row(3),
        row(16, event_type="synthetic"),
        row(17, event_type="synthetic_negative"),
        row(18, event_type="unsynthetic"),
    )
    assert found == {
        0: "user_id is empty",
        1: "item_id is empty",
        2: "event_timestamp lies outside the years 1970 to 2100",
        3: "event_timestamp lies outside the years 1970 to 2100",
        4: "available_at lies outside the years 1970 to 2100",
        5: "available_at lies before event_timestamp",
        6: "value is not finite",
        7: "value is not finite",
        8: DUPLICATE,
        9: SYNTHETIC,
        10: SYNTHETIC,
    }


def test_the_first_and_last_instants_are_within_the_years(tmp_path: Path):
    first = datetime(1970, 1, 1, tzinfo=UTC)
    last = datetime(2100, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert times_of(tmp_path, pa.array([first, last], pa.timestamp("us", "UTC"))) == [first, last]


def test_absurd_times_do_not_wrap_around_into_plausible_ones(tmp_path: Path):
    now = 1_772_366_400_000
    wraps = 2**64 // 1000 + now  # in microseconds it overflows into 2026
    millis = pa.array([now] * 4 + [wraps, 2**62, -(2**62), 2**63 - 1], pa.int64())
    table = table_of(sound_rows()).drop_columns("event_timestamp")
    table = table.append_column("event_timestamp", millis.cast(pa.timestamp("ms", "UTC")))
    pq.write_table(table, tmp_path / "millis.parquet")
    log = read(tmp_path / "millis.parquet")
    assert set(log.events["event_timestamp"].to_pylist()) == {NOON}
    assert log.refused["row"].to_pylist() == [4, 5, 6, 7]


def test_a_refused_row_is_kept_as_it_stands_in_the_file(tmp_path: Path):
    bad = row(9, item_id="", value=1.5, available_at=NOON)
    (kept,) = read(log_file(tmp_path, [*sound_rows(), bad])).refused.to_pylist()
    assert kept == {
        "row": 8,
        "reason": "item_id is empty",
        "user_id": "u1",
        "item_id": "",
        "domain": TARGET,
        "event_timestamp": "2026-03-01 21:00:00.000000Z",
        "event_type": None,
        "available_at": "2026-03-01 12:00:00.000000Z",
        "value": "1.5",
    }


def test_of_equal_events_the_first_sound_row_stays(tmp_path: Path):
    rows = [
        *sound_rows(),
        row(9, value=float("inf")),  # malformed: no first
        row(9, value=1.0),
        row(9, value=2.0),
        row(9, event_type="interaction", value=3.0),
        row(9, event_type="buy", value=4.0),
        row(9, event_timestamp=NOON + timedelta(hours=9, microseconds=1), value=5.0),
    ]
    log = read(log_file(tmp_path, rows))
    values = [value for value in log.events["value"].to_pylist() if value is not None]
    assert sorted(values) == [1.0, 4.0, 5.0]
    assert log.refused["row"].to_pylist() == [8, 10, 11]


def test_domains_not_asked_for_are_counted_and_not_judged(tmp_path: Path):
    others = [row(20, domain="music"), row(21, domain="music", item_id="")]
    log = read(log_file(tmp_path, [*sound_rows(), *others]))
    assert (log.rows_read, log.rows_other_domains, log.refused.num_rows) == (10, 2, 0)
    assert set(log.events["domain"].to_pylist()) == {SOURCE, TARGET}


def test_several_source_domains_are_read_together(tmp_path: Path):
    rows = [*sound_rows(), row(20, domain="music")]
    log = read(log_file(tmp_path, rows), source=[SOURCE, "music"])
    assert set(log.events["domain"].to_pylist()) == {SOURCE, TARGET, "music"}


def test_event_ids_are_the_same_on_every_machine(tmp_path: Path):
    rows = [row(0, user_id="ü"), row(1, user_id="ü", value=3.0)]
    texts = [
        "5:books2:ü2:i011:interaction16:1772366400000000",
        "5:films2:ü2:i111:interaction16:1772370000000000",
    ]
    expected = [hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for text in texts]
    assert read(log_file(tmp_path, rows)).events["event_id"].to_pylist() == expected


def test_event_ids_tell_apart_what_concatenation_would_confuse(tmp_path: Path):
    pairs = [("a", "bc"), ("ab", "c"), ("a:1:b", "c"), ("a", "1:b:c"), ("ä", "b"), ("a", "äb")]
    rows = [row(1, user_id=user, item_id=item) for user, item in pairs]
    log = read(log_file(tmp_path, [row(0, user_id="a"), *rows]))
    assert len(set(log.events["event_id"].to_pylist())) == len(pairs) + 1


def test_integer_and_text_ids_of_the_same_digits_give_the_same_event_id(tmp_path: Path):
    rows = [entry | {"user_id": slot // 2} for slot, entry in enumerate(sound_rows())]
    numbers = read(log_file(tmp_path, rows, {"user_id": pa.int32()}))
    texts = read(log_file(tmp_path, [entry | {"user_id": str(entry["user_id"])} for entry in rows]))
    assert numbers.events["event_id"] == texts.events["event_id"]


small_rows = st.lists(
    st.builds(
        lambda user, item, domain, minute, kind, late, value: {
            "user_id": user,
            "item_id": item,
            "domain": domain,
            "event_timestamp": NOON + timedelta(minutes=minute),
            "event_type": kind,
            "available_at": None if late is None else NOON + timedelta(minutes=minute + late),
            "value": value,
        },
        st.sampled_from(["", "a", "b"]),
        st.sampled_from(["", "x", "y"]),
        st.sampled_from([SOURCE, TARGET, "music"]),
        st.integers(0, 1),
        st.sampled_from([None, "interaction", "buy"]),
        st.sampled_from([None, -1, 0, 1]),
        st.sampled_from([None, 1.0, float("nan")]),
    ),
    max_size=30,
)


@settings(max_examples=30, deadline=None)
@given(rows=small_rows)
def test_every_row_is_an_event_or_refused_or_of_another_domain(rows: list[dict[str, object]]):
    rows = [*sound_rows(2), *rows]
    with TemporaryDirectory() as folder:
        log = read(log_file(Path(folder), rows))
    seen: set[tuple[object, ...]] = set()
    refused: list[tuple[int, str]] = []
    for place, entry in enumerate(rows):
        if entry["domain"] == "music":
            continue
        known = entry.get("available_at") or entry["event_timestamp"]
        value = entry.get("value")
        kind = entry.get("event_type") or "interaction"
        names = ("domain", "user_id", "item_id", "event_timestamp")
        key = (*(entry[name] for name in names), kind)
        if entry["user_id"] == "":
            refused.append((place, "user_id is empty"))
        elif entry["item_id"] == "":
            refused.append((place, "item_id is empty"))
        elif known < entry["event_timestamp"]:  # type: ignore[operator]
            refused.append((place, "available_at lies before event_timestamp"))
        elif value is not None and value != value:  # noqa: PLR0124 - NaN
            refused.append((place, "value is not finite"))
        elif key in seen:
            refused.append((place, DUPLICATE))
        else:
            seen.add(key)
    assert [(entry["row"], entry["reason"]) for entry in log.refused.to_pylist()] == refused
    assert log.events.num_rows == len(seen)
    assert log.rows_other_domains == sum(entry["domain"] == "music" for entry in rows)


def flip(content: bytes, seed: int) -> bytes:
    dice = np.random.default_rng(seed)
    damaged = np.frombuffer(content, np.uint8).copy()
    count = dice.choice([1, 3, 20])
    damaged[dice.integers(0, damaged.size, count)] = dice.integers(0, 256, count)
    return damaged.tobytes()


def truncate(content: bytes, seed: int) -> bytes:
    return content[: np.random.default_rng(seed).integers(0, len(content))]


def problem(file: Path) -> str | None:
    try:
        read(file)
    except DataError as error:
        return str(error)
    return None


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_file_is_read_or_refused_in_one_line(
    tmp_path: Path, damage: Callable[[bytes, int], bytes]
):
    file = log_file(tmp_path)
    content = file.read_bytes()
    problems = []
    for seed in range(100):
        file.write_bytes(damage(content, seed))
        problems.append(problem(file))
    refused = [text for text in problems if text is not None]
    assert len(refused) > 50
    assert not [text for text in refused if "\n" in text]


def test_reading_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = log_file(tmp_path)
    before = bytes_below(tmp_path)
    monkeypatch.chdir(tmp_path)
    read(file)
    assert bytes_below(tmp_path) == before


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path):
    folder = tmp_path / "domain=music"
    folder.mkdir()
    assert read(log_file(folder)).events == read(log_file(tmp_path)).events


def test_local_times_of_a_named_zone_keep_the_hour_that_a_clock_change_repeats(tmp_path: Path):
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    twice = [datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1)]
    column = pa.array(
        [moment.astimezone(UTC) for moment in twice], pa.timestamp("us", "Europe/Berlin")
    )
    first, second = times_of(tmp_path, column)
    assert second - first == timedelta(hours=1)
