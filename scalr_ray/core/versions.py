"""Events that were recorded again: the last version counts."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP


def latest_versions(events: pa.Table, as_of: datetime) -> pa.Table:
    """The events visible as of a time, each once: of one that was recorded again, the last version.

    That is the one with the greatest (event time, availability), as in Feast. So a correction takes
    the place of what it corrects, and appears when it became known.
    """
    cut = pa.scalar(as_of, events.schema.field(EVENT_TIMESTAMP).type)
    happened = pc.less(events[EVENT_TIMESTAMP], cut)
    seen = events.filter(pc.and_(happened, pc.less_equal(events[AVAILABLE_AT], cut)))
    if pc.count_distinct(seen["event_id"]).as_py() == seen.num_rows:
        return seen
    newest_first = [(EVENT_TIMESTAMP, "descending"), (AVAILABLE_AT, "descending")]
    seen = seen.sort_by([("event_id", "ascending"), *newest_first])
    ids = seen["event_id"].combine_chunks()
    last = np.ones(len(ids), dtype=bool)
    last[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return seen.filter(pa.array(last))
