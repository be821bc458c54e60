"""The three reads: features of entity rows, the event set of a view, and the plain pulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
from feast.data_source import DataSource

from scalr_ray.core.duck import quote_name
from scalr_ray.core.events import EVENT_TIMESTAMP, TIMESTAMP
from scalr_ray.offline_store.entity_rows import key_columns, time_column, time_range
from scalr_ray.offline_store.kernel import AsOfJoin, as_of_join, as_of_join_sql
from scalr_ray.offline_store.key_filters import key_filters
from scalr_ray.offline_store.limits import Limits, open_duck
from scalr_ray.offline_store.sources.find import find_rows
from scalr_ray.offline_store.sources.reading import (
    Access,
    KeyFilter,
    Reading,
    SourceRows,
    TimeBound,
)
from scalr_ray.offline_store.view import ViewRead

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What reading sources takes, and what DuckDB may use."""

    access: Access
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When an entity row at t may see a feature row."""

    cut_off: bool
    strictly_before: bool


@dataclass(frozen=True, kw_only=True)
class FoundView:
    """A feature view of a retrieval, and the rows of it that some entity row may see.

    Attributes:
        read: what is taken from it.
        join: which of its rows may be seen by which entity row.
        rows: None while its source has no data.
    """

    read: ViewRead
    join: AsOfJoin
    rows: SourceRows | None

    @property
    def schema(self) -> pa.Schema:
        """Of its rows."""
        return self.read.empty().schema if self.rows is None else self.rows.schema

    @property
    def count(self) -> int:
        """How many rows its source holds."""
        return 0 if self.rows is None else self.rows.count


def find_views(
    entities: pa.Table | None, reads: Sequence[ViewRead], rule: Rule, access: Access
) -> list[FoundView]:
    """Find the sources of a retrieval; their rows are not read yet.

    Args:
        entities: what features are wanted for: rows that none of them may see need not be read.
            None where they are not in this process.
        reads: what is taken from which view.
        rule: what may be seen.
        access: what reading the sources takes.

    Raises:
        DataError: a source is gone or corrupt, or a column is missing or wrong.
        UsageError: the kind of source is not supported.
    """
    found = []
    for place, read in enumerate(reads):
        bounds: tuple[TimeBound, ...] = ()
        keys: tuple[KeyFilter, ...] = ()
        if entities is not None:
            bounds = reachable(read, entities[time_column(entities.schema)], rule)
            keys = wanted_keys(read, entities)
        rows = view_rows(read, bounds, access, keys=keys)
        found.append(FoundView(read=read, join=as_of(read, rule, place), rows=rows))
    return found


def join_features(entities: pa.Table, views: Sequence[FoundView], session: Session) -> pa.Table:
    """Return `entities`, as many rows in the same order, with the features of every view appended.

    Raises:
        DataError: a key column or a source is missing or wrong.
        UsageError: the memory limit is too low.
    """
    times = entities[time_column(entities.schema)]
    result = entities
    with open_duck(session.limits) as connection:
        for view in views:
            read = view.read
            _open_view(connection, view.join.relation, read, view.rows)
            kinds = [view.schema.field(key).type for key in read.keys]
            keys = key_columns(entities, list(read.keys.values()), kinds, read.name)
            found = as_of_join(connection, view.join, keys=keys, times=times)
            for feature, column in read.features.items():
                result = result.append_column(column, found[feature])
    return result


def as_of(read: ViewRead, rule: Rule, place: int) -> AsOfJoin:
    """The kernel's view of one feature view, which is the `place`-th of its retrieval."""
    return AsOfJoin(
        relation=f"feature_rows_{place}",
        keys=tuple(read.keys),
        event_time=read.event_time,
        columns=tuple(read.features),
        created=read.created,
        ttl=read.ttl,
        cut_off=rule.cut_off,
        strictly_before=rule.strictly_before,
    )


def join_features_sql(reads: Sequence[ViewRead], rule: Rule) -> str:
    """The statements that `join_features` runs, one per feature view."""
    return "\n;\n".join(
        f"-- {read.name} as feature_rows_{place}{as_of_join_sql(as_of(read, rule, place))}"
        for place, read in enumerate(reads)
    )


def event_set(
    read: ViewRead, *, since: datetime | None, until: datetime, rule: Rule, session: Session
) -> pa.Table:
    """Every row of a view with `since <= event time <= until`, and created by `until` if cut off.

    Columns: keys, features, `event_timestamp`, and the created column under its own name.
    """
    with open_duck(session.limits) as connection:
        rows = event_rows(read, since=since, until=until, rule=rule, access=session.access)
        _open_view(connection, "feature_rows", read, rows)
        return connection.sql(event_set_sql(read)).to_arrow_table()


def event_rows(
    read: ViewRead, *, since: datetime | None, until: datetime, rule: Rule, access: Access
) -> SourceRows | None:
    """The rows behind `event_set`; None when the source has no data yet."""
    last = until - _MICROSECOND if rule.strictly_before else until
    bounds = [TimeBound(column=read.columns[read.event_time], since=since, until=last)]
    if rule.cut_off and read.created:
        bounds.append(TimeBound(column=read.columns[read.created], until=until))
    return view_rows(read, tuple(bounds), access)


def event_set_sql(read: ViewRead) -> str:
    """The statement behind `event_set`, over rows that lie within the bounds."""
    shown = {column: quote_name(name) for name, column in (read.keys | read.features).items()}
    shown[EVENT_TIMESTAMP] = _utc(read.event_time)
    if read.created:
        shown[read.created] = _utc(read.created)
    columns = ", ".join(f"{value} AS {quote_name(name)}" for name, value in shown.items())
    return f"SELECT {columns} FROM feature_rows"


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Columns and rows of a source, named as in the source.

    Attributes:
        source: where the rows lie.
        keys: join key columns.
        features: feature columns.
        event_time: column of valid time.
        created: column of transaction time, if any.
        since: keep rows from this event time on; None is open.
        until: keep rows up to this event time, included; None is open.
        latest: keep only the latest row of each key.
    """

    source: DataSource
    keys: tuple[str, ...]
    features: tuple[str, ...]
    event_time: str
    created: str | None
    since: datetime | None
    until: datetime | None
    latest: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys, features, event time and created time, each once."""
        times = (self.event_time, *((self.created,) if self.created else ()))
        return tuple(dict.fromkeys((*self.keys, *self.features, *times)))


def pull_rows(pull: Pull, session: Session) -> pa.Table:
    """Read the rows of `pull`; a source without data gives none."""
    times = tuple(filter(None, (pull.event_time, pull.created)))
    reading = Reading(
        columns={name: name for name in pull.columns},
        times=times,
        bounds=(TimeBound(column=pull.event_time, since=pull.since, until=pull.until),),
    )
    with open_duck(session.limits) as connection:
        rows = find_rows(pull.source, reading, session.access)
        if rows is None:
            kinds = [(name, TIMESTAMP if name in times else pa.string()) for name in pull.columns]
            return pa.schema(kinds).empty_table()
        rows.open(connection, "feature_rows")
        return connection.sql(pull_sql(pull)).to_arrow_table()


def pull_sql(pull: Pull) -> str:
    """The statement behind `pull_rows`, over rows that lie within the bounds."""
    times = (pull.event_time, pull.created)
    shown = ", ".join(
        f"{_utc(name) if name in times else quote_name(name)} AS {quote_name(name)}"
        for name in pull.columns
    )
    statement = f"SELECT {shown} FROM feature_rows"
    if not pull.latest:
        return statement
    partition = ", ".join(quote_name(key) for key in pull.keys)
    newest = (*filter(None, times), *sorted(pull.features))
    order = ", ".join(f"{quote_name(name)} DESC NULLS LAST" for name in newest)
    window = f"{f'PARTITION BY {partition} ' if partition else ''}ORDER BY {order}"
    return f"{statement} QUALIFY row_number() OVER ({window}) = 1"


def _open_view(
    connection: duckdb.DuckDBPyConnection, name: str, read: ViewRead, rows: SourceRows | None
) -> None:
    if rows is None:
        connection.register(name, read.empty())
    else:
        rows.open(connection, name)


def view_rows(
    read: ViewRead,
    bounds: tuple[TimeBound, ...],
    access: Access,
    *,
    keys: tuple[KeyFilter, ...] = (),
) -> SourceRows | None:
    """The rows of one feature view; None when its source has no data yet.

    Rows of keys that no filter in `keys` names may be left out.

    Raises:
        DataError: the source is gone or corrupt, or a column is missing or wrong.
        UsageError: the kind of source is not supported.
    """
    columns = read.columns
    times = tuple(columns[time] for time in (read.event_time, read.created) if time)
    reading = Reading(columns=columns, times=times, bounds=bounds, keys=keys)
    return find_rows(read.source, reading, access)


def wanted_keys(read: ViewRead, entities: pa.Table) -> tuple[KeyFilter, ...]:
    """The keys of `entities`, where they are so few that a source can leave out all others."""
    columns = read.columns
    return key_filters(entities, {columns[key]: shown for key, shown in read.keys.items()})


def reachable(read: ViewRead, times: pa.ChunkedArray, rule: Rule) -> tuple[TimeBound, ...]:
    """The rows that some entity row may see: the rest need not be read from disk."""
    first, last = time_range(times)
    if last is None:
        return ()
    since = first - read.ttl if read.ttl else None
    bounds = [TimeBound(column=read.columns[read.event_time], since=since, until=last)]
    if rule.cut_off and read.created:
        bounds.append(TimeBound(column=read.columns[read.created], until=last))
    return tuple(bounds)


def _utc(name: str) -> str:
    return f"make_timestamptz(epoch_us({quote_name(name)}))"
