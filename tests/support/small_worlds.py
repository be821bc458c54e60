"""Small event tables and matrices, made by hand or cut from a simulated world."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from scalr_ray.core.clock import floor_day, from_micros, to_micros
from scalr_ray.core.events import event_schema
from scalr_ray.simulate import World
from scalr_ray.translator import EventLists, Users

DAY_0 = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


def event_table(rows: Iterable[Sequence], domain: str, prefix: str | None = None) -> pa.Table:
    """Rows of (user, item, day of the event[, day it became known]); ids count the rows."""
    columns = []
    for at, (user, item, happened, *known) in enumerate(rows):
        columns.append(
            {
                "event_id": f"{prefix or domain}-{at:05d}",
                "user_id": user,
                "item_id": item,
                "domain": domain,
                "event_type": "view",
                "event_timestamp": day(happened),
                "available_at": day(known[0] if known else happened),
                "value": None,
            }
        )
    return pa.Table.from_pylist(columns, schema=event_schema("string", "string"))


def domain_tables(world: World) -> tuple[pa.Table, pa.Table]:
    """The source and the target events of a simulated world, in the schema of the store."""
    ids = pa.array([f"e{at:07d}" for at in range(world.events.num_rows)])
    schema = event_schema("string", "string")
    events = world.events.append_column("event_id", ids).select(schema.names).cast(schema)
    is_target = pc.equal(events["domain"], world.config.target_domain)
    return events.filter(pc.invert(is_target)), events.filter(is_target)


def quantile_day(events: pa.Table, share: float) -> datetime:
    micros = events["event_timestamp"].cast(pa.int64()).to_numpy()
    return floor_day(from_micros(int(np.quantile(micros, share))))


def users_of(history: sparse.csr_matrix, own: sparse.csr_matrix, as_of: datetime = DAY_0) -> Users:
    """Users with these source and target items, of whom nothing else is known."""

    def lists(having: sparse.csr_matrix) -> EventLists:
        return EventLists(
            offsets=having.indptr.astype(np.int64),
            items=having.indices.astype(np.int64),
            times=np.zeros(having.nnz, dtype=np.int64),
            types=np.full(having.nnz, -1, dtype=np.int64),
            values=np.full(having.nnz, np.nan, dtype=np.float32),
        )

    return Users(as_of=to_micros(as_of), source=lists(history), own=lists(own))


def matrix(rows: Sequence[Iterable[int]], width: int) -> sparse.csr_matrix:
    """0/1 CSR of float32: which codes each row has."""
    dense = np.zeros((len(rows), width), dtype=np.float32)
    for at, codes in enumerate(rows):
        dense[at, list(codes)] = 1.0
    return sparse.csr_matrix(dense)
