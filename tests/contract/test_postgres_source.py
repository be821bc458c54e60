"""What the store reads from and writes to PostgreSQL, and how it says that something is wrong."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from feast_config import feast_config
from postgres_server import Database

from scalr_ray.core.duck import duck
from scalr_ray.core.errors import ConfigError, DataError, RetryLater, UsageError
from scalr_ray.core.events import TIMESTAMP

pytestmark = pytest.mark.feast

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOSTILE = """we"ird'; DROP TABLE kept; --"""


@pytest.fixture
def connection(postgres_database) -> Iterator[psycopg.Connection]:
    """An empty schema, which the statements of the test find first."""
    with postgres_database.connect() as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        yield connection


def config(database: Database, repo: Path, **options: Any) -> Any:
    return feast_config(repo, **{"postgres_url": database.url(), **options})


def source(**options: Any) -> Any:
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )

    return PostgreSQLSource(**{"name": "numbers", "timestamp_field": "at", **options})


def found(database: Database, of: Any, *columns: str, bounds: tuple[Any, ...] = ()) -> Any:
    from scalr_ray.offline_store.sources.find import find_rows
    from scalr_ray.offline_store.sources.reading import Access, Reading

    reading = Reading(columns={name: name for name in columns}, times=("at",), bounds=bounds)
    return find_rows(of, reading, Access(repo=Path(), postgres_url=database.url()))


def opened(rows: Any) -> pa.Table:
    with duck(threads=1) as session:
        rows.open(session, "rows")
        assert session.sql("FROM rows").to_arrow_table().schema == rows.schema
        return session.sql("FROM rows").to_arrow_table()


def pull(configured: Any, of: Any, *columns: str) -> pa.Table:
    from scalr_ray.offline_store import AsOfOfflineStore

    return AsOfOfflineStore.pull_all_from_table_or_query(
        configured, of, [], list(columns), "at"
    ).to_arrow()


TYPES: list[tuple[str, str, pa.DataType, Any]] = [
    ("timestamptz", "'2026-03-01 01:00:00.123456+01'", TIMESTAMP, T0.replace(microsecond=123456)),
    ("timestamp", "'2026-03-01 00:00'", pa.timestamp("us"), datetime(2026, 3, 1)),  # noqa: DTZ001
    ("date", "'2026-03-01'", pa.date32(), date(2026, 3, 1)),
    ("int2", "-3", pa.int16(), -3),
    ("int4", "4", pa.int32(), 4),
    ("int8", "9007199254740993", pa.int64(), 2**53 + 1),
    ("float4", "0.5", pa.float32(), 0.5),
    ("float8", "0.1", pa.float64(), 0.1),
    ("numeric", "1.25", pa.float64(), 1.25),
    ("numeric(8, 2)", "1.25", pa.float64(), 1.25),
    ("numeric(18, 0)", "9007199254740993", pa.int64(), 2**53 + 1),
    ("numeric(19, 0)", "5", pa.float64(), 5.0),
    ("text", "'it''s'", pa.string(), "it's"),
    ("varchar(9)", "'x'", pa.string(), "x"),
    ("char(4)", "'x'", pa.string(), "x"),
    ("bool", "true", pa.bool_(), True),
    ("bytea", r"'\x01'", pa.binary(), b"\x01"),
    (
        "uuid",
        "'C0A80000-0000-0000-0000-000000000001'",
        pa.string(),
        f"c0a80000{'-0000' * 3}-000000000001",
    ),
    ("jsonb", """'{"a":1}'""", pa.string(), '{"a": 1}'),
    ("interval", "'1 day'", pa.string(), "1 day"),
    ("mood", "'happy'", pa.string(), "happy"),
    ("int4[]", "'{1,NULL,2}'", pa.list_(pa.int32()), [1, None, 2]),
    ("float8[]", "'{}'", pa.list_(pa.float64()), []),
    ("numeric[]", "'{1.5}'", pa.list_(pa.float64()), [1.5]),
    ("text[]", "'{a,NULL}'", pa.list_(pa.string()), ["a", None]),
    ("uuid[]", "NULL", pa.list_(pa.string()), None),
]


def test_each_type_is_read_by_the_rule_with_nulls_in_any_zone(
    postgres_database, connection
) -> None:
    connection.execute("CREATE TYPE mood AS ENUM ('happy')")
    names = [f"c{place}" for place in range(len(TYPES))]
    columns = ", ".join(f"{name} {kind}" for name, (kind, *_) in zip(names, TYPES, strict=True))
    connection.execute(f"CREATE TABLE numbers (at timestamptz, {columns})")
    values = ", ".join(literal for _, literal, *_ in TYPES)
    connection.execute(f"INSERT INTO numbers VALUES ('2026-03-01 00:00+00', {values})")
    connection.execute("INSERT INTO numbers VALUES (now())")
    rows = opened(found(postgres_database, source(table="numbers"), *names))
    assert rows.schema.types == [kind for _, _, kind, _ in TYPES]
    first, second = rows.to_pylist()
    assert list(first.values()) == [value for *_, value in TYPES]
    assert set(second.values()) == {None}


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_bounds_hold_to_the_microsecond_whatever_the_zone_of_the_server(
    postgres_database, connection, kind
) -> None:
    from scalr_ray.offline_store.sources.reading import TimeBound

    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"CREATE TABLE numbers (n int4, at {kind})")
    moments = [T0 + days * 24 * HOUR for days in range(-1, 3)]
    with connection.cursor().copy("COPY numbers FROM STDIN") as copy:
        for place, moment in enumerate([*moments, None]):
            copy.write_row((place, moment and moment.replace(tzinfo=None)))
    of = source(table="numbers")

    def kept(since: Any, until: Any) -> list[int]:
        bound = TimeBound(column="at", since=since, until=until)
        return sorted(opened(found(postgres_database, of, "n", bounds=(bound,)))["n"].to_pylist())

    tick = timedelta(microseconds=1)
    assert kept(moments[1], moments[2]) == [1, 2]
    assert kept(moments[1] + tick, moments[2] - tick) == []
    assert kept(moments[0] + tick, None) == [1, 2, 3]
    assert kept(None, None) == [0, 1, 2, 3, 4]


def test_keys_that_are_enough_may_keep_others_out_but_never_a_row_of_theirs(
    postgres_database, connection
) -> None:
    from scalr_ray.offline_store.sources.find import find_rows
    from scalr_ray.offline_store.sources.reading import Access, KeyFilter, Reading

    connection.execute(
        "CREATE TABLE numbers AS SELECT now() AS at, n, n::text AS t, n::numeric AS d "
        "FROM generate_series(1, 9) n"
    )
    access = Access(repo=Path(), postgres_url=postgres_database.url())

    def read(column: str, values: Any) -> list[int]:
        keys = (KeyFilter(column=column, values=values),)
        reading = Reading(columns={"n": "n"}, times=(), keys=keys)
        rows = find_rows(source(table="numbers"), reading, access)
        assert rows is not None
        return sorted(opened(rows)["n"].to_pylist())

    assert read("n", (3, 2**70, -1)) == [3]
    assert read("t", ("4", "it's", "\\' OR true --", "5\0")) == [4, 5]
    assert read("n", ()) == []
    everything = list(range(1, 10))
    assert read("n", ("3",)) == read("d", (3,)) == read("t", (3,)) == everything


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date", "timestamptz[]"])
@pytest.mark.parametrize("value", ["infinity", "-infinity"])
def test_infinite_times_are_an_error(postgres_database, kind, value) -> None:
    literal = f"'{{{value}}}'" if kind.endswith("[]") else f"'{value}'"
    of = source(query=f"SELECT now() AS at, {literal}::{kind} AS odd")
    with pytest.raises(DataError, match="'numbers': column 'odd' holds an infinite time"):
        opened(found(postgres_database, of, "odd"))
    first = source(query=f"SELECT now() AS at, '4713-01-01 BC'::{kind} AS odd")
    if not kind.endswith("[]"):
        assert (
            sum(batch.num_rows for batch in found(postgres_database, first, "odd").read("true"))
            == 1
        )


@pytest.mark.parametrize("layout", ["plain", "partitioned", "query", "view"])
def test_pieces_are_all_the_rows_each_once(
    postgres_database, connection, monkeypatch, layout
) -> None:
    from scalr_ray.offline_store.sources import postgres
    from scalr_ray.offline_store.sources.reading import TimeBound

    monkeypatch.setattr(postgres, "_PIECE_PAGES", 3)
    split = " PARTITION BY HASH (n)" if layout == "partitioned" else ""
    connection.execute(f"CREATE TABLE numbers (at timestamptz, n int8, pad text){split}")
    for part in range(2 if split else 0):
        connection.execute(
            f"CREATE TABLE part_{part} PARTITION OF numbers "
            f"FOR VALUES WITH (MODULUS 2, REMAINDER {part})"
        )
    connection.execute("CREATE VIEW seen AS SELECT * FROM numbers")
    connection.execute(
        "INSERT INTO numbers SELECT timestamptz '2026-03-01+00' + n * interval '1 hour', n % 1500, "
        "repeat('x', 100) FROM generate_series(1, 3000) n"
    )
    of = source(query="TABLE numbers") if layout == "query" else source(table="numbers")
    of = source(table="seen") if layout == "view" else of
    bound = TimeBound(column="at", since=T0 + 10 * HOUR, until=T0 + 2990 * HOUR)
    rows = found(postgres_database, of, "n", "at", bounds=(bound,))
    pieces = pickle.loads(pickle.dumps(rows.pieces()))  # noqa: S301 - our own
    batches = [batch for piece in pieces for batch in piece.read()]
    assert len(pieces) == 1 if layout in {"query", "view"} else len(pieces) > 5
    assert all(batch.schema == rows.schema for batch in batches)
    whole = opened(rows)
    assert whole.num_rows == 2981
    in_pieces = pa.Table.from_batches(batches, rows.schema)
    assert Counter(map(str, in_pieces.to_pylist())) == Counter(map(str, whole.to_pylist()))


def test_the_count_is_near_even_where_nobody_analysed(postgres_database, connection) -> None:
    connection.execute("CREATE TABLE numbers (at timestamptz, n int8)")
    connection.execute("INSERT INTO numbers SELECT now(), n FROM generate_series(1, 50000) n")
    assert 10_000 < found(postgres_database, source(table="numbers"), "n").count < 250_000


def test_a_table_beyond_the_memory_limit_is_read_by_spilling(
    postgres_database, connection, tmp_path
) -> None:
    connection.execute("CREATE TABLE numbers (at timestamptz, key text)")
    connection.execute(
        "INSERT INTO numbers SELECT now(), md5(n::text) || md5((-n)::text) || md5((2 * n)::text) "
        "FROM generate_series(1, 700000) n"
    )
    rows = found(postgres_database, source(table="numbers"), "key")
    with duck(memory_limit="40MB", threads=1, spill_dir=tmp_path) as session:
        rows.open(session, "rows")
        for _ in range(2):
            assert session.sql("SELECT count(key) FROM rows").fetchall() == [(700_000,)]
        assert any(file.stat().st_size > 0 for file in tmp_path.rglob("*") if file.is_file())


def test_names_that_would_be_statements_are_names(postgres_database, connection, tmp_path) -> None:
    from psycopg import sql

    from scalr_ray.offline_store import AsOfOfflineStore

    table, column = sql.Identifier(f"table {HOSTILE}"), sql.Identifier(HOSTILE)
    connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    connection.execute(sql.SQL("CREATE TABLE {} ({} int8, at timestamptz)").format(table, column))
    quoted = '"table {}"'.format(HOSTILE.replace('"', '""'))
    of = source(table=quoted)
    configured = config(postgres_database, tmp_path)
    write(configured, of, pa.table({HOSTILE: [7], "at": pa.array([T0], TIMESTAMP)}))
    assert pull(configured, of, HOSTILE)[HOSTILE].to_pylist() == [7]
    AsOfOfflineStore().validate_data_source(configured, of)
    for bad in ("numbers; DROP TABLE kept", "(SELECT 1) AS x; DROP TABLE kept; --", 'half"'):
        with pytest.raises(DataError, match=r"invalid name syntax|is gone"):
            pull(configured, source(table=bad), "n")
    for bad in ("SELECT now() AS at, 1 AS n) AS x; DROP TABLE kept; --", "DROP TABLE kept"):
        with pytest.raises(DataError, match=r"syntax error|multiple commands"):
            pull(configured, source(query=bad), "n")
    assert connection.execute("SELECT * FROM kept").fetchall() == [(1,)]


def test_a_table_that_is_not_there_may_be_registered_but_not_read(
    postgres_database, tmp_path
) -> None:
    from scalr_ray.offline_store import AsOfOfflineStore

    configured = config(postgres_database, tmp_path)
    AsOfOfflineStore().validate_data_source(configured, source(table="absent"))
    with pytest.raises(DataError, match="the table absent is gone"):
        pull(configured, source(table="absent"), "n")
    with pytest.raises(DataError, match="has no data yet"):
        AsOfOfflineStore().get_table_column_names_and_types_from_data_source(
            configured, source(table="absent")
        )


def test_columns_are_checked_and_named(postgres_database, connection, tmp_path) -> None:
    from scalr_ray.offline_store import AsOfOfflineStore

    configured = config(postgres_database, tmp_path)
    connection.execute("CREATE TABLE numbers (at text, n int8)")
    with pytest.raises(DataError, match=r"lacks the column.* m; it has at, n"):
        pull(configured, source(table="numbers"), "m")
    with pytest.raises(DataError, match="'at' is text, not a timestamp"):
        pull(configured, source(table="numbers"), "n")
    with pytest.raises(DataError, match="'at' is string, not a timestamp"):
        AsOfOfflineStore().validate_data_source(configured, source(table="numbers"))


def test_feast_infers_the_features_of_a_table(postgres_database, connection, tmp_path) -> None:
    from feast import Entity, FeatureStore, FeatureView, ValueType

    connection.execute(
        "CREATE TABLE numbers (key text, at timestamptz, n int8, x numeric, l float4[], u uuid)"
    )
    store = FeatureStore(config=config(postgres_database, tmp_path))
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)
    of = source(table="numbers")
    store.apply([key, of, FeatureView(name="numbers", entities=[key], source=of)])
    inferred = {field.name: str(field.dtype) for field in store.get_feature_view("numbers").schema}
    assert inferred == {
        "key": "String",
        "n": "Int64",
        "x": "Float64",
        "l": "Array(Float32)",
        "u": "String",
    }


def test_the_address_comes_from_the_environment(
    postgres_database, connection, tmp_path, monkeypatch
) -> None:
    from scalr_ray.offline_store import open_feature_store

    connection.execute("CREATE TABLE numbers AS SELECT now() AS at, 7 AS n")
    (tmp_path / "feature_store.yaml").write_text(
        "project: p\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
        "offline_store:\n  type: scalr_ray.offline_store.AsOfOfflineStore\n"
        "  postgres_url: ${SCALR_POSTGRES_URL}\n"
    )
    unset = open_feature_store(tmp_path).config
    with pytest.raises(ConfigError, match="set every variable it names"):
        pull(unset, source(table="numbers"), "n")
    monkeypatch.setenv("SCALR_POSTGRES_URL", postgres_database.url(driver="psycopg"))
    configured = open_feature_store(tmp_path).config
    assert pull(configured, source(table="numbers"), "n")["n"].to_pylist() == [7]
    assert "secret" not in repr(configured.offline_store)
    with pytest.raises(UsageError, match=r"set offline_store\.postgres_url"):
        pull(config(postgres_database, tmp_path, postgres_url=None), source(table="numbers"), "n")


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        (
            (":{port}/", ":1/"),
            RetryLater,
            r"PostgreSQL at \S+:1/test_\w+ cannot be reached",
        ),
        (("secret", "sekret"), ConfigError, "refuses the connection: .*authentication failed"),
        (("/test_", "/absent_"), ConfigError, r'"absent_\w+" does not exist'),
        (("postgresql://", "mysql://"), ConfigError, "no PostgreSQL address"),
        (("{port}", "port"), ConfigError, "no PostgreSQL address"),
        (("{name}", "{name}?sslmode=never"), ConfigError, "sslmode"),
    ],
)
def test_a_server_that_does_not_answer_is_one_line_without_the_password(
    postgres_database, tmp_path, change, error, line
) -> None:
    old, new = (
        part.format(port=postgres_database.server.port, name=postgres_database.name)
        for part in change
    )
    address = postgres_database.url().replace(old, new)
    with pytest.raises(error, match=line) as raised:
        pull(
            config(postgres_database, tmp_path, postgres_url=address), source(table="numbers"), "n"
        )
    chain = f"{raised.value} {raised.value.__cause__}"
    assert "secret" not in chain
    assert "p@ss" not in chain
    assert "p%40ss" not in chain


def test_a_connection_that_is_cut_while_reading_can_be_tried_again(
    postgres_database, connection
) -> None:
    of = source(query="SELECT now() AS at, repeat('x', 500) AS pad FROM generate_series(1, 200000)")
    rows = found(postgres_database, of, "pad")
    assert "secret" not in repr(rows)
    assert "secret" not in repr(rows.pieces())
    batches = rows.read("true")
    next(batches)
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND state = 'active'"
    )
    with pytest.raises(RetryLater, match="broke off; try again"):
        list(batches)


def write(configured: Any, of: Any, table: pa.Table) -> None:
    from feast import FeatureView, Field
    from feast.types import Int64

    from scalr_ray.offline_store import AsOfOfflineStore

    names = [name for name in table.column_names if name != of.timestamp_field]
    schema = [Field(name=name, dtype=Int64) for name in names]
    view = FeatureView(name="numbers", entities=[], schema=schema, source=of)
    AsOfOfflineStore.offline_write_batch(configured, view, table, None)


def numbers(*values: int) -> pa.Table:
    times = pa.array([T0 + value * HOUR for value in values], TIMESTAMP)
    return pa.table({"value": list(values), "at": times})


def test_a_write_is_done_once_however_often_and_however_cut(
    postgres_database, connection, tmp_path
) -> None:
    configured = config(postgres_database, tmp_path)
    of = source(table="numbers", field_mapping={"raw": "value"})
    connection.execute("CREATE TABLE numbers (at timestamp, extra text DEFAULT 'x', raw numeric)")
    again = pa.concat_tables([numbers(1, 2).slice(0, 1), numbers(1, 2).slice(1)])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda rows: write(configured, of, rows), [numbers(1, 2), again] * 2))
    write(configured, of, numbers(3))
    answer = connection.execute("SELECT raw, at, extra FROM numbers ORDER BY raw").fetchall()
    naive = T0.replace(tzinfo=None)
    assert answer == [(value, naive + value * HOUR, "x") for value in (1, 2, 3)]
    assert pull(configured, of, "raw")["raw"].to_pylist() == [1.0, 2.0, 3.0]


def test_text_is_written_as_what_the_table_keeps_and_never_cut(
    postgres_database, connection, tmp_path
) -> None:
    configured, of = config(postgres_database, tmp_path), source(table="numbers")
    connection.execute(
        "CREATE TABLE numbers (at timestamptz, u uuid, j jsonb, v varchar(3), l int4[])"
    )
    row = {"at": pa.array([T0], TIMESTAMP), "u": [f"c0a80000{'-0000' * 3}-000000000001"]}
    row |= {"j": ['{"a": 1}'], "v": ["abc"], "l": [[1, None]]}
    write(configured, of, pa.table(row))
    names = ["u", "j", "v", "l"]
    assert pull(configured, of, *names).select(names).to_pylist() == [
        {name: row[name][0] for name in names}
    ]
    with pytest.raises(DataError, match="value too long"):
        write(configured, of, pa.table(row | {"v": ["abcd"]}))


def test_a_write_that_fails_leaves_nothing_and_can_be_mended(
    postgres_database, connection, tmp_path
) -> None:
    configured, of = config(postgres_database, tmp_path), source(table="numbers")
    with pytest.raises(UsageError, match="numbers is not there; create it first"):
        write(configured, of, numbers(1))
    connection.execute("CREATE TABLE numbers (at timestamptz, value int2)")
    with pytest.raises(DataError, match="smallint out of range"):
        write(configured, of, numbers(1, 70_000))
    assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (0,)
    connection.execute("ALTER TABLE numbers ALTER value TYPE int8")
    write(configured, of, numbers(1, 70_000))
    assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (2,)
    with pytest.raises(DataError, match=r"lacks the column.* other; it has at, value"):
        write(configured, of, numbers(1).append_column("other", pa.array([1])))
    with pytest.raises(UsageError, match="is a query"):
        write(configured, source(query="TABLE numbers"), numbers(1))
