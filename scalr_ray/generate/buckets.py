"""Users in buckets on disk: everything known of a user lies in one bucket, of a size a task bears.

```
events of a side, as of T ─► sorted by bucket ─► <folder>/<side>/part-*
source events: the newest of each user
```

What a user owns or has been proposed is never forgotten, however much it is: of the sides `target`
and `taken` a user with very many events loses repeats of the same item only.

A bucket is a hash of the user id. On one machine a side is one DuckDB statement, which spills; on a
cluster Ray shuffles the rows, and the tasks run the same statement on what they get. The files of a
side are sorted by bucket, so that their footers say where in them a bucket lies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scalr_ray.core.clock import time_literal
from scalr_ray.core.config import IdTypes
from scalr_ray.core.duck import quote_name, quote_text
from scalr_ray.core.events import AVAILABLE_AT, EVENT_COLUMNS, EVENT_TIMESTAMP, IdType, event_schema
from scalr_ray.generate.disk import full_disk_told

SOURCE, TARGET, TAKEN, ABOUT = "source", "target", "taken", "about"
SIDES = (SOURCE, TARGET, TAKEN)
BUCKETS_WRITTEN = "the events of the users, in buckets,"

# An event of the very last microsecond before the cut leaves no time for one that follows it.
_LAST = timedelta(microseconds=1)
_LEAST_GROUP_ROWS, _MOST_GROUP_ROWS = 2048, 122_880  # of a Parquet row group, as DuckDB cuts them
_MANIFEST = "buckets.json"


@dataclass(frozen=True, kw_only=True)
class BucketRules:
    """What is put into buckets, and how large they are.

    Attributes:
        ids: the types of the ids.
        as_of: the events are those visible as of it.
        source_domains: events of other domains are left out.
        target_domain: the same.
        history_events: how many source events of a user and domain are kept, the newest to appear.
        users_per_bucket: about so many users share a bucket.
        rows_per_bucket: and at most about so many source events.
    """

    ids: IdTypes
    as_of: datetime
    source_domains: tuple[str, ...]
    target_domain: str
    history_events: int
    users_per_bucket: int
    rows_per_bucket: int = 1_000_000

    @property
    def schema(self) -> pa.Schema:
        """The schema of the events in the buckets."""
        events = event_schema(self.ids.user_id, self.ids.item_id)
        return pa.schema([(field.name, field.type) for field in events])

    @property
    def user(self) -> str:
        """The user id of an event in SQL, in the type in which it is hashed."""
        return _typed("user_id", self.ids.user_id)

    def domains(self, side: str) -> tuple[str, ...]:
        """The domains whose events a side holds."""
        return self.source_domains if side == SOURCE else (self.target_domain,)


@dataclass(frozen=True, kw_only=True)
class Side:
    """How the rows of one side are laid down.

    Attributes:
        name: one of `SIDES`.
        rules: what is kept.
        buckets: how many there are.
        group_rows: rows of a row group.
    """

    name: str
    rules: BucketRules
    buckets: int
    group_rows: int

    def write(self, session: duckdb.DuckDBPyConnection, events: str, path: Path) -> int:
        """Write the relation `events` to one file, sorted by bucket.

        Returns:
            How many events were left out because their user has `history_events` newer ones, none
            but of the source side.

        Raises:
            RetryLater: the disk is full.
        """
        with full_disk_told(BUCKETS_WRITTEN):
            session.execute(f"CREATE OR REPLACE TEMP VIEW wanted AS {self._wanted_sql(events)}")
            left_out = self._set_heavy_apart(session)
            columns = ", ".join(map(quote_name, EVENT_COLUMNS))
            how = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {self.group_rows}"
            session.execute(f"""
COPY (
  SELECT {columns}, (hash(user_id) % {self.buckets})::BIGINT AS bucket FROM (
    SELECT {columns} FROM wanted ANTI JOIN heavy USING (user_id)
    UNION ALL
    SELECT {columns} FROM heavy_rows WHERE {self._stays}
  )
  ORDER BY bucket
) TO {quote_text(str(path))} ({how})""")
        return left_out

    @property
    def _stays(self) -> str:
        """Which of the `heavy_rows` are kept."""
        return f"place <= {self.rules.history_events}" if self.name == SOURCE else "true"

    def _wanted_sql(self, events: str) -> str:
        ids = self.rules.ids
        typed = f"{_typed('user_id', ids.user_id)} AS user_id, "
        typed += f"{_typed('item_id', ids.item_id)} AS item_id"
        named = ", ".join(map(quote_text, self.rules.domains(self.name)))
        late = ""
        if self.name == SOURCE:
            late = f" AND {EVENT_TIMESTAMP} < {time_literal(self.rules.as_of - _LAST)}"
        return f"SELECT * REPLACE ({typed}) FROM {events} WHERE domain IN ({named}){late}"

    def cut(self, session: duckdb.DuckDBPyConnection, events: str) -> pa.Table:
        """The wanted rows of the relation `events`, with their `bucket`."""
        columns = ", ".join(map(quote_name, EVENT_COLUMNS))
        return session.sql(
            f"SELECT {columns}, (hash(user_id) % {self.buckets})::BIGINT AS bucket "
            f"FROM ({self._wanted_sql(events)})"
        ).to_arrow_table()

    def _set_heavy_apart(self, session: duckdb.DuckDBPyConnection) -> int:
        """Make `heavy`, users with many events, and `heavy_rows`: what is no repeat, by age.

        Only the last version of an event counts, or a repeat of one that was corrected would go.
        """
        most = self.rules.history_events
        session.execute(
            "CREATE OR REPLACE TEMP TABLE heavy AS SELECT DISTINCT user_id FROM ("
            f"FROM wanted SELECT user_id GROUP BY user_id, domain HAVING count(*) > {most})"
        )
        appear = f"greatest({EVENT_TIMESTAMP} + INTERVAL 1 MICROSECOND, {AVAILABLE_AT})"
        session.execute(f"""
CREATE OR REPLACE TEMP TABLE heavy_rows AS
SELECT *, row_number() OVER (
  PARTITION BY user_id, domain ORDER BY {appear} DESC, {EVENT_TIMESTAMP} DESC, event_id DESC
) AS place
FROM (
  FROM (
    FROM wanted SEMI JOIN heavy USING (user_id)
    QUALIFY row_number() OVER (
      PARTITION BY user_id, event_id ORDER BY {EVENT_TIMESTAMP} DESC, {AVAILABLE_AT} DESC) = 1
  )
  QUALIFY row_number() OVER (
    PARTITION BY user_id, domain, item_id, event_type ORDER BY {EVENT_TIMESTAMP}, event_id) = 1
)""")
        found = session.sql(f"SELECT count(*) FROM heavy_rows WHERE NOT ({self._stays})").fetchone()
        assert found is not None
        return int(found[0])


@dataclass(frozen=True, kw_only=True)
class BucketCounts:
    """What lies in the buckets.

    Attributes:
        buckets: how many there are; some may be empty.
        users: users with source events, about.
        source_events: rows of the source side, before the oldest were left out.
        left_out: events that were left out because their user has too many newer ones.
    """

    buckets: int
    users: int
    source_events: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Buckets on a disk that every worker sees.

    Attributes:
        folder: where they lie.
        counts: what is in them.
    """

    folder: Path
    counts: BucketCounts

    @classmethod
    def found(cls, folder: Path) -> Buckets | None:
        """The buckets that were made there to the end, if any were."""
        manifest = folder / _MANIFEST
        if not manifest.exists():
            return None
        return cls(folder=folder, counts=BucketCounts(**json.loads(manifest.read_text())))

    def close(self) -> None:
        """Write down that they are complete."""
        half_written = self.folder / f".{_MANIFEST}"
        half_written.write_text(json.dumps(asdict(self.counts)))
        half_written.replace(self.folder / _MANIFEST)

    def read(self, side: str, bucket: int, columns: Sequence[str] | None = None) -> pa.Table | None:
        """The rows of a side in a bucket, without `bucket`; None where the side has no files."""
        parts = self._parts[side]
        if not parts:
            return None
        pieces = [part.read(bucket, columns) for part in parts if part.may_hold(bucket)]
        return pa.concat_tables([parts[0].empty(columns), *pieces])

    def user_ids(self) -> Iterator[pa.Table]:
        """`user_id` and `bucket` of the source events, in order of bucket within a file."""
        for part in self._parts[SOURCE]:
            with pq.ParquetFile(part.path) as file:
                for batch in file.iter_batches(columns=["user_id", "bucket"]):
                    yield pa.Table.from_batches([batch])

    @property
    def features(self) -> pa.StructType | None:
        """What the translator is told of a user beside the events; None if nothing."""
        for part in self._parts[ABOUT]:
            told: pa.Schema = part.empty(None).schema
            if "features" in told.names:
                return told.field("features").type
        return None

    @cached_property
    def _parts(self) -> Mapping[str, Sequence[_Part]]:
        return {
            side: [_Part(path=path) for path in sorted((self.folder / side).glob("part-*.parquet"))]
            for side in (*SIDES, ABOUT)
        }


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A file that is sorted by bucket."""

    path: Path

    def may_hold(self, bucket: int) -> bool:
        least, most = self._bounds
        return bool(len(least)) and bool(least[0] <= bucket <= most[-1])

    def read(self, bucket: int, columns: Sequence[str] | None) -> pa.Table:
        """The rows of a bucket; only the row groups in which it lies are read."""
        least, most = self._bounds
        first = int(np.searchsorted(most, bucket, side="left"))
        last = int(np.searchsorted(least, bucket, side="right"))
        wanted = None if columns is None else [*columns, "bucket"]
        with pq.ParquetFile(self.path, metadata=self._footer) as file:
            rows = file.read_row_groups(list(range(first, last)), columns=wanted)
        return rows.filter(pc.equal(rows["bucket"], bucket)).drop_columns(["bucket"])

    def empty(self, columns: Sequence[str] | None) -> pa.Table:
        schema: pa.Schema = self._footer.schema.to_arrow_schema().remove_metadata()
        rows = schema.empty_table().drop_columns(["bucket"])
        return rows if columns is None else rows.select(list(columns))

    @cached_property
    def _footer(self) -> pq.FileMetaData:
        return pq.read_metadata(self.path)

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(G,) the least and the largest bucket in each row group; both ascend."""
        footer = self._footer
        place = footer.schema.to_arrow_schema().get_field_index("bucket")
        groups = [footer.row_group(at).column(place) for at in range(footer.num_row_groups)]
        bounds = [(group.statistics.min, group.statistics.max) for group in groups]
        least, most = np.array(bounds, dtype=np.int64).reshape(-1, 2).T
        return least, most


def _typed(column: str, kind: IdType) -> str:
    return f"CAST({column} AS {'BIGINT' if kind == 'int64' else 'VARCHAR'})"


def group_rows(rows: int, buckets: int) -> int:
    """Rows of a row group: few enough that reading a bucket reads little else."""
    return int(np.clip(rows // buckets, _LEAST_GROUP_ROWS, _MOST_GROUP_ROWS))
