"""Retrievals that have been checked and can be run: nothing is read before the job is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from scalr_ray.core.clock import parse_time
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import EVENT_TIMESTAMP
from scalr_ray.offline_store.engine import (
    Engine,
    enrich,
    enrich_dataset,
    enrich_on_cluster,
    event_set_on_cluster,
    gather_dataset,
)
from scalr_ray.offline_store.entity_rows import time_column, time_range
from scalr_ray.offline_store.retrieve import (
    Rule,
    Session,
    event_set,
    event_set_sql,
    join_features_sql,
)
from scalr_ray.offline_store.view import ViewRead

if TYPE_CHECKING:
    from ray.data import Dataset

# Feast reads a saved dataset back by its time range and cannot do so without a start.
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """A checked retrieval.

    Attributes:
        execute: reads and joins, and returns the result.
        sql: the statements it will run.
        keys: the columns that identify a row, the time aside.
        time_range: the earliest and the latest time asked for.
        on_cluster: the same as a Ray Dataset, or None where one machine will do; takes `in_order`.
    """

    execute: Callable[[], pa.Table]
    sql: str
    keys: tuple[str, ...]
    time_range: tuple[datetime | None, datetime | None]
    on_cluster: Callable[..., Dataset | None] | None = None


def plan_enrichment(
    reads: Sequence[ViewRead], rule: Rule, session: Session, engine: Engine, entities: pa.Table
) -> Retrieval:
    """Plan the features of `entities`.

    Raises:
        DataError: a key column of a view is missing from `entities`.
        UsageError: a feature has the name of an entity column.
    """
    _check_columns(reads, entities.column_names)
    time = time_column(entities.schema)
    return Retrieval(
        execute=partial(enrich, entities, reads, rule, session, engine),
        on_cluster=partial(enrich_on_cluster, entities, reads, rule, session, engine),
        sql=join_features_sql(reads, rule),
        keys=tuple(name for name in entities.column_names if name != time),
        time_range=time_range(entities[time]),
    )


def plan_dataset(
    reads: Sequence[ViewRead], rule: Rule, session: Session, engine: Engine, entities: Dataset
) -> Retrieval:
    """Plan the features of entity rows that are a Ray Dataset: on the cluster, in no order.

    Raises:
        DataError: a key column of a view is missing from `entities`.
        UsageError: a feature has the name of an entity column.
    """
    columns = entities.columns() or []
    _check_columns(reads, columns)
    joined = partial(enrich_dataset, entities, reads, rule, session, engine)
    return Retrieval(
        execute=lambda: gather_dataset(joined()),
        on_cluster=joined,
        sql=join_features_sql(reads, rule),
        keys=tuple(columns),
        time_range=(None, None),
    )


def _check_columns(reads: Sequence[ViewRead], columns: Sequence[str]) -> None:
    for read in reads:
        if missing := sorted(set(read.keys.values()) - set(columns)):
            raise DataError(
                f"entity_df lacks the key column(s) {', '.join(missing)} "
                f"of feature view {read.name!r}; it has {', '.join(columns)}"
            )
    shown = {column for read in reads for column in read.features.values()}
    if clash := sorted(shown & set(columns)):
        raise UsageError(
            f"{', '.join(clash)} is both an entity column and a feature; "
            "drop it from entity_df or pass full_feature_names=True"
        )


def plan_event_set(
    reads: Sequence[ViewRead],
    rule: Rule,
    session: Session,
    engine: Engine,
    start_date: datetime | None,
    end_date: datetime | None,
) -> Retrieval:
    """Plan the event set of the only view in `reads`.

    Raises:
        UsageError: there is not exactly one view, an end has no time zone, or a column of the view
            has the name under which the event time is given.
    """
    if len(reads) != 1:
        names = ", ".join(read.name for read in reads) or "none"
        raise UsageError(
            f"without entity_df exactly one feature view can be read, not {names}; "
            "read each by itself or pass entity_df"
        )
    if end_date is None:
        raise UsageError("without entity_df an end_date is needed")
    since = parse_time(start_date, "start_date") if start_date is not None else None
    until = parse_time(end_date, "end_date")
    (read,) = reads
    given = {*read.keys, *read.features.values(), read.created}
    if EVENT_TIMESTAMP in given and read.event_time != EVENT_TIMESTAMP:
        raise UsageError(
            f"feature view {read.name!r}: the event time {read.event_time!r} is given as "
            f"{EVENT_TIMESTAMP!r}, which is another column of the view; rename that one through "
            "field_mapping"
        )
    what: dict[str, Any] = {"since": since, "until": until, "rule": rule, "session": session}
    return Retrieval(
        execute=partial(event_set, read, **what),
        on_cluster=partial(event_set_on_cluster, read, engine=engine, **what),
        sql=event_set_sql(read),
        keys=tuple(read.keys.values()),
        time_range=(since or _BEGINNING, until),
    )
