"""A source of files in pieces gives the rows that it gives as a relation: no more, no fewer."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from multiprocessing import get_context
from typing import Any

import pyarrow as pa
import pytest
from file_layouts import LAYOUTS, Home, histories, moments, styles
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3_server import SECRET, s3_fixture, s3_server_fixture  # noqa: F401 - the fixture `s3`

from scalr_ray.core.duck import duck
from scalr_ray.core.events import TIMESTAMP

pytestmark = pytest.mark.feast

SHOWN = {"land": "country", "shard": "shard", "who": "person", "at": "at", "amount": "amount"}


@pytest.fixture(params=["local", "s3"])
def home(request, tmp_path_factory) -> Home:
    if request.param == "s3":
        return Home("pieces", request.getfixturevalue("s3"))
    return Home(str(tmp_path_factory.mktemp("pieces")))


def found(home: Home, layout: str, tmp_path: Any, bounds: tuple[Any, ...] = ()) -> Any:
    from feast import FileSource

    from scalr_ray.offline_store.sources.find import find_rows
    from scalr_ray.offline_store.sources.reading import Access, Reading

    source = FileSource(
        name="history",
        path=home.path(layout),
        s3_endpoint_override=home.s3.endpoint if home.s3 else None,
        timestamp_field="at",
    )
    reading = Reading(columns=SHOWN, times=("at",), bounds=bounds)
    return find_rows(source, reading, Access(repo=tmp_path))


def multiset(batches: Iterable[pa.RecordBatch]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(row.values()) for batch in batches for row in batch.to_pylist())


@given(history=histories, kept=styles, since=moments | st.none(), until=moments | st.none())
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_hold_what_the_relation_shows_and_both_what_was_written(
    home, tmp_path, history, kept, since, until
) -> None:
    from scalr_ray.offline_store.sources.reading import TimeBound

    home.fill(history, kept)
    right = Counter(
        (*astuple(row)[:4], row.amount)
        for row in history
        if (since is None or row.at >= since) and (until is None or row.at <= until)
    )
    bounds = (TimeBound(column="at", since=since, until=until), TimeBound(column="known"))
    if all(kept[row.file].bare and row.amount is None for row in history):
        return  # no file has the column
    for layout in LAYOUTS:
        rows = found(home, layout, tmp_path, bounds)
        pieces = pickle.loads(pickle.dumps(rows.pieces()))  # noqa: S301 - its own
        batches = [batch for piece in pieces for batch in piece.read()]
        assert all(batch.schema == rows.schema for batch in batches)
        with duck(threads=1) as session:
            rows.open(session, "shown")
            relation = session.sql("FROM shown").to_arrow_table()
        assert relation.schema == rows.schema
        assert multiset(relation.to_batches()) == _in_utc(right, rows.schema)
        assert multiset(batches) == multiset(relation.to_batches())
        assert rows.count == len(history)


def _in_utc(rows: Counter[tuple[Any, ...]], schema: pa.Schema) -> Counter[tuple[Any, ...]]:
    """The rows as they read when all files keep times without a zone."""
    if schema.field("at").type.tz:
        return rows
    naive = Counter[tuple[Any, ...]]()
    for (land, shard, who, at, amount), times in rows.items():
        stamp = pa.scalar(at, TIMESTAMP).cast(schema.field("at").type).as_py()
        naive[land, shard, who, stamp, amount] += times
    return naive


def _rows(piece: Any) -> int:
    return sum(batch.num_rows for batch in piece.read())


def test_pieces_are_read_in_another_process_and_carry_no_secret(home, tmp_path) -> None:
    from file_layouts import T0, Row, Style

    style = Style(pa.int64(), TIMESTAMP, False, False, 2)  # noqa: FBT003 - a plain record
    home.fill([Row("DE", 1, n, T0, T0, n, n % 3) for n in range(9)], [style] * 3)
    pieces = found(home, "hive", tmp_path).pieces()
    assert SECRET.encode() not in pickle.dumps(pieces)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert sum(pool.map(_rows, pieces)) == 9
