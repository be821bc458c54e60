"""What is new: which events appeared after the batches that are published had looked.

An event appears when it can first be seen: strictly after it happened, and as soon as it is known.
So one that happened long ago and arrived today is new, and one that was corrected is new again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import pyarrow.compute as pc

from scalr_ray.core.clock import to_micros
from scalr_ray.core.duck import quote_text
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP
from scalr_ray.jobs.workspace import SOURCE_VIEW, TARGET_VIEW, Workspace
from scalr_ray.ledger import BatchRecord, BatchState
from scalr_ray.offline_store.event_stream import query

_APPEARS = f"greatest(epoch_us({EVENT_TIMESTAMP}) + 1, epoch_us({AVAILABLE_AT}))"


def published_as_of(workspace: Workspace, as_of: datetime) -> list[BatchRecord]:
    """The published batches that were generated as of a time or earlier, newest first."""
    batches = workspace.ledger.batches(BatchState.PUBLISHED)
    return sorted(
        (batch for batch in batches if batch.as_of <= as_of),
        key=lambda batch: (batch.as_of, batch.created_at),
        reverse=True,
    )


def watermarks(workspace: Workspace, published: Sequence[BatchRecord]) -> dict[str, datetime]:
    """How far the published batches have seen each source domain.

    Args:
        workspace: an opened repository.
        published: what `published_as_of` gives; without batches there are no watermarks.
    """
    if not published:
        return {}
    newest = published[0].as_of
    recorded = workspace.ledger.watermarks(as_of=newest)
    # A batch saw all that was visible as of its time, also where its watermarks were not recorded.
    return recorded or dict.fromkeys(workspace.config.domains.source, newest)


def describe_watermarks(since: Mapping[str, datetime]) -> str:
    """Watermarks in words, for a note to the user."""
    return ", ".join(f"{moment} ({domain})" for domain, moment in sorted(since.items()))


def count_news(workspace: Workspace, as_of: datetime, since: Mapping[str, datetime]) -> int:
    """How many source events, visible as of a time, appeared after the watermark of their domain.

    All events of a domain without a watermark do.
    """
    new = is_new_sql(workspace.config.domains.source, since)
    with workspace.progress.stage("Look for new source events"):
        stream = workspace.stream(SOURCE_VIEW, as_of)
        counted = query(stream, f"SELECT count(*) AS events FROM {{events}} WHERE {new}")
    return int(pc.sum(counted["events"]).as_py() or 0)


def has_changed(
    workspace: Workspace, as_of: datetime, *, since: Mapping[str, datetime], than: datetime
) -> bool:
    """Whether more is visible as of a time than a batch had seen.

    Args:
        workspace: an opened repository.
        as_of: T.
        since: the watermarks of the batch, for the source domains.
        than: the time it was generated as of, for the target domain.
    """
    if count_news(workspace, as_of, since):
        return True
    target = quote_text(workspace.config.domains.target)
    with workspace.progress.stage("Look for new target events"):
        stream = workspace.stream(TARGET_VIEW, as_of)
        new = f"domain = {target} AND {_APPEARS} > {to_micros(than)}"
        counted = query(stream, f"SELECT count(*) AS events FROM {{events}} WHERE {new}")
    return bool(pc.sum(counted["events"]).as_py())


def is_new_sql(domains: Sequence[str], since: Mapping[str, datetime]) -> str:
    """The DuckDB predicate that keeps what `count_news` counts."""
    each = [
        f"(domain = {quote_text(domain)}"
        + (f" AND {_APPEARS} > {to_micros(since[domain])})" if domain in since else ")")
        for domain in domains
    ]
    return f"({' OR '.join(each)})"
