"""Rows packed for a shuffle: a block of rows becomes a few parcels, one for each bucket of keys.

A shuffle that moves parcels instead of rows does not look at types and columns, copies a row once,
and unpacks without copying. All rows of a key are in one bucket, whichever side they come from, so
that any set of whole buckets can be joined by itself. No Feast and no Ray in here.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scalr_ray.core.duck import quote_name

PARCELS = pa.schema(
    [
        ("bucket", pa.int64()),
        ("side", pa.int32()),  # which of the relations that are joined
        ("rows", pa.int64()),
        ("moments", pa.list_(pa.int64())),  # a sample of the times of the rows, in microseconds
        ("parcel", pa.large_binary()),  # an Arrow IPC stream
    ]
)
_SAMPLES = 16


def key_types(schema: pa.Schema, keys: Sequence[str]) -> tuple[str, ...]:
    """The DuckDB types in which the key columns of feature rows are compared and hashed."""
    with duckdb.connect(":memory:") as session:
        session.register("feature_rows", schema.empty_table())
        relation = session.table("feature_rows")
        types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    return tuple(types[key] for key in keys)


def key_buckets(
    session: duckdb.DuckDBPyConnection,
    keys: Sequence[pa.ChunkedArray],
    types: Sequence[str],
    count: int,
) -> npt.NDArray[np.int64]:
    """The bucket of each row, from 0 to `count - 1`: the same for equal keys on any machine.

    Args:
        session: does the hashing.
        keys: one or more key columns. A value that cannot be had in its type equals no key of it.
        types: the DuckDB types of the feature keys, in that order.
        count: number of buckets.
    """
    session.register("keys", pa.table({f"k{place}": key for place, key in enumerate(keys)}))
    typed = [f"TRY_CAST({quote_name(f'k{place}')} AS {kind})" for place, kind in enumerate(types)]
    unmatched = " OR ".join(f"{key} IS NULL" for key in typed)
    found = session.sql(
        f"SELECT (hash({', '.join(typed)}) % {count})::BIGINT AS bucket, {unmatched} AS unmatched "
        "FROM keys"
    ).fetchnumpy()
    session.unregister("keys")
    # what matches nothing may go anywhere: together, many nulls would make one bucket too heavy
    return np.where(found["unmatched"], np.arange(len(keys[0])) % count, found["bucket"])


def pack(
    rows: pa.Table, buckets: npt.NDArray[np.int64], moments: npt.NDArray[np.int64], side: int
) -> pa.Table:
    """Cut `rows` by bucket; `PARCELS` columns, a row for each bucket that has any, one at least."""
    if not rows.num_rows:
        columns = {"bucket": [0], "side": [side], "rows": [0], "moments": [[]]}
        return pa.table(columns | {"parcel": _streams([rows])}, schema=PARCELS)
    few = buckets.max() <= np.iinfo(np.uint16).max  # numpy sorts short integers by radix
    order = np.argsort(buckets.astype(np.uint16) if few else buckets, kind="stable")
    sorted_rows = rows.take(pa.array(order)).combine_chunks()
    present, starts = np.unique(buckets[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    ranges = list(zip(starts, ends, strict=True))
    columns = {
        "bucket": present.astype(np.int64),
        "side": np.full(len(present), side, np.int32),
        "rows": (ends - starts).astype(np.int64),
        "moments": [
            moments[order[start : end : -(-(end - start) // _SAMPLES)]] for start, end in ranges
        ],
        "parcel": _streams([sorted_rows.slice(start, end - start) for start, end in ranges]),
    }
    return pa.table(columns, schema=PARCELS)


def unpack(parcels: pa.Table, side: int, schema: pa.Schema) -> pa.Table:
    """The rows of one side in `parcels`, in no particular order."""
    batches = [
        batch
        for its_side, parcel in zip(parcels["side"].to_numpy(), parcels["parcel"], strict=True)
        if its_side == side
        for batch in pa.ipc.open_stream(parcel.as_buffer())
    ]
    return pa.Table.from_batches(batches, schema)


def _streams(tables: Sequence[pa.Table]) -> pa.LargeBinaryArray:
    """Each table as an Arrow IPC stream, all in one buffer."""
    sink = pa.BufferOutputStream()
    offsets = [0]
    for table in tables:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        offsets.append(sink.tell())
    places = pa.py_buffer(np.array(offsets, np.int64))
    return pa.Array.from_buffers(pa.large_binary(), len(tables), [None, places, sink.getvalue()])
