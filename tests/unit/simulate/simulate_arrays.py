"""Worlds as plain arrays, for checks that count."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.simulate import WORLD_START, World

DAY_MICROS = timedelta(days=1) // timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class DomainEvents:
    """Events of one domain in time order: user index, item index, day of the world (fraction)."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    day: NDArray[np.float64]

    def matrix(self, users: int, items: int, *, start: float, end: float) -> NDArray[np.float64]:
        """(users, items), 1 where the user has the item in [start, end) days."""
        within = (self.day >= start) & (self.day < end)
        matrix = np.zeros((users, items))
        matrix[self.user[within], self.item[within]] = 1
        return matrix


def domain_events(world: World, domain: str) -> DomainEvents:
    rows = world.events.filter(pc.equal(world.events["domain"], domain))
    item = pc.list_element(pc.split_pattern(rows["item_id"], ":"), 1)
    micros = rows["event_timestamp"].cast(pa.int64()).to_numpy()
    return DomainEvents(
        user=pc.utf8_slice_codeunits(rows["user_id"], 1, 7).cast(pa.int64()).to_numpy(),
        item=item.cast(pa.int64()).to_numpy(),
        day=(micros - to_micros(WORLD_START)) / DAY_MICROS,
    )
