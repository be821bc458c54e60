"""Simulated worlds, cut like the logs of `tests.bench.amazon`: odd users lose their history."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.events import TIMESTAMP
from scalr_ray.jobs.arms import holdout
from scalr_ray.learn import TrainingEvents
from tests.bench.amazon import Split
from tests.support.small_worlds import quantile_day


def split_world(source: pa.Table, target: pa.Table) -> Split:
    """Cut the source and the target events of a world."""
    cut, validation_cut = quantile_day(target, 0.8), quantile_day(target, 0.65)
    before = pc.less(target["event_timestamp"], pa.scalar(cut, TIMESTAMP))
    odd = pc.is_in(pc.utf8_slice_codeunits(target["user_id"], -1), pa.array(list("13579")))
    known = target.filter(pc.and_(before, pc.invert(odd)))
    source = source.filter(pc.less(source["event_timestamp"], pa.scalar(cut, TIMESTAMP)))
    events = TrainingEvents.of(source, known)
    later = target.filter(pc.invert(before))
    test = holdout(
        events,
        events.users.codes(later["user_id"]),
        events.target_items.codes(later["item_id"]),
    )
    return Split(events=events, validation_cut=validation_cut, cut=cut, test=test)
