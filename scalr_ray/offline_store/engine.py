"""Where a retrieval runs: in DuckDB on this machine, or on a Ray cluster.

The answer is the same. `auto` goes to the cluster only if there is one, be it that Ray is up in
this process or that `RAY_ADDRESS` names one, and only above a number of rows: below it, moving rows
between processes costs more than it saves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from scalr_ray.core.errors import RetryLater, UsageError
from scalr_ray.offline_store.entity_rows import time_column
from scalr_ray.offline_store.retrieve import (
    FoundView,
    Rule,
    Session,
    event_rows,
    event_set_sql,
    find_views,
    join_features,
)
from scalr_ray.offline_store.view import ViewRead

if TYPE_CHECKING:
    from ray.data import Dataset

EngineName = Literal["auto", "duckdb", "ray"]
_BLOCK_ROWS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Which engine joins, and how the cluster cuts the work.

    Attributes:
        name: `auto` chooses.
        ray_above_rows: entity rows and feature rows above which `auto` takes the cluster.
        partition_rows: how many rows of both sides one task of the cluster joins.
    """

    name: EngineName
    ray_above_rows: int
    partition_rows: int

    def takes_cluster(self, rows: int) -> bool:
        """Whether so many rows, of both sides together, are for the cluster."""
        if self.name == "auto":
            return rows > self.ray_above_rows and _ray_is_there()
        return self.name == "ray"


def enrich(
    entities: pa.Table, reads: Sequence[ViewRead], rule: Rule, session: Session, engine: Engine
) -> pa.Table:
    """Return `entities`, as many rows in the same order, with the features of every view appended.

    Raises:
        DataError: a key column or a source is missing or wrong.
        UsageError: the memory limit is too low.
        RetryLater: the cluster is not there, or gave up.
    """
    views = find_views(entities, reads, rule, session.access)
    if not _for_cluster(entities, views, engine):
        return join_features(entities, views, session)
    from scalr_ray.offline_store.distribute import gather

    row = _row_number(entities, reads)
    wanted = dict.fromkeys(key for read in reads for key in read.keys.values())
    numbered = entities.select([*wanted, time_column(entities.schema)]).append_column(
        row, pa.array(np.arange(entities.num_rows))
    )
    shown = [column for read in reads for column in read.features.values()]
    joined = _distributed(numbered, views, session, engine)
    found = gather(joined.select_columns([row, *shown]))
    if found.num_rows != entities.num_rows:
        raise RetryLater(
            f"the cluster answered {found.num_rows} of {entities.num_rows} entity rows; try again"
        )
    places = np.empty(entities.num_rows, np.int64)
    places[found[row].to_numpy()] = np.arange(entities.num_rows)
    found = found.take(pa.array(places))
    result = entities
    for column in shown:
        result = result.append_column(column, found[column])
    return result


def enrich_on_cluster(
    entities: pa.Table,
    reads: Sequence[ViewRead],
    rule: Rule,
    session: Session,
    engine: Engine,
    *,
    in_order: bool,
) -> Dataset | None:
    """The same as a Ray Dataset that never comes to this process; None where DuckDB is to join.

    Args:
        entities: what features are wanted for.
        reads: where they come from.
        rule: what may be seen.
        session: how they are read.
        engine: which one is to join.
        in_order: whether the rows come in the order of `entities`, at the price of a sort.

    Raises:
        DataError: a key column or a source is missing or wrong.
        RetryLater: the cluster is not there, or gave up.
    """
    views = find_views(entities, reads, rule, session.access)
    if not _for_cluster(entities, views, engine):
        return None
    if not in_order:
        return _distributed(entities, views, session, engine)
    row = _row_number(entities, reads)
    numbered = entities.append_column(row, pa.array(np.arange(entities.num_rows)))
    return _distributed(numbered, views, session, engine).sort(row).drop_columns([row])


def enrich_dataset(
    entities: Dataset,
    reads: Sequence[ViewRead],
    rule: Rule,
    session: Session,
    engine: Engine,
    *,
    in_order: bool = False,
) -> Dataset:
    """Features of entity rows that lie on the cluster, and stay there.

    Raises:
        DataError: a key column or a source is missing or wrong.
        UsageError: an order was asked for, which such rows have not.
    """
    from scalr_ray.offline_store.distribute import distribute, read_dataset

    if in_order:
        raise UsageError("a Ray Dataset has no order to keep; sort the result by its columns")
    return distribute(
        read_dataset(entities),
        find_views(None, reads, rule, session.access),
        session.limits.of_a_task(),
        partition_rows=engine.partition_rows,
    )


def gather_dataset(rows: Dataset) -> pa.Table:
    """All rows of a Ray Dataset, in this process and in no particular order.

    Raises:
        ScalrError: what a task raised on purpose.
    """
    from scalr_ray.offline_store.distribute import gather

    return gather(rows)


def event_set_on_cluster(
    read: ViewRead,
    *,
    since: datetime | None,
    until: datetime,
    rule: Rule,
    session: Session,
    engine: Engine,
    in_order: bool,  # noqa: ARG001 - an event set has none
) -> Dataset | None:
    """The event set of a view as a Ray Dataset, read there; None where DuckDB is to read it."""
    rows = event_rows(read, since=since, until=until, rule=rule, access=session.access)
    if rows is None or not engine.takes_cluster(rows.count):
        return None
    from scalr_ray.offline_store.cluster import connect
    from scalr_ray.offline_store.distribute import read_pieces

    connect()
    pieces = rows.pieces()
    limits = session.limits.of_a_task()
    return read_pieces(pieces, event_set_sql(read), limits) if pieces else None


def _for_cluster(entities: pa.Table, views: Sequence[FoundView], engine: Engine) -> bool:
    """Whether these are joined on the cluster; where there are no entity rows, it needs none."""
    rows = entities.num_rows
    return rows > 0 and engine.takes_cluster(rows + sum(view.count for view in views))


def _distributed(
    entities: pa.Table, views: Sequence[FoundView], session: Session, engine: Engine
) -> Dataset:
    from ray.data import from_arrow

    from scalr_ray.offline_store.cluster import connect
    from scalr_ray.offline_store.distribute import EntityRows, distribute

    connect()
    starts = range(0, max(entities.num_rows, 1), _BLOCK_ROWS)
    rows = from_arrow([entities.slice(start, _BLOCK_ROWS) for start in starts])
    side = EntityRows(rows=rows, schema=entities.schema, count=entities.num_rows)
    limits = session.limits.of_a_task()
    return distribute(side, views, limits, partition_rows=engine.partition_rows)


def _ray_is_there() -> bool:
    if os.environ.get("RAY_ADDRESS"):
        return True
    ray = sys.modules.get("ray")  # what was never imported is not up
    return ray is not None and bool(ray.is_initialized())


def _row_number(entities: pa.Table, reads: Sequence[ViewRead]) -> str:
    """A name that no column of the result has."""
    taken = {*entities.column_names, *(name for read in reads for name in read.features.values())}
    name = "row"
    while name in taken:
        name += "_"
    return name
