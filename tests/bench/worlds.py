"""Simulated worlds, cut like the logs of `tests.bench.amazon`: odd users lose their history."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tests.bench.amazon import Split, split_of
from tests.support.small_worlds import quantile_day


def split_world(source: pa.Table, target: pa.Table) -> Split:
    """Cut the source and the target events of a world."""
    cut, validation_cut = quantile_day(target, 0.8), quantile_day(target, 0.65)
    odd = pc.is_in(pc.utf8_slice_codeunits(target["user_id"], -1), pa.array(list("13579")))
    return split_of(source, target, odd, cut=cut, validation_cut=validation_cut)
