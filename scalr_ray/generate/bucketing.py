"""From the events of the store to buckets of users, on this machine or on a cluster.

Both give the same buckets with the same rows in them. Memory is that of a DuckDB session, whatever
the number of users; what is asked of users beside their events is asked for a million at a time.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scalr_ray.core.duck import quote_text
from scalr_ray.core.errors import DataError, TooLittleData
from scalr_ray.core.events import SYNTHETIC_PREFIX
from scalr_ray.generate.buckets import (
    ABOUT,
    BUCKETS_WRITTEN,
    SOURCE,
    TAKEN,
    TARGET,
    BucketCounts,
    BucketRules,
    Buckets,
    Side,
    group_rows,
)
from scalr_ray.generate.disk import full_disk_told, refuse_full_disk
from scalr_ray.offline_store.event_stream import EventStream, query
from scalr_ray.offline_store.limits import Limits, open_duck

# User ids (N,) to N rows of what is asked of users beside their events: any of `features`, a struct
# that the translator reads; `group` (int64), a row of the catalogue; `consent` (bool).
AboutUsers = Callable[[pa.Array], pa.Table]

_BYTES_PER_EVENT = 60
_COUNTED_USERS = 4_000_000  # rows above which users are counted by a sample
_ASKED_AT_ONCE = 1_000_000
_MOST_PARTITIONS = 1024  # the shuffle keeps an object for each pair of a block and a partition


def bucket_events(
    source: EventStream,
    target: EventStream,
    rules: BucketRules,
    folder: Path,
    *,
    taken: EventStream | None = None,
    about: AboutUsers | None = None,
) -> Buckets:
    """Put the events of both domains into buckets of users, unless they are there already.

    Args:
        source: events of the source domains.
        target: events of the target domain.
        rules: what is kept, and how large a bucket is.
        folder: where the buckets go, seen by every worker; of one set of inputs and rules only.
        taken: the synthetic events that have been published already, if they matter.
        about: tells of the users with source events what the plan needs beside the events.

    Raises:
        DataError: a source domain has no events, or some event is synthetic.
        UsageError: the disk is too small, or DuckDB's memory limit is.
        RetryLater: the cluster gave up, or the disk is full after all.
    """
    if (found := Buckets.found(folder)) is not None:
        return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = _source_rows(source, rules)
    _organic_rows(target)
    streams = {SOURCE: source, TARGET: target} | ({TAKEN: taken} if taken else {})
    refuse_full_disk(
        folder,
        sum(stream.count for stream in streams.values()) * _BYTES_PER_EVENT,
        "the events of the users, in buckets",
    )
    users = _users(source, rules, rows)
    buckets = max(1, -(-users // rules.users_per_bucket), -(-rows // rules.rows_per_bucket))
    left_out = 0
    for name, stream in streams.items():
        (folder / name).mkdir()
        size = rows if name == SOURCE else stream.count
        side = Side(name=name, rules=rules, buckets=buckets, group_rows=group_rows(size, buckets))
        left_out += _lay_down(stream, side, folder / name)
    counts = BucketCounts(buckets=buckets, users=users, source_events=rows, left_out=left_out)
    made = Buckets(folder=folder, counts=counts)
    with full_disk_told(BUCKETS_WRITTEN):
        if about is not None:
            _ask(made, about)
        made.close()
    # What was read of its files before they were complete is not kept.
    return Buckets(folder=folder, counts=counts)


def _source_rows(source: EventStream, rules: BucketRules) -> int:
    """How many events the source domains have; none of them may be without any."""
    found = _organic_rows(source)
    if missing := sorted(set(rules.source_domains) - found.keys()):
        there = ", ".join(sorted(found)) or "none"
        raise TooLittleData(
            f"{source.name} has no events of source domain {missing[0]!r} as of {rules.as_of}; "
            f"the domains that are there: {there}; correct domains.source or import them"
        )
    return sum(found[domain] for domain in rules.source_domains)


def _organic_rows(events: EventStream) -> dict[str, int]:
    """How many events there are by domain, none of which may be synthetic."""
    synthetic = f"count(*) FILTER (starts_with(event_type, {quote_text(SYNTHETIC_PREFIX)}))"
    counted = query(
        events,
        f"SELECT domain, count(*) AS rows, {synthetic} AS synthetic FROM {{events}} "
        "GROUP BY domain",
    )
    if not counted.num_rows:
        return {}
    # On a cluster each piece tells of its own rows.
    found = counted.group_by("domain").aggregate([("rows", "sum"), ("synthetic", "sum")])
    for row in found.to_pylist():
        if row["synthetic_sum"]:
            raise DataError(
                f"{events.name} holds {row['synthetic_sum']:,} synthetic events in domain "
                f"{row['domain']!r}; only observed events are translated: remove them"
            )
    return dict(zip(found["domain"].to_pylist(), found["rows_sum"].to_pylist(), strict=True))


def _users(source: EventStream, rules: BucketRules, rows: int) -> int:
    """How many users have source events; of many, about how many."""
    every = -(-rows // _COUNTED_USERS)
    key, domains = f"hash({rules.user})", ", ".join(map(quote_text, rules.source_domains))
    seen = query(
        source,
        f"SELECT DISTINCT {key} AS user FROM {{events}} "
        f"WHERE domain IN ({domains}) AND {key} % {every} = 0",
    )
    return int(pc.count_distinct(seen["user"]).as_py()) * every


def _lay_down(stream: EventStream, side: Side, folder: Path) -> int:
    """Write one side; returns how many events were left out."""
    if stream.on_cluster:
        return _lay_down_on_cluster(stream, side, folder)
    with open_duck(stream.limits) as session:
        stream.open(session, "events")
        return side.write(session, "events", folder / "part-00000000.parquet")


def _lay_down_on_cluster(stream: EventStream, side: Side, folder: Path) -> int:
    from scalr_ray.offline_store.distribute import gather, in_arrow, read_pieces

    limits = stream.limits.of_a_task()
    rows = read_pieces(stream.pieces(), stream.sql, limits)
    parcels = in_arrow(rows, partial(_cut, side=side, limits=limits))
    partitions = min(-(-stream.count // stream.engine.partition_rows), side.buckets)
    shuffled = parcels.repartition(max(1, min(partitions, _MOST_PARTITIONS)), keys=["bucket"])
    laid = in_arrow(shuffled, partial(_lay, side=side, limits=limits, folder=folder))
    counted = gather(laid)
    return int(pc.sum(counted["left_out"]).as_py() or 0)


def _cut(rows: pa.Table, side: Side, limits: Limits) -> pa.Table:
    """Parcels of the wanted rows of a block, by bucket."""
    from scalr_ray.offline_store.parcels import pack

    schema = side.rules.schema
    if not rows.num_columns:  # Ray loses the columns of a block without rows
        rows = schema.empty_table()
    with open_duck(limits) as session:
        session.register("rows", rows)
        wanted = side.cut(session, "rows")
    buckets = wanted["bucket"].to_numpy()
    kept = wanted.drop_columns(["bucket"]).cast(schema)
    return pack(kept, buckets, np.zeros(len(buckets), np.int64), 0)


def _lay(parcels: pa.Table, side: Side, limits: Limits, folder: Path) -> pa.Table:
    """Write the rows of whole buckets to a file; a task that is run again replaces its own."""
    from scalr_ray.offline_store.parcels import unpack

    left_out = 0
    full = [bucket for bucket, rows in _held(parcels) if rows]
    if full:
        path = folder / f"part-{min(full):08d}.parquet"
        half_written = folder / f".{path.name}.{uuid.uuid4().hex}"
        with open_duck(limits) as session:
            session.register("rows", unpack(parcels, 0, side.rules.schema))
            left_out = side.write(session, "rows", half_written)
        half_written.replace(path)
    return pa.table({"left_out": [left_out]})


def _held(parcels: pa.Table) -> Iterator[tuple[int, int]]:
    if parcels.num_columns:
        yield from zip(parcels["bucket"].to_pylist(), parcels["rows"].to_pylist(), strict=True)


def _ask(buckets: Buckets, about: AboutUsers) -> None:
    """Write beside the events what is told of the users, for some whole buckets at a time."""
    folder = buckets.folder / ABOUT
    folder.mkdir()
    rows = group_rows(buckets.counts.users, buckets.counts.buckets)
    for place, users in enumerate(_users_at_once(buckets)):
        told = about(users["user_id"].combine_chunks())
        for name in told.column_names:
            users = users.append_column(name, told[name])  # noqa: PLW2901 - grows by columns
        pq.write_table(users, folder / f"part-{place:08d}.parquet", row_group_size=rows)


def _users_at_once(buckets: Buckets) -> Iterator[pa.Table]:
    """`user_id` and `bucket`, each user once, sorted by bucket, about a million at a time."""
    held: pa.Table | None = None
    for batch in buckets.user_ids():
        held = _distinct(batch if held is None else pa.concat_tables([held, batch]))
        if held.num_rows > _ASKED_AT_ONCE:
            # More of the users of the last bucket may follow.
            going_on = pc.equal(held["bucket"], batch["bucket"][-1])
            if (complete := held.filter(pc.invert(going_on))).num_rows:
                yield complete.sort_by("bucket")
                held = held.filter(going_on)
    if held is not None and held.num_rows:
        yield held.sort_by("bucket")


def _distinct(users: pa.Table) -> pa.Table:
    return users.group_by(["user_id", "bucket"]).aggregate([])
