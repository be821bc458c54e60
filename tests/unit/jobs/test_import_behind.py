"""What is imported too late for a scheduled run to take it for new is told, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lake_rows import NOON
from quick_repos import quick_repo
from rich.console import Console

from scalr_ray.core.duck import duck
from scalr_ray.core.events import event_schema
from scalr_ray.ingest import EventLog, import_log
from scalr_ray.jobs.ingest import import_file
from scalr_ray.jobs.news import is_new_sql
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState

HOUR, MICROSECOND = timedelta(hours=1), timedelta(microseconds=1)
DOMAINS = ("books", "games")


def write_log(file: Path, hours: dict[str, list[int]], *, known: int | None = None) -> Path:
    """Events of domains at hours from noon; with `known` they became known at that hour."""
    rows = [
        {
            "user_id": "u",
            "item_id": at + 1000 * place,
            "domain": domain,
            "event_timestamp": NOON + at * HOUR,
            **({} if known is None else {"available_at": NOON + known * HOUR}),
        }
        for place, (domain, each) in enumerate(hours.items())
        for at in each
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


@pytest.fixture
def shown() -> StringIO:
    return StringIO()


@pytest.fixture
def workspace(tmp_path, shown) -> Iterator[Workspace]:
    progress = Progress(Console(file=shown, width=400))
    settings = ("domains={source: [books, games], target: films}",)
    with closing(Workspace(quick_repo(tmp_path), settings, progress)) as opened:
        yield opened


def publish_up_to(workspace: Workspace, watermarks) -> None:
    """A published batch, as far as the ledger knows, that had seen each domain so far."""
    ledger = workspace.ledger
    with ledger.running("train", {}, "f", 0) as run:
        ledger.add_translator(
            version="t", run_id=run.run_id, kind="frequency", train_cutoff=NOON,
            config_fingerprint="f", data_fingerprint="0" * 64, metrics={}, path="nowhere",
        )  # fmt: skip
        ledger.add_batch(
            batch_id="b", run_id=run.run_id, translator_version="t", as_of=NOON, rows=1
        )
    ledger.set_watermarks("b", watermarks)
    ledger.judge_batch("b", findings=[], to=BatchState.ACCEPTED, reason=None)
    ledger.move_batch("b", expected=BatchState.ACCEPTED, to=BatchState.PUBLISHED)


def test_late_events_without_a_time_of_knowing_are_told_in_one_line(workspace, tmp_path, shown):
    log = {"books": [0, 1, 2], "games": [0], "films": [0, 1]}
    told = import_file(workspace, write_log(tmp_path / "first.parquet", log), {})
    assert told.behind == {}
    publish_up_to(workspace, {"books": NOON + 2 * HOUR + MICROSECOND, "games": NOON + MICROSECOND})
    # Two books of before, one of after, a game of after, and what was there already.
    more = {"books": [-5, -4, 3, 0], "games": [7], "films": [-9]}
    told = import_file(workspace, write_log(tmp_path / "second.parquet", more), {})
    assert told.behind == {"books": 2}
    (line,) = [line for line in shown.getvalue().splitlines() if "could be seen" in line]
    assert "2 events of books could be seen, by this log, before 2026-" in line
    assert "say in available_at when they became known" in line


def test_late_events_that_say_when_they_became_known_are_new(workspace, tmp_path, shown):
    publish_up_to(workspace, {"books": NOON + 2 * HOUR, "games": NOON})
    log = {"books": [-5, -4], "games": [-1], "films": [0]}
    told = import_file(workspace, write_log(tmp_path / "log.parquet", log, known=3), {})
    assert told.behind == {}
    assert "could be seen" not in shown.getvalue()


event = st.tuples(st.sampled_from(DOMAINS), st.integers(0, 6), st.integers(0, 3))


@given(st.lists(event, unique=True), st.dictionaries(st.sampled_from(DOMAINS), st.integers(0, 9)))
def test_what_is_behind_is_what_is_not_new(tmp_path_factory, events, marks):
    rows = [
        {
            "event_id": f"{domain}-{at}-{late}",
            "user_id": "u",
            "item_id": 1,
            "domain": domain,
            "event_timestamp": NOON + at * HOUR,
            "available_at": NOON + (at + late) * HOUR,
        }
        for domain, at, late in events
    ]
    table = pa.Table.from_pylist(rows, schema=event_schema("string", "int64"))
    since = {domain: NOON + at * HOUR for domain, at in marks.items()}
    log = EventLog(
        events=table,
        refused=pa.table({"row": pa.array([], pa.int64()), "reason": pa.array([], pa.string())}),
        rows_read=len(rows),
        rows_other_domains=0,
        fingerprint="f" * 64,
    )
    folder = quick_repo(tmp_path_factory.mktemp("behind"))
    with closing(Workspace(folder, (), Progress())) as workspace:
        told = import_log(log, workspace.layout, source=DOMAINS, target="films", seen_up_to=since)
    with duck() as session:
        session.register("source", table)
        old = f"SELECT domain FROM source WHERE NOT {is_new_sql(DOMAINS, since)}"
        found = [domain for (domain,) in session.execute(old).fetchall()]
    assert told.behind == {domain: found.count(domain) for domain in DOMAINS if domain in found}
