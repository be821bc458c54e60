"""The events of a view as a stream: as a relation here, or in pieces for a cluster. No Feast.

`pull.pull_events` brings the same rows into this process; this is for those who cannot hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from scalr_ray.core.duck import quote_name
from scalr_ray.offline_store.limits import Limits, open_duck
from scalr_ray.offline_store.sources.reading import Piece, SourceRows

if TYPE_CHECKING:
    from scalr_ray.offline_store.engine import Engine


@dataclass(frozen=True, kw_only=True)
class EventStream:
    """Events that are visible as of a time, not read yet.

    Attributes:
        name: of their view, for messages.
        rows: what is read; None while the view's source has no data.
        empty: no rows, in the types that `rows` would have.
        sql: makes the events, `EVENT_COLUMNS`, of a relation `feature_rows`.
        limits: of a DuckDB session that reads them.
        engine: says what is for the cluster.
    """

    name: str
    rows: SourceRows | None
    empty: pa.Table
    sql: str
    limits: Limits
    engine: Engine

    @property
    def count(self) -> int:
        """How many rows the source holds, visible or not; may be an estimate."""
        return 0 if self.rows is None else self.rows.count

    def open(self, session: duckdb.DuckDBPyConnection, name: str) -> None:
        """Make the events readable as the relation `name`; one stream for each session."""
        if self.rows is None:
            session.register("feature_rows", self.empty)
        else:
            self.rows.open(session, "feature_rows")
        session.execute(f"CREATE TEMP VIEW {quote_name(name)} AS {self.sql}")

    @property
    def on_cluster(self) -> bool:
        """Whether so many rows are for the cluster."""
        return self.rows is not None and self.engine.takes_cluster(self.rows.count)

    def pieces(self) -> Sequence[Piece]:
        """What the cluster reads `feature_rows` from."""
        return [] if self.rows is None else self.rows.pieces()


def query(stream: EventStream, sql: str) -> pa.Table:
    """What a statement over `{events}` gives; on a cluster, what it gives piece by piece."""
    if stream.on_cluster:
        from scalr_ray.offline_store.distribute import gather, read_pieces

        nested = sql.format(events=f"({stream.sql})")
        return gather(read_pieces(stream.pieces(), nested, stream.limits.of_a_task()))
    with open_duck(stream.limits) as session:
        stream.open(session, "events")
        return session.sql(sql.format(events="events")).to_arrow_table()
