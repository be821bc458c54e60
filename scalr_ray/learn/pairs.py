"""Counting pairs: one DuckDB statement over the rows of a set of users, here or on a cluster.

Rows are what was visible, as of whatever time the caller says; repeats of a user and an item count
once, by the first of them and by their largest type weight. As users are counted one by one and in
whole units, the table of all users is the sum of the tables of any parts of them:

```
count_pairs             one part, in this process; `count_coded` of coded events
count_pairs_on_cluster  parts by user, the same statement in each, summed by pair (learn.pairs_ray)
updated                 a table, and the users that have changed since: only these are counted
```
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.clock import to_micros
from scalr_ray.core.duck import quote_text
from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.offline_store.limits import Limits, open_duck
from scalr_ray.translator.counts import ONE, TYPE_ONE, PairCounts, PairRules
from scalr_ray.translator.encode import Vocabulary, source_keys
from scalr_ray.translator.noise import Bound, Noise, with_noise
from scalr_ray.translator.weighing import Weighing

if TYPE_CHECKING:  # it brings Feast, for which the workers of a cluster need not wait
    from scalr_ray.offline_store.engine import Engine
ROW_COLUMNS = ("user", "item", "type", "time")


@dataclass(frozen=True, kw_only=True)
class PairRows:
    """Visible events of both domains.

    Attributes:
        source: `user`, `item` (text or whole numbers), `type` (text, may be null) and `time`
            (microseconds since 1970).
        target: the same of the target domain; its users are of the same type.
    """

    source: pa.Table
    target: pa.Table

    @classmethod
    def of(cls, source: pa.Table, target: pa.Table, as_of: datetime) -> PairRows:
        """The rows of two event tables that are visible as of a time.

        They have the columns of `scalr_ray.core.events`. A source item is a key of its domain and
        its id, so that domains may share ids.
        """
        source, target = (_visible(events, as_of) for events in (source, target))
        return cls(
            source=_columns(source, source_keys(source)),
            target=_columns(target, target["item_id"]),
        )


def counts_to_keep(
    seen: TrainingEvents,
    weighing: Weighing,
    limits: Limits,
    *,
    noise: Noise | None = None,
    engine: Engine | None = None,
) -> PairCounts:
    """What a translator keeps of visible, coded events: counted, then noise, then the floor.

    Args:
        seen: coded events as of the time of the count.
        weighing: what one user adds to a pair, and the floor; `noisy` if there is noise.
        limits: of DuckDB.
        noise: put on the pairs, counted under its bound.
        engine: whether a Ray cluster counts; None counts here.

    Raises:
        UsageError: the memory limit is too low.
        RetryLater: the cluster gave up.
    """
    if noise is None:
        counts = count_coded(seen, weighing.rules, limits, engine=engine)
    else:
        bounded = count_coded(seen, weighing.rules, limits, bound=noise.bound, engine=engine)
        counts = with_noise(bounded, noise, weighing.rules)
    return counts.with_floor(weighing.min_users)


def count_coded(
    seen: TrainingEvents,
    rules: PairRules,
    limits: Limits,
    *,
    bound: Bound | None = None,
    engine: Engine | None = None,
) -> PairCounts:
    """Count coded events, all of which are visible; the counts are under the same codes.

    Args:
        seen: coded events as of the time of the count.
        rules: what one user adds to a pair.
        limits: of DuckDB.
        bound: how many items of a user are counted; None takes all.
        engine: whether a Ray cluster counts; None counts here.

    Raises:
        UsageError: the memory limit is too low.
        RetryLater: the cluster gave up.
    """
    # Codes change with who else is there, and so would the choice among a user's items.
    rows = _coded_rows(seen, by_id=bound is not None)
    if engine is not None and engine.takes_cluster(rows.source.num_rows + rows.target.num_rows):
        from scalr_ray.learn.pairs_ray import count_rows_on_cluster

        counts = count_rows_on_cluster(
            rows, rules, limits, partition_rows=engine.partition_rows, bound=bound
        )
    else:
        counts = count_pairs(rows, rules, limits, bound=bound)
    if bound is None:
        return counts
    return counts.coded(seen.source_items, seen.target_items)


def count_pairs(
    rows: PairRows, rules: PairRules, limits: Limits, *, bound: Bound | None = None
) -> PairCounts:
    """Count every user of `rows`.

    Args:
        rows: all the visible events of some users.
        rules: what one user adds to a pair.
        limits: of DuckDB; beyond its memory it spills to disk.
        bound: how many items of a user are counted; None takes all.

    Raises:
        UsageError: the memory limit is too low.
    """
    return PairCounts.of(partial_counts(rows, rules, limits, bound=bound))


def updated(
    table: PairCounts,
    before: PairRows,
    after: PairRows,
    rules: PairRules,
    limits: Limits,
    *,
    bound: Bound | None = None,
) -> PairCounts:
    """The table after a day of new events, an erasure or a re-import: that of a full recount.

    What the touched users gave before is taken out, what they give now is put in, so that late
    events and first events that have moved are no special cases.

    Args:
        table: counts of all users.
        before: every event of the touched users that `table` was counted with; none of new users.
        after: every event of the touched users that is visible now; none of erased users.
        rules: those of `table`.
        limits: of DuckDB.
        bound: that of `table`.

    Raises:
        DataError: `table` was not counted with what `before` holds.
    """
    gone, come = (count_pairs(rows, rules, limits, bound=bound) for rows in (before, after))
    # Put in before taking out: users who are in both tables for a moment harm no sum.
    return table.plus(come).minus(gone)


def partial_counts(
    rows: PairRows, rules: PairRules, limits: Limits, *, bound: Bound | None = None
) -> pa.Table:
    """What `PairCounts.of` sums: `source`, `target`, `users`, `weight`, in no particular order.

    Args:
        rows: all the visible events of some users, and nothing of others.
        rules: what one user adds to a pair.
        limits: of DuckDB.
        bound: how many items of a user are counted; None takes all.

    Raises:
        UsageError: the memory limit is too low.
    """
    source_items = Vocabulary.of(rows.source["item"])
    target_items = Vocabulary.of(rows.target["item"])
    with open_duck(limits) as session:
        # Numbers are joined and grouped several times as fast as text.
        session.register("source_rows", _coded(rows.source, source_items))
        session.register("target_rows", _coded(rows.target, target_items))
        _register_recency(session, rules)
        counted = session.sql(pairs_sql(rules, bound)).to_arrow_table()
    return pa.table(
        {
            "source": source_items.ids.take(counted["source"].combine_chunks()),
            "target": target_items.ids.take(counted["target"].combine_chunks()),
            "users": counted["users"],
            "weight": counted["weight"],
        }
    )


def pairs_sql(rules: PairRules, bound: Bound | None) -> str:
    """The statement, over `source_rows` and `target_rows` and, with a half-life, `recency`.

    Rows without a source are of a target item: its users, and their type weights.
    """
    weight = "s.units * t.units"
    decay = ""
    if rules.step_us is not None:
        last = len(rules.recency_units) - 1
        decay = (
            f" JOIN recency r ON r.step = least(abs(t.first - s.first) // {rules.step_us}, {last})"
        )
        weight = f"(({weight} * r.units) >> 16)"
    return f"""
WITH source AS ({_firsts_sql("source", rules, bound.source_items if bound else None, bound)}
), target AS ({_firsts_sql("target", rules, bound.target_items if bound else None, bound)}
)
SELECT s.item AS source, t.item AS target, count(*) AS users, sum({weight})::BIGINT AS weight
FROM source s JOIN target t ON s.user = t.user{decay}
GROUP BY s.item, t.item
UNION ALL
SELECT NULL, item, count(*), sum(units * {ONE // TYPE_ONE})::BIGINT
FROM target WHERE user IN (SELECT user FROM source)
GROUP BY item"""


def _firsts_sql(side: str, rules: PairRules, most: int | None, bound: Bound | None) -> str:
    """One row for each user and item: the first of its events that count, the largest weight."""
    units = str(TYPE_ONE)
    if rules.type_units:
        cases = [f"WHEN {quote_text(name)} THEN {n}" for name, n in rules.type_units.items()]
        units = f"CASE type {' '.join(cases)} ELSE {TYPE_ONE} END"
    firsts = f"""
  SELECT user, item, any_value(id) AS id, min(time) AS first, max(units)::BIGINT AS units
  FROM (SELECT *, {units} AS units FROM {side}_rows) WHERE units > 0
  GROUP BY user, item"""
    if bound is None or most is None:
        return firsts
    key = f"md5(concat_ws(chr(31), {quote_text(f'{bound.seed}')}, {quote_text(side)}, user, id))"
    return f"""
  SELECT * FROM ({firsts})
  QUALIFY row_number() OVER (PARTITION BY user ORDER BY {key}, id) <= {most}"""


def _register_recency(session: duckdb.DuckDBPyConnection, rules: PairRules) -> None:
    units = rules.recency_units
    session.register("recency", pa.table({"step": np.arange(len(units)), "units": units}))


def _coded(rows: pa.Table, items: Vocabulary) -> pa.Table:
    return pa.table(
        {
            "user": rows["user"],
            "item": items.codes(rows["item"]),
            "id": rows["item"],
            "type": rows["type"],
            "time": rows["time"],
        }
    )


def _coded_rows(seen: TrainingEvents, *, by_id: bool = False) -> PairRows:
    def rows(log: CodedEvents, items: Vocabulary) -> pa.Table:
        user, item = pa.array(log.users), pa.array(log.items)
        if by_id:
            user, item = seen.users.ids.take(user), items.ids.take(item)
        types = seen.event_types.ids.take(pa.array(log.types, mask=log.types < 0))
        return pa.table([user, item, types, log.times], names=ROW_COLUMNS)

    return PairRows(
        source=rows(seen.source_log, seen.source_items),
        target=rows(seen.target_log, seen.target_items),
    )


def _visible(events: pa.Table, as_of: datetime) -> pa.Table:
    cut = to_micros(as_of)
    happened, known = (_micros(events[name]) for name in ("event_timestamp", "available_at"))
    return events.filter(pc.and_(pc.less(happened, cut), pc.less_equal(known, cut)))


def _columns(events: pa.Table, items: pa.Array | pa.ChunkedArray) -> pa.Table:
    times = _micros(events["event_timestamp"])
    return pa.table([events["user_id"], items, events["event_type"], times], names=ROW_COLUMNS)


def _micros(times: pa.ChunkedArray) -> pa.ChunkedArray:
    return times.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
