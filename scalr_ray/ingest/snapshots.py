"""Feature snapshots: what a user's and an item's history looked like at given times.

A snapshot of time s is computed from nothing but the events visible as of s, and stamped s. Events
that arrive late are therefore missing from the snapshots before their arrival, as they were missing
then. All source domains count together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import duckdb
import pyarrow as pa

from scalr_ray.core.clock import DAY, as_of_sql, parse_time, time_literal
from scalr_ray.core.config import IdTypes
from scalr_ray.core.duck import duck
from scalr_ray.core.errors import DataError
from scalr_ray.core.events import (
    AVAILABLE_AT,
    EVENT_TIMESTAMP,
    TIMESTAMP,
    arrow_id_type,
    event_schema,
)
from scalr_ray.core.layout import Layout
from scalr_ray.ingest.files import SPILL_DIR, sole_writer, write_tables
from scalr_ray.ingest.store import PARTS, SOURCE_VIEW, TARGET_VIEW, refuse_other_schema, scan

USER_VIEW = "user_source_features"
ITEM_VIEW = "item_popularity"

WINDOWS_DAYS = (7, 30, 90)
LAST_ITEMS = 20

_STAMPS = [
    pa.field(EVENT_TIMESTAMP, TIMESTAMP, nullable=False),
    pa.field(AVAILABLE_AT, TIMESTAMP, nullable=False),
]


def write_snapshots(layout: Layout, *, ids: IdTypes, times: Sequence[datetime]) -> dict[str, int]:
    """Write one part per time into `user_source_features` and `item_popularity`.

    A part of the same time is replaced, so that the call may be repeated. A user or item appears in
    a snapshot if at least one of its events is visible then.

    Args:
        layout: where the imported events lie.
        ids: the id types of the repository.
        times: with a zone, in any order.

    Returns:
        The rows written, by view.

    Raises:
        DataError: no events were imported yet, or with other ids.
        UsageError: a time has no zone.
        RetryLater: another process is writing.
    """
    moments = sorted({parse_time(time, "snapshot time") for time in times})
    written = {USER_VIEW: 0, ITEM_VIEW: 0}
    source, target = (_events(layout, view, ids) for view in (SOURCE_VIEW, TARGET_VIEW))
    with sole_writer(layout.data), duck(spill_dir=SPILL_DIR) as session:
        for moment in moments:
            tables = {
                USER_VIEW: _run(session, _user_sql(source, moment), _user_schema(ids)),
                ITEM_VIEW: _run(session, _item_sql(target, moment), _item_schema(ids)),
            }
            part = _part_name(moment)
            write_tables({layout.features(view) / part: table for view, table in tables.items()})
            for view, table in tables.items():
                written[view] += table.num_rows
    return written


def _events(layout: Layout, view: str, ids: IdTypes) -> str:
    """The SQL that scans an event view, whose files are checked first."""
    folder = layout.events(view)
    parts = sorted(folder.glob(PARTS))
    if not parts:
        raise DataError(f"{folder} holds no events yet; run scalr import first")
    refuse_other_schema(parts, event_schema(ids.user_id, ids.item_id))
    return scan(parts)


def _part_name(moment: datetime) -> str:
    rest = f"_{moment.microsecond:06d}" if moment.microsecond else ""
    return f"part-{moment:%Y%m%dT%H%M%S}{rest}.parquet"


def _run(session: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema) -> pa.Table:
    return session.sql(query).to_arrow_table().cast(schema)


def _user_schema(ids: IdTypes) -> pa.Schema:
    return pa.schema(
        [
            pa.field("user_id", arrow_id_type(ids.user_id), nullable=False),
            *_count_fields("source"),
            pa.field("distinct_source_items", pa.int64(), nullable=False),
            pa.field("last_source_items", pa.list_(arrow_id_type(ids.item_id)), nullable=False),
            *_STAMPS,
        ]
    )


def _item_schema(ids: IdTypes) -> pa.Schema:
    return pa.schema(
        [
            pa.field("item_id", arrow_id_type(ids.item_id), nullable=False),
            *_count_fields("target"),
            *_STAMPS,
        ]
    )


def _count_fields(side: str) -> Iterator[pa.Field]:
    for span in (*(f"{days}d" for days in WINDOWS_DAYS), "total"):
        yield pa.field(f"{side}_events_{span}", pa.int64(), nullable=False)
    yield pa.field(f"days_since_last_{side}_event", pa.float64(), nullable=False)


def _user_sql(events: str, moment: datetime) -> str:
    newest_first = f"ORDER BY {EVENT_TIMESTAMP} DESC, event_id"
    return f"""
        SELECT user_id, {_counts_sql("source", moment)},
               count(DISTINCT (domain, item_id)) AS distinct_source_items,
               list(item_id {newest_first})[:{LAST_ITEMS}] AS last_source_items,
               {_stamps_sql(moment)}
        FROM {events} WHERE {as_of_sql(moment)} GROUP BY user_id ORDER BY user_id
        """


def _item_sql(events: str, moment: datetime) -> str:
    return f"""
        SELECT item_id, {_counts_sql("target", moment)}, {_stamps_sql(moment)}
        FROM {events} WHERE {as_of_sql(moment)} GROUP BY item_id ORDER BY item_id
        """


def _counts_sql(side: str, moment: datetime) -> str:
    windows = [
        f"count(*) FILTER ({EVENT_TIMESTAMP} >= {time_literal(moment - days * DAY)}) "
        f"AS {side}_events_{days}d"
        for days in WINDOWS_DAYS
    ]
    age_micros = f"epoch_us({time_literal(moment)}) - epoch_us(max({EVENT_TIMESTAMP}))"
    return ", ".join(
        [
            *windows,
            f"count(*) AS {side}_events_total",
            f"({age_micros}) / 86400e6 AS days_since_last_{side}_event",
        ]
    )


def _stamps_sql(moment: datetime) -> str:
    stamp = time_literal(moment)
    return f"{stamp} AS {EVENT_TIMESTAMP}, {stamp} AS {AVAILABLE_AT}"
