"""A log into the event views: each event once, all files or none, twice the same as once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scalr_ray.core.clock import to_micros
from scalr_ray.core.duck import duck, quote_text
from scalr_ray.core.errors import DataError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP
from scalr_ray.core.layout import Layout
from scalr_ray.ingest.files import SPILL_DIR, sole_writer, write_tables
from scalr_ray.ingest.log import DUPLICATE, EventLog

SOURCE_VIEW = "source_events"
TARGET_VIEW = "target_events"
PARTS = "part-*.parquet"


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """What an import did.

    Attributes:
        rows_read: all rows of the file.
        imported: events written now, by domain.
        duplicates: rows set aside because an earlier row of the file says the same.
        malformed: rows set aside for another reason.
        already_imported: events that were in their view before.
        refused_file: the rows set aside; None when there are none.
        files: for each view the part that holds this file's events, where there is one.
        fingerprint: the sha256 of the file.
        erased: rows left out because their users were erased.
        behind: source events written now that could be seen, by the log, before generation had
            looked at the events of their domain, by domain where there are any.
    """

    rows_read: int
    imported: dict[str, int]
    duplicates: int
    malformed: int
    already_imported: int
    refused_file: Path | None
    files: dict[str, Path]
    fingerprint: str
    erased: int = 0
    behind: Mapping[str, int] = field(default_factory=dict)


def import_log(
    log: EventLog,
    layout: Layout,
    *,
    source: Sequence[str],
    target: str,
    seen_up_to: Mapping[str, datetime] | None = None,
) -> ImportResult:
    """Write the events of a log that are not there yet, and the rows set aside.

    Each view gets one part, named by the file's fingerprint. All parts are written fully before the
    first becomes visible; after a crash between two of them, the same import completes the rest.

    Args:
        log: what was read.
        layout: where the store lies.
        source: the source domains.
        target: the target domain.
        seen_up_to: by source domain, the largest time from which an event was visible that events
            have been generated for; what becomes visible no later is not taken for new.

    Raises:
        DataError: a view holds events of other id types or of the other side's domain; nothing is
            changed.
        RetryLater: another import is writing.
    """
    part_name = f"part-{log.fingerprint[:16]}.parquet"
    refused_file = layout.rejected / f"import-{log.fingerprint[:16]}.parquet"
    views = {SOURCE_VIEW: list(source), TARGET_VIEW: [target]}
    files = {view: layout.events(view) / part_name for view in views}
    with sole_writer(layout.data):
        parts = {view: sorted(layout.events(view).glob(PARTS)) for view in views}
        refuse_other_tables(log, layout, target=target)
        wanted = {view: _of_domains(log.events, domains) for view, domains in views.items()}
        fresh = {view: _not_in(parts[view], wanted[view]) for view in views}
        # Feast refuses a view without any file, so the first import writes an empty one if need be.
        writes = {
            files[view]: _with_earlier(files[view], fresh[view])
            for view in views
            if fresh[view].num_rows or not parts[view]
        }
        write_tables(writes | _refused_write(refused_file, log.refused))
    duplicates = pc.sum(pc.equal(log.refused["reason"], DUPLICATE)).as_py() or 0
    return ImportResult(
        rows_read=log.rows_read,
        imported=_count_by_domain(fresh, views),
        duplicates=duplicates,
        malformed=log.refused.num_rows - duplicates,
        already_imported=sum(wanted[view].num_rows - fresh[view].num_rows for view in views),
        refused_file=refused_file if log.refused.num_rows else None,
        files={view: file for view, file in files.items() if file.exists()},
        fingerprint=log.fingerprint,
        erased=log.erased,
        behind=_behind(fresh[SOURCE_VIEW], seen_up_to or {}),
    )


def _behind(fresh: pa.Table, seen_up_to: Mapping[str, datetime]) -> dict[str, int]:
    """How many events of each domain become visible at or before its time, where any do."""
    happened = pc.add(fresh[EVENT_TIMESTAMP].cast(pa.int64()), 1)
    appears = pc.max_element_wise(happened, fresh[AVAILABLE_AT].cast(pa.int64()))
    counted = {}
    for domain, moment in sorted(seen_up_to.items()):
        mine = pc.equal(fresh["domain"], domain)
        behind = pc.and_(mine, pc.less_equal(appears, to_micros(moment)))
        counted[domain] = int(pc.sum(behind).as_py() or 0)
    return {domain: events for domain, events in counted.items() if events}


def refuse_other_schema(parts: Sequence[Path], schema: pa.Schema) -> None:
    """Check that event files of the store have the columns and types of `schema`.

    Raises:
        DataError: a file cannot be read, or has other columns or types.
    """
    for part in parts:
        try:
            there = pq.read_schema(part)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{part} in the store cannot be read; restore it, or remove it and import again"
            ) from error
        for column in schema:
            place = there.get_field_index(column.name)
            found = there.field(place).type if place >= 0 else "missing"
            if found != column.type:
                raise DataError(
                    f"{part} in the store: column {column.name!r} is {found}, not {column.type}; "
                    "use another data_dir, or set ids in scalr.yaml to the types of the store"
                )


def refuse_other_tables(log: EventLog, layout: Layout, *, target: str) -> None:
    """Refuse to mix two kinds of ids, or the two sides, in one store; nothing is written.

    Raises:
        DataError: a view holds events of other id types or of the other side's domain.
    """
    for view in (SOURCE_VIEW, TARGET_VIEW):
        files = sorted(layout.events(view).glob(PARTS))
        refuse_other_schema(files, log.events.schema)
        there = _domains(files)
        strangers = there - {target} if view == TARGET_VIEW else there & {target}
        if strangers:
            raise DataError(
                f"{layout.events(view)} holds events of domain {min(strangers)!r}, which does not "
                f"go with the target domain {target!r}; import into another data_dir"
            )


def _of_domains(events: pa.Table, domains: Sequence[str]) -> pa.Table:
    return events.filter(pc.is_in(events["domain"], pa.array(domains, pa.string())))


def _domains(parts: Sequence[Path]) -> set[str]:
    if not parts:
        return set()
    with duck(spill_dir=SPILL_DIR) as session:
        rows = session.execute(f"SELECT DISTINCT domain FROM {scan(parts)}").fetchall()
    return {domain for (domain,) in rows}


def _not_in(parts: Sequence[Path], events: pa.Table) -> pa.Table:
    """The events whose id stands in none of the parts, in their order."""
    if not parts:
        return events
    with duck(spill_dir=SPILL_DIR) as session:
        session.register("events", pa.table({"id": events["event_id"], "row": _count_up(events)}))
        query = f"""
            SELECT "row" FROM events
            WHERE id NOT IN (SELECT event_id FROM {scan(parts)}) ORDER BY "row"
            """
        return events.take(session.sql(query).to_arrow_table()["row"])


def _count_up(events: pa.Table) -> pa.Array:
    return pa.array(np.arange(events.num_rows))


def scan(parts: Sequence[Path]) -> str:
    """The SQL that reads the rows of Parquet files."""
    return f"read_parquet([{', '.join(quote_text(str(part)) for part in parts)}])"


def _with_earlier(part: Path, fresh: pa.Table) -> pa.Table:
    """`fresh` beside what an earlier import of the same file, with other domains, wrote."""
    if not part.exists():
        return fresh
    earlier = pq.read_table(part, partitioning=None)
    both = pa.concat_tables([earlier.cast(fresh.schema), fresh])
    return both.sort_by([(EVENT_TIMESTAMP, "ascending"), ("event_id", "ascending")])


def _refused_write(file: Path, refused: pa.Table) -> dict[Path, pa.Table]:
    """What to write so that `file` holds these rows and those set aside earlier from its log."""
    earlier = pq.read_table(file, partitioning=None) if file.exists() else refused.slice(0, 0)
    again = pc.is_in(earlier["row"], value_set=refused["row"])
    both = pa.concat_tables([earlier.filter(pc.invert(again)), refused]).sort_by("row")
    return {} if both.equals(earlier) else {file: both}


def _count_by_domain(
    fresh: Mapping[str, pa.Table], views: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    return {
        domain: _of_domains(fresh[view], [domain]).num_rows
        for view, domains in views.items()
        for domain in domains
    }
