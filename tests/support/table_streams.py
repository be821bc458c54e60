"""Events in memory as a stream of the store gives them: as a relation, or in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa

from scalr_ray.core.clock import as_of_sql
from scalr_ray.offline_store.event_stream import EventStream
from scalr_ray.offline_store.limits import Limits


@dataclass(frozen=True)
class TablePiece:
    rows: pa.Table

    def read(self) -> Iterator[pa.RecordBatch]:
        yield from self.rows.combine_chunks().to_batches()


@dataclass(frozen=True)
class TableRows:
    rows: pa.Table
    piece_rows: int = 100

    @property
    def schema(self) -> pa.Schema:
        return self.rows.schema

    @property
    def count(self) -> int:
        return self.rows.num_rows

    def open(self, session: duckdb.DuckDBPyConnection, name: str) -> None:
        session.register(name, self.rows)

    def pieces(self) -> Sequence[TablePiece]:
        starts = range(0, self.rows.num_rows, self.piece_rows)
        return [TablePiece(self.rows.slice(start, self.piece_rows)) for start in starts]


@dataclass(frozen=True)
class Somewhere:
    """An engine that has been decided on."""

    on_cluster: bool
    partition_rows: int = 200

    def takes_cluster(self, _rows: int) -> bool:
        return self.on_cluster


def table_stream(
    events: pa.Table, as_of: datetime, *, on_cluster: bool = False, memory_limit: str = "500MB"
) -> EventStream:
    """The events that are visible as of a time."""
    return EventStream(
        name="some_events",
        rows=TableRows(events),
        empty=events.slice(0, 0),
        sql=f"SELECT * FROM feature_rows WHERE {as_of_sql(as_of)}",
        limits=Limits(memory_limit=memory_limit, threads=2, spill_dir=None),
        engine=Somewhere(on_cluster),
    )
