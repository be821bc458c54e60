"""A log in memory: read, judged row by row, given event ids, sorted.

An event is what happened: its id is a hash of (domain, user, item, type, time) and of nothing else,
so that the same event keeps its id in another file, on another machine, and when its value or its
availability is corrected later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.config import IdTypes
from scalr_ray.core.duck import duck, quote_text
from scalr_ray.core.errors import DataError
from scalr_ray.core.events import (
    AVAILABLE_AT,
    EVENT_COLUMNS,
    EVENT_TIMESTAMP,
    SYNTHETIC_PREFIX,
    event_schema,
)
from scalr_ray.core.fingerprint import file_fingerprint
from scalr_ray.core.subjects import ErasedUsers
from scalr_ray.ingest.columns import (
    DEFAULT_EVENT_TYPE,
    LOG_COLUMNS,
    event_columns,
    infer_ids,
    read_columns,
    shorten,
)
from scalr_ray.ingest.files import SPILL_DIR
from scalr_ray.ingest.times import FIRST_YEAR, LAST_YEAR

DUPLICATE = "duplicate of an earlier row"
SYNTHETIC = "synthetic, and so no observed event"

REFUSED_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in LOG_COLUMNS),
    ]
)

# Each part is preceded by its length, so that no two different events give the same text.
_EVENT_ID = "md5({})".format(
    " || ".join(
        f"strlen({part}) || ':' || {part}"
        for part in (
            "domain",
            "user_id::VARCHAR",
            "item_id::VARCHAR",
            "event_type",
            f"epoch_us({EVENT_TIMESTAMP})::VARCHAR",
        )
    )
)


@dataclass(frozen=True, kw_only=True)
class EventLog:
    """The events of a log that may be used, and the rows that may not.

    Attributes:
        events: the schema of `scalr_ray.core.events.event_schema`, sorted by
            (event_timestamp, event_id), without duplicates; source and target domains together.
        refused: rows set aside: `row` (0-based place in the file), `reason`, then the columns as
            text under our names, null where the file has none.
        rows_read: all rows of the file.
        rows_other_domains: rows of domains that were not asked for; they are left out.
        fingerprint: the sha256 of the file.
        erased: rows of users who were erased; they are left out.
    """

    events: pa.Table
    refused: pa.Table
    rows_read: int
    rows_other_domains: int
    fingerprint: str
    erased: int = 0

    def without(self, erased: ErasedUsers) -> EventLog:
        """The same without the rows of users who were erased, be they sound or not."""
        events, refused = erased.without(self.events), erased.without(self.refused)
        left_out = self.events.num_rows - events.num_rows
        left_out += self.refused.num_rows - refused.num_rows
        return replace(self, events=events, refused=refused, erased=self.erased + left_out)


def read_event_log(
    file: Path,
    *,
    ids: IdTypes | None,
    source: Sequence[str],
    target: str,
    columns: Mapping[str, str] | None = None,
) -> EventLog:
    """Read and check an event log.

    Required columns are `user_id, item_id, domain, event_timestamp`; optional ones `event_type`
    (by default `interaction`), `value` (null) and `available_at` (the event's own time). Others are
    ignored. A time has a zone and becomes UTC in microseconds.

    Args:
        file: a Parquet file.
        ids: the id types of the repository; None takes those of the file.
        source: the source domains.
        target: the target domain.
        columns: our name to the file's name, where they differ.

    Raises:
        DataError: the file as a whole cannot be used; the message says why and what to do.
    """
    names = columns or {}
    raw = read_columns(file, names)
    if not raw.num_rows:
        raise DataError(f"{file} has no rows; export the log again")
    types = ids or infer_ids(file, names)
    rows = _rows(raw, event_columns(file, raw, types, names))
    _refuse_missing_domains(file, rows["domain"], [*source, target])
    schema = event_schema(types.user_id, types.item_id)
    with duck(spill_dir=SPILL_DIR) as session:
        _judge(session, rows, [*source, target])
        events, verdicts = _accepted(session, rows, schema), _set_aside(session)
    _refuse_unusable(file, events, source, target)
    return EventLog(
        events=events,
        refused=_as_text(raw, verdicts),
        rows_read=raw.num_rows,
        rows_other_domains=raw.num_rows - events.num_rows - len(verdicts),
        fingerprint=file_fingerprint(file),
    )


def _rows(raw: pa.Table, made: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """The event columns, complete with defaults, beside each row's place in the file."""
    count = raw.num_rows
    availability = AVAILABLE_AT if AVAILABLE_AT in made else EVENT_TIMESTAMP
    event_type = made.get("event_type", pa.chunked_array([pa.nulls(count, pa.string())]))
    return pa.table(
        {
            **made,
            "row": np.arange(count),
            "event_type": pc.fill_null(event_type, DEFAULT_EVENT_TYPE),
            AVAILABLE_AT: made[availability],
            "available_given": raw[availability].is_valid(),
            "value": made.get("value", pa.nulls(count, pa.float64())),
        }
    )


def _judge(session: duckdb.DuckDBPyConnection, rows: pa.Table, domains: Sequence[str]) -> None:
    """Make the table `judged`: for each row of `domains` its id and, if it is bad, the reason.

    Of several rows that describe the same event, the first sound one stays.
    """
    session.register("rows", rows)
    asked = ", ".join(quote_text(domain) for domain in domains)
    session.execute(f"""
        CREATE TABLE judged AS
        WITH faults AS (
          SELECT "row", {EVENT_TIMESTAMP}, {_EVENT_ID} AS event_id, {_fault()} AS fault
          FROM rows WHERE domain IN ({asked})
        ), firsts AS (
          SELECT event_id, min("row") AS first_row FROM faults WHERE fault IS NULL GROUP BY event_id
        )
        SELECT faults.*, coalesce(
                 fault, CASE WHEN "row" <> first_row THEN {quote_text(DUPLICATE)} END) AS reason
        FROM faults LEFT JOIN firsts USING (event_id)
        """)


def _fault() -> str:
    """The SQL that gives the first thing wrong with a row, or null."""
    years = f"outside the years {FIRST_YEAR} to {LAST_YEAR}"
    faults = {
        "user_id::VARCHAR = ''": "user_id is empty",
        "item_id::VARCHAR = ''": "item_id is empty",
        f"{EVENT_TIMESTAMP} IS NULL": f"{EVENT_TIMESTAMP} lies {years}",
        f"available_given AND {AVAILABLE_AT} IS NULL": f"{AVAILABLE_AT} lies {years}",
        f"{AVAILABLE_AT} < {EVENT_TIMESTAMP}": f"{AVAILABLE_AT} lies before {EVENT_TIMESTAMP}",
        "NOT isfinite(value)": "value is not finite",
        f"starts_with(event_type, {quote_text(SYNTHETIC_PREFIX)})": SYNTHETIC,
    }
    cases = " ".join(f"WHEN {when} THEN {quote_text(why)}" for when, why in faults.items())
    return f"CASE {cases} END"


def _accepted(session: duckdb.DuckDBPyConnection, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The sound rows with their ids, in order."""
    query = f"""
        SELECT "row", event_id FROM judged WHERE reason IS NULL ORDER BY {EVENT_TIMESTAMP}, event_id
        """
    sound = session.sql(query).to_arrow_table()
    taken = rows.take(sound["row"])
    known = pc.coalesce(taken[AVAILABLE_AT], taken[EVENT_TIMESTAMP])
    made = {"event_id": sound["event_id"], AVAILABLE_AT: known}
    columns = {**dict(zip(taken.column_names, taken.columns, strict=True)), **made}
    return pa.table({name: columns[name] for name in EVENT_COLUMNS}).cast(schema)


def _set_aside(session: duckdb.DuckDBPyConnection) -> pa.Table:
    query = 'SELECT "row", reason FROM judged WHERE reason IS NOT NULL ORDER BY "row"'
    return session.sql(query).to_arrow_table()


def _as_text(raw: pa.Table, verdicts: pa.Table) -> pa.Table:
    """The rows that `verdicts` points at, as they stand in the file, with their verdict."""
    taken = raw.take(verdicts["row"])
    absent = pa.nulls(len(verdicts), pa.string())
    texts = {
        name: taken[name].cast(pa.string()) if name in raw.column_names else absent
        for name in LOG_COLUMNS
    }
    return pa.table(
        {**dict(zip(verdicts.column_names, verdicts.columns, strict=True)), **texts}
    ).cast(REFUSED_SCHEMA)


def _refuse_missing_domains(file: Path, found: pa.ChunkedArray, asked: Sequence[str]) -> None:
    there = sorted(pc.unique(found).to_pylist())
    missing = sorted(set(asked) - set(there))
    if missing:
        raise DataError(
            f"{file}: no row of column 'domain' is {missing[0]!r} (there are {shorten(there)}); "
            "correct --source or --target"
        )


def _refuse_unusable(file: Path, events: pa.Table, source: Sequence[str], target: str) -> None:
    in_target = pc.equal(events["domain"], target)
    target_users = pc.unique(events["user_id"].filter(in_target))
    source_users = pc.unique(events["user_id"].filter(pc.invert(in_target)))
    for domain in (*source, target):
        if not pc.any(pc.equal(events["domain"], domain), min_count=0).as_py():
            raise DataError(f"{file}: every row of domain {domain!r} is malformed; repair the log")
    if not pc.any(pc.is_in(target_users, value_set=source_users), min_count=0).as_py():
        raise DataError(
            f"{file}: no user_id has events both in {', '.join(source)} and in {target}; "
            "the domains must share their user ids"
        )
