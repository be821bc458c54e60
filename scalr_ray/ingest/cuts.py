"""Where in time a log is cut, and what is kept out of the store for an evaluation."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.clock import DAY, EPOCH, floor_day, from_micros, parse_time, to_micros
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import EVENT_TIMESTAMP, TIMESTAMP
from scalr_ray.core.keyed import stream_seed
from scalr_ray.ingest.log import EventLog

HiddenUsers = Literal["none", "odd"]


def target_cut(log: EventLog, target: str, quantile: float) -> datetime:
    """The `quantile` of the target domain's event times, floored to the day in UTC.

    Between two events it is interpolated linearly, as `numpy.quantile` does.

    Raises:
        DataError: the log has no event of the domain.
    """
    times = log.events[EVENT_TIMESTAMP].filter(pc.equal(log.events["domain"], target))
    if not len(times):
        raise DataError(f"the log has no event of domain {target!r}; correct --target")
    micros = times.cast(pa.int64()).to_numpy()
    return floor_day(from_micros(int(np.quantile(micros, quantile))))


def withhold(
    log: EventLog, *, before: datetime, hide_users: HiddenUsers, target: str
) -> tuple[EventLog, pa.Table]:
    """Take the earlier target events of hidden users out of a log.

    It simulates users without a target history whose later events are known.

    Args:
        log: what was read.
        before: events with `event_timestamp < before` are taken out.
        hide_users: `none`, or `odd` for the users of `is_odd_user`.
        target: the target domain.

    Returns:
        The log without them, and the events taken out.
    """
    if hide_users == "none":
        return log, log.events.slice(0, 0)
    events = log.events
    early = pc.less(events[EVENT_TIMESTAMP], pa.scalar(to_micros(before)).cast(TIMESTAMP))
    hidden = pc.and_(
        pc.and_(pc.equal(events["domain"], target), early), is_odd_user(events["user_id"])
    )
    return replace(log, events=events.filter(pc.invert(hidden))), events.filter(hidden)


def is_odd_user(users: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each user belongs to the odd half: by parity of an integer id, of a hash of text."""
    if pa.types.is_integer(users.type):
        return pc.equal(pc.bit_wise_and(users, pa.scalar(1, users.type)), 1)
    distinct = pc.unique(users)
    odd = pa.array([stream_seed(user) % 2 == 1 for user in distinct.to_pylist()], pa.bool_())
    return pc.take(odd, pc.index_in(users, value_set=distinct))


def snapshot_times(first: datetime, last: datetime, every_days: int = 30) -> list[datetime]:
    """`last`, and the times before it, none before `first`, that lie on a grid; in ascending order.

    The grid has a point every so many days since 1970. So whoever imports more events later finds
    the same times before them: what is served of the past does not depend on what came after.

    Raises:
        UsageError: `last` lies before `first`, or one of them has no zone.
    """
    start, end = parse_time(first, "first"), parse_time(last, "last")
    if end < start:
        raise UsageError(f"the last snapshot, {end}, lies before the first, {start}; swap them")
    step = every_days * DAY
    from_, to = -((EPOCH - start) // step), (end - EPOCH) // step
    times = [EPOCH + number * step for number in range(from_, to + 1)]
    return times if times and times[-1] == end else [*times, end]
