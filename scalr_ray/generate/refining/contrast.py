"""The rows that real and synthetic events are compared by: a keyed sample of both, with features.

Anybody can compute the features for a real and for a synthetic event alike. Those of the **row**
say which item it is on and when. Those of the **user** say how much history its user has; they
differ by design, since events are drawn for users with little of it. **Served** ones are what
Feast says of user and item as of the time of the row, as a trainer would be served them. Both are
reported for the trainer's sake, but a density ratio that saw them would take back the choice of
users.

A real event counts as much as the prior gives its item, split evenly among the events of the item:
that is the recent target domain that alignment goes by as well. The first event of an item has no
counterpart, because nobody could have proposed the item; so only later events are compared, and
only items that have some. Ages are whole days, since many logs know no more.

Rows come into the sample by a hash of user, item and time, so that neither order, files nor batch
id change it. DuckDB reads the columns that are needed, and only the sample is ever in memory.

Legend: I items, N rows, F features of a row, W features of a user and served ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.keyed import id_keys, stream_seed
from scalr_ray.translator import FeaturesAsOf

# Of either side, about: an area under the curve is then known to half a percent.
SAMPLE_ROWS = 50_000

ROW_FEATURES = ("log_prior", "item_age_days", "days_before_cut", "weekday")
USER_FEATURES = ("target_events", "source_events")

_DAY_MICROS = 86_400_000_000
_EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday; Monday is 0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A feature service that a trainer may be served from.

    Attributes:
        service: its name.
        key: `user_id` or `item_id`.
        ask: what it serves of such ids, each as of a time of its own.
    """

    service: str
    key: str
    ask: FeaturesAsOf


@dataclass(frozen=True, kw_only=True)
class ObservedTarget:
    """What was known of the target domain as of the cut.

    Attributes:
        events: real target events visible as of the cut: `user_id`, `item_id`, `event_timestamp`.
        item_ids: (I,) ids of the items, in the order of the codes that drawn rows carry.
        prior: (I,) recent popularity; 0 for an item that is never proposed.
        first_seen: (I,) microseconds since 1970 of the first event on each item.
        item_values: (I,) the feature that alignment goes by: numbers, or anything else as
            categories; null where unknown. None where it goes by popularity or not at all.
        source_counts: `user_id` and `events`, the number of source events visible as of the cut;
            None leaves that feature out.
        served: services whose features are held against each other too.
    """

    events: pa.Table
    item_ids: pa.Array
    prior: NDArray[np.float64]
    first_seen: NDArray[np.int64]
    item_values: pa.Array | None = None
    source_counts: pa.Table | None = None
    served: tuple[Served, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ItemFacts:
    """What the features of a row are computed from.

    Attributes:
        as_of_micros: the cut, microseconds since 1970.
        log_prior: (I,) finite.
        first_seen: (I,) microseconds since 1970.
        values: (I,) the feature that alignment goes by, or None.
        by: its name.
    """

    as_of_micros: int
    log_prior: NDArray[np.float64]
    first_seen: NDArray[np.int64]
    values: NDArray[np.float64] | None
    by: str | None

    @classmethod
    def of(cls, observed: ObservedTarget, *, as_of_micros: int, by: str | None) -> ItemFacts:
        """The facts of the items; `by` names `observed.item_values` where they are given."""
        values = observed.item_values
        return cls(
            as_of_micros=as_of_micros,
            log_prior=np.log(np.maximum(observed.prior, np.finfo(np.float64).tiny)),
            first_seen=observed.first_seen,
            values=None if values is None else item_numbers(values)[0],
            by=by,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """(F,) of the features."""
        return ROW_FEATURES if self.values is None else (*ROW_FEATURES, self.by or "item_value")

    def features(self, item: NDArray[np.int64], micros: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, F) of rows on the items with codes `item` (N,) at times `micros` (N,)."""
        columns = [
            self.log_prior[item],
            (micros - self.first_seen[item]) // _DAY_MICROS,
            (self.as_of_micros - micros) // _DAY_MICROS,
            ((micros // _DAY_MICROS) + _EPOCH_WEEKDAY) % 7,
        ]
        if self.values is not None:
            columns.append(self.values[item])
        return np.column_stack(columns).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Real and synthetic rows side by side, in an order that follows from the rows.

    Attributes:
        real: (N,) which rows are real.
        weight: (N,) how much a row counts.
        user_key: (N,) key of the row's user.
        features: (N, F) of the row.
        names: (F,) of them.
        user_features: (N, W) of the row's user: the number of *other* target events, so that a
            real event does not count itself, and of source events; then what is served.
        user_names: (W,) of them.
        item: (N,) item code.
        thinning: (N,) of synthetic rows; 0 for real ones.
        event_ids: (N,) of synthetic rows; null for real ones.
    """

    real: NDArray[np.bool_]
    weight: NDArray[np.float64]
    user_key: NDArray[np.uint64]
    features: NDArray[np.float64]
    names: tuple[str, ...]
    user_features: NDArray[np.float64]
    user_names: tuple[str, ...]
    item: NDArray[np.int64]
    thinning: NDArray[np.float64]
    event_ids: pa.Array

    @property
    def sides(self) -> tuple[int, int]:
        """The number of real and of synthetic rows."""
        return int(self.real.sum()), int((~self.real).sum())

    def where(self, mask: NDArray[np.bool_]) -> Contrast:
        """The rows that `mask` (N,) marks."""
        return Contrast(
            real=self.real[mask],
            weight=self.weight[mask],
            user_key=self.user_key[mask],
            features=self.features[mask],
            names=self.names,
            user_features=self.user_features[mask],
            user_names=self.user_names,
            item=self.item[mask],
            thinning=self.thinning[mask],
            event_ids=self.event_ids.filter(pa.array(mask)),
        )


def item_numbers(values: pa.Array) -> tuple[NDArray[np.float64], bool]:
    """A feature as numbers (I,), NaN where unknown, and whether they are categories.

    Categories are numbered in ascending order.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    numeric = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if not numeric:
        distinct = pc.unique(values).drop_null()
        values = pc.index_in(values, value_set=distinct.take(pc.array_sort_indices(distinct)))
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, dtype=np.float64), not numeric


def _served_numbers(served: pa.Table) -> dict[str, NDArray[np.float64]]:
    """(N,) of each feature that is one value: times as microseconds, and no lists."""
    numbers = {}
    for name, values in zip(served.column_names, served.columns, strict=True):
        if pa.types.is_nested(values.type) or pa.types.is_null(values.type):
            continue
        plain = values.cast(pa.int64()) if pa.types.is_timestamp(values.type) else values
        numbers[name] = item_numbers(plain)[0]
    return numbers


def draw_contrast(
    session: duckdb.DuckDBPyConnection,
    observed: ObservedTarget,
    facts: ItemFacts,
    *,
    seed: int,
    rows: int = SAMPLE_ROWS,
) -> Contrast:
    """About `rows` real and as many synthetic rows, or all where there are fewer.

    Args:
        session: with the relation `candidates`: the positives that were drawn.
        observed: the real side.
        facts: of the items.
        seed: of the sample.
        rows: of either side, about.
    """
    _register(session, observed)
    counted = observed.source_counts is not None
    salt = stream_seed("contrast", seed)
    found = session.sql(_sample_sql(salt, rows, counted=counted)).to_arrow_table()
    item = found["item_code"].to_numpy()
    micros = found["event_timestamp"].cast(pa.int64()).to_numpy()
    user_columns = {name: found[name].to_numpy() for name in USER_FEATURES[: 1 + counted]}
    ids = {"user_id": found["user_id"].combine_chunks(), "item_id": observed.item_ids.take(item)}
    for served in observed.served:
        columns = _served_numbers(served.ask(ids[served.key], micros))
        for name, numbers in columns.items():
            there = name in user_columns or name in facts.names
            user_columns[f"{served.service}:{name}" if there else name] = numbers
    return Contrast(
        real=found["real"].to_numpy(),
        weight=found["weight"].to_numpy(),
        user_key=keys_of_users(found["user_id"]),
        features=facts.features(item, micros),
        names=facts.names,
        user_features=np.column_stack(list(user_columns.values())).astype(np.float64),
        user_names=tuple(user_columns),
        item=item,
        thinning=found["thinning"].to_numpy(),
        event_ids=found["event_id"].combine_chunks(),
    )


def keys_of_users(users: pa.ChunkedArray) -> NDArray[np.uint64]:
    """(N,) the key of each user id; each distinct id is hashed once."""
    encoded = users.combine_chunks().dictionary_encode()
    return np.asarray(id_keys(encoded.dictionary)[encoded.indices.to_numpy()])


def _register(session: duckdb.DuckDBPyConnection, observed: ObservedTarget) -> None:
    items = pa.table(
        {
            "item_id": observed.item_ids,
            "item_code": np.arange(len(observed.item_ids)),
            "prior": observed.prior,
            "first_seen": observed.first_seen,
        }
    )
    session.register("observed_events", observed.events)
    session.register("observed_items", items)
    if observed.source_counts is not None:
        session.register("source_counts", observed.source_counts)


def _sample_sql(salt: int, rows: int, *, counted: bool) -> str:
    """Rows come in with a chance of `rows` times their share, decided by their own coin."""

    def coin(side: str) -> str:
        key = f"concat_ws(chr(31), '{salt}', '{side}', user_id, item_id, epoch_us(event_timestamp))"
        return f"CAST(md5_number_lower({key}) AS DOUBLE) / 18446744073709551616.0"

    source = "coalesce(source_counts.events, 0)::DOUBLE" if counted else "0.0"
    joined = "LEFT JOIN source_counts USING (user_id)" if counted else ""
    return f"""
        WITH later AS (
            SELECT user_id, item_id, item_code, event_timestamp, prior
            FROM observed_events JOIN observed_items USING (item_id)
            WHERE prior > 0 AND epoch_us(event_timestamp) > first_seen
        ),
        items AS (
            SELECT item_code, any_value(prior) AS prior, count(*) AS events
            FROM later GROUP BY ALL
        ),
        known AS (
            SELECT user_id, item_code, event_timestamp, items.prior / events AS mass,
                {coin("real")} AS coin,
                least(1.0, {rows} * mass / total.prior) AS chance
            FROM later JOIN items USING (item_code)
            CROSS JOIN (SELECT sum(prior ORDER BY item_code) AS prior FROM items) AS total
        ),
        alike AS (SELECT * FROM candidates SEMI JOIN items USING (item_code)),
        drawn_rows AS (
            SELECT user_id, item_code, event_timestamp, thinning, event_id,
                {coin("synthetic")} AS coin,
                least(1.0, {rows}::DOUBLE / (SELECT count(*) FROM alike)) AS chance
            FROM alike
        ),
        sampled AS (
            SELECT true AS real, user_id, item_code, event_timestamp, mass / chance AS weight,
                0.0::DOUBLE AS thinning, NULL AS event_id, coin
            FROM known WHERE coin < chance
            UNION ALL
            SELECT false, user_id, item_code, event_timestamp, 1.0, thinning, event_id, coin
            FROM drawn_rows WHERE coin < chance
        ),
        owned AS (SELECT user_id, count(*) AS events FROM observed_events GROUP BY ALL)
        SELECT sampled.*, {source} AS source_events,
            (coalesce(owned.events, 0) - CAST(real AS INTEGER))::DOUBLE AS target_events
        FROM sampled LEFT JOIN owned USING (user_id) {joined}
        ORDER BY real, coin, user_id, item_code
    """
