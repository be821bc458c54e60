"""Where a synthetic event comes from, back to what was observed; and how two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.duck import quote_text
from scalr_ray.core.errors import UsageError
from scalr_ray.jobs.workspace import SOURCE_VIEW, Workspace
from scalr_ray.ledger import BatchRecord, RunRecord, TranslatorRecord
from scalr_ray.offline_store.event_stream import query


class UnknownEvent(UsageError):
    """There is no such synthetic event."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What is known of a synthetic event, from the row back.

    Attributes:
        event: its row.
        place: where the row lies: `published`, `in an older snapshot` or `staged`.
        batch: that it belongs to.
        run: that generated the batch.
        translator: that drew it.
        trained_by: the run that trained the translator.
        forced: who published it though the gate refused, said why; None where nobody did.
        sources: versions of the observed event that triggered it, as the store has them; none
            where it is not there any more.
    """

    event: Mapping[str, Any]
    place: str
    batch: BatchRecord
    run: RunRecord
    translator: TranslatorRecord
    trained_by: RunRecord
    forced: str | None
    sources: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something in which two runs differ.

    Attributes:
        what: `code`, `config.a.b`, `metrics.a.b`, `translator`, and so on.
        first: what the first has; None where it lacks it.
        second: what the second has.
    """

    what: str
    first: Any
    second: Any


def trace(workspace: Workspace, event_id: str) -> Lineage:
    """Walk back from a synthetic event.

    Raises:
        UnknownEvent: no such event is published, staged, or in a snapshot that can still be read.
    """
    row, place = _find(workspace, event_id)
    ledger = workspace.ledger
    batch = ledger.batch(str(row["batch_id"]))
    translator = ledger.translator(str(row["translator_version"]))
    forced = ledger.forcing(batch.batch_id)
    return Lineage(
        event=row,
        place=place,
        batch=batch,
        run=ledger.run(batch.run_id),
        translator=translator,
        trained_by=ledger.run(translator.run_id),
        forced=None if forced is None else forced.detail,
        sources=tuple(_sources(workspace, row["source_event_id"], batch)),
    )


def compare_runs(workspace: Workspace, first_id: str, second_id: str) -> list[Difference]:
    """In what two runs differ: code, seed, settings, what they made, and what they measured.

    Raises:
        UsageError: there is no such run.
    """
    runs = [workspace.ledger.run(run_id) for run_id in (first_id, second_id)]
    first, second = (_described(workspace, run) for run in runs)
    return [
        Difference(what=name, first=first.get(name), second=second.get(name))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]


def _described(workspace: Workspace, run: RunRecord) -> dict[str, Any]:
    ledger = workspace.ledger
    made = ledger.translators(run_id=run.run_id)
    batches = ledger.batches(run_id=run.run_id)
    told: dict[str, Any] = {
        "verb": run.verb,
        "code": run.code_version,
        "seed": run.seed,
        "status": run.status.value,
        "error": run.error_code,
        "translator": [record.version for record in made] or None,
        "data": [record.data_fingerprint for record in made] or None,
        "batch": [batch.batch_id for batch in batches] or None,
        "drawn by": [batch.translator_version for batch in batches] or None,
    }
    told |= _flat("config", run.config)
    told |= _flat("metrics", run.metrics)
    for record in made:
        told |= _flat("translator.metrics", record.metrics)
    return told


def _flat(name: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 - recursive over JSON
    """The leaves of nested settings, by dotted key."""
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves |= _flat(f"{name}.{key}", item)
    return leaves


def _find(workspace: Workspace, event_id: str) -> tuple[Mapping[str, Any], str]:
    lake = workspace.lake
    found = lake.find_event(event_id)
    if found is not None:
        shown = found["batch_id"] in lake.published_batches()
        return found, "published" if shown else "in an older snapshot"
    for batch_id in lake.staged_batches():
        rows = lake.read_staged(batch_id)
        mine = rows.filter(pc.equal(rows["event_id"], event_id))
        if mine.num_rows:
            return mine.to_pylist()[0], "staged"
    raise UnknownEvent(
        f"there is no synthetic event {event_id}, published, staged or in a snapshot that is kept"
    )


def _sources(workspace: Workspace, event_id: object, batch: BatchRecord) -> list[Mapping[str, Any]]:
    if event_id is None:
        return []
    stream = workspace.stream(SOURCE_VIEW, batch.as_of)
    named = quote_text(str(event_id))
    found: pa.Table = query(stream, f"SELECT * FROM {{events}} WHERE event_id = {named}")
    versions: list[Mapping[str, Any]] = found.sort_by("available_at").to_pylist()
    return versions
