"""What the tasks of a distributed as-of join do: cut rows into parcels, split, join. No Ray here.

A bucket that is too heavy, as one with a user of a third of all rows, is split by time. An entity
row goes to the slice that holds its t; a feature row to the slice in which it appears. A slice also
gets, from each parcel and for each key, the best of the rows that appeared in earlier slices: of
all that was visible when the slice began, only the best can ever be the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.duck import quote_name
from scalr_ray.offline_store.entity_rows import key_columns, time_column
from scalr_ray.offline_store.kernel import (
    AsOfJoin,
    as_of_join,
    best_first_sql,
    visible_from_sql,
)
from scalr_ray.offline_store.limits import Limits, open_duck
from scalr_ray.offline_store.parcels import key_buckets, pack, unpack

ENTITY_SIDE = 0
_NEVER = -(2**63)  # an entity row without a time sees nothing, wherever it lies


@dataclass(frozen=True, kw_only=True)
class ShuffledView:
    """One feature view of a shuffle.

    Attributes:
        name: for messages.
        join: which of its rows may be seen.
        entity_keys: the columns of the entity rows that its keys are compared with.
        shown: feature -> column of the result.
        schema: of its rows.
    """

    name: str
    join: AsOfJoin
    entity_keys: tuple[str, ...]
    shown: dict[str, str]
    schema: pa.Schema


@dataclass(frozen=True, kw_only=True)
class Slices:
    """How one heavy bucket is split.

    Attributes:
        first: the bucket of its first slice; those of the others follow.
        starts: when the second slice and the others begin, ascending, in microseconds.
    """

    first: int
    starts: npt.NDArray[np.int64]

    def places(self, moments: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The number of the slice that holds each moment, the first being 0."""
        return np.searchsorted(self.starts, moments, side="right")

    @classmethod
    def even(cls, moments: Sequence[int], count: int, first: int) -> Slices:
        """At most `count` slices of about as many of the sampled `moments` each."""
        places = np.linspace(0, len(moments), count + 1)[1:-1].astype(int)
        return cls(first=first, starts=np.unique(np.sort(np.asarray(moments, np.int64))[places]))


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """Views that are keyed alike: by the same entity columns, and in the same types.

    Attributes:
        views: the `place`-th is side `place + 1`; entity rows are side 0.
        key_types: DuckDB types of the keys.
        entities: schema of the entity rows.
        buckets: how many buckets the keys fall into.
        limits: of DuckDB, for each task.
    """

    views: tuple[ShuffledView, ...]
    key_types: tuple[str, ...]
    entities: pa.Schema
    buckets: int
    limits: Limits

    def cut_entities(self, rows: pa.Table) -> pa.Table:
        """Parcels of entity rows.

        Raises:
            DataError: a key column does not suit the views.
        """
        keys = self._entity_keys(rows, self.views[0])
        with open_duck(self.limits) as session:
            return pack(rows, self._buckets(session, keys, rows), _times(rows), ENTITY_SIDE)

    def cut_features(self, side: int, rows: pa.Table) -> pa.Table:
        """Parcels of feature rows; those without a key or a time match nothing and are left out."""
        join = self._view(side).join
        needed = [*join.keys, join.event_time]
        needed += [join.created] if join.cut_off and join.created else []
        if any(rows[name].null_count for name in needed):
            rows = rows.filter(reduce(pc.and_, [pc.is_valid(rows[name]) for name in needed]))
        keys = [rows[key] for key in join.keys]
        with open_duck(self.limits) as session:
            buckets = self._buckets(session, keys, rows)
            return pack(rows, buckets, _visible_from(session, join, rows), side)

    def split(self, parcels: pa.Table, heavy: Mapping[int, Slices]) -> pa.Table:
        """The same parcels, those of heavy buckets replaced by parcels of their slices."""
        whole = np.isin(parcels["bucket"].to_numpy(), list(heavy))
        pieces = [parcels.filter(pa.array(~whole))]
        with open_duck(self.limits) as session:
            for row in np.flatnonzero(whole):
                parcel = parcels.slice(row, 1)
                slices = heavy[parcel["bucket"][0].as_py()]
                pieces.append(self._split_parcel(session, parcel, slices))
        return pa.concat_tables(pieces)

    def answer(self, parcels: pa.Table) -> pa.Table:
        """The entity rows of whole buckets, in no particular order, with the features appended.

        Raises:
            UsageError: the memory limit is too low.
        """
        result = entities = unpack(parcels, ENTITY_SIDE, self.entities)
        times = entities[time_column(entities.schema)]
        with open_duck(self.limits) as session:
            for place, view in enumerate(self.views):
                session.register(view.join.relation, unpack(parcels, place + 1, view.schema))
                keys = self._entity_keys(entities, view)
                found = as_of_join(session, view.join, keys=keys, times=times)
                session.unregister(view.join.relation)
                for feature, column in view.shown.items():
                    result = result.append_column(column, found[feature])
        return result

    def _view(self, side: int) -> ShuffledView:
        return self.views[side - 1]

    def _entity_keys(self, rows: pa.Table, view: ShuffledView) -> list[pa.ChunkedArray]:
        kinds = [view.schema.field(key).type for key in view.join.keys]
        return key_columns(rows, view.entity_keys, kinds, view.name)

    def _buckets(
        self,
        session: duckdb.DuckDBPyConnection,
        keys: Sequence[pa.ChunkedArray],
        rows: pa.Table,
    ) -> npt.NDArray[np.int64]:
        if not keys:
            return np.zeros(rows.num_rows, np.int64)
        return key_buckets(session, keys, self.key_types, self.buckets)

    def _split_parcel(
        self, session: duckdb.DuckDBPyConnection, parcel: pa.Table, slices: Slices
    ) -> pa.Table:
        side = parcel["side"][0].as_py()
        if side == ENTITY_SIDE:
            rows = unpack(parcel, side, self.entities)
            moments = _times(rows)
            places = slices.places(moments)
        else:
            view = self._view(side)
            rows = unpack(parcel, side, view.schema)
            moments = _visible_from(session, view.join, rows)
            places = slices.places(moments)
            carried, later = _carried(session, view.join, places, len(slices.starts))
            rows = pa.concat_tables([rows, rows.take(pa.array(carried))])
            moments = np.concatenate([moments, moments[carried]])
            places = np.concatenate([places, later])
        return pack(rows, slices.first + places, moments, side)


def _times(entities: pa.Table) -> npt.NDArray[np.int64]:
    times = entities[time_column(entities.schema)].cast(pa.int64()).fill_null(_NEVER)
    return np.asarray(times.to_numpy(), np.int64)


def _visible_from(
    session: duckdb.DuckDBPyConnection, join: AsOfJoin, rows: pa.Table
) -> npt.NDArray[np.int64]:
    session.register("feature", rows)
    found = session.sql(f"SELECT {visible_from_sql(join)} AS vis FROM feature").fetchnumpy()["vis"]
    return np.asarray(found, np.int64)


def _carried(
    session: duckdb.DuckDBPyConnection, join: AsOfJoin, places: npt.NDArray[np.int64], last: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which rows of `feature` go along to later slices than their own, and to which.

    Args:
        session: holds `feature`.
        join: by which they are compared.
        places: the slice of each row.
        last: the number of the last slice, the first being 0.
    """
    keys = [f"feature.{quote_name(key)}" for key in join.keys]
    names = [f"k{place}" for place in range(len(keys))]
    partition = f"PARTITION BY {', '.join(keys)} " if keys else ""
    selected = "".join(f"{key} AS {name}, " for key, name in zip(keys, names, strict=True))
    grouped = "".join(f"{name}, " for name in names)
    session.register("places", pa.table({"row": np.arange(len(places)), "slice": places}))
    found = session.sql(f"""
WITH ranked AS (
  SELECT {selected}places.row, places.slice,
    row_number() OVER ({partition}ORDER BY {best_first_sql(join)}) AS place
  FROM feature POSITIONAL JOIN places
), best AS (
  SELECT {grouped}slice, arg_min(row, place) AS row, min(place) AS place
  FROM ranked GROUP BY {grouped}slice
), later AS (
  SELECT unnest(range(1, {last} + 1)) AS slice
)
SELECT arg_min(best.row, best.place) AS row, later.slice AS slice
FROM best JOIN later ON best.slice < later.slice
GROUP BY {grouped}later.slice""").fetchnumpy()
    session.unregister("places")
    return np.asarray(found["row"], np.int64), np.asarray(found["slice"], np.int64)
