"""One history as Parquet files in several layouts, on local disk and in S3, with mixed schemas.

Rows are keyed by (country, person) and lie in a shard, a number. A hive layout keeps country and
shard in the names of its folders, the others keep them in the files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from s3_server import BUCKET, S3

from scalr_ray.core.events import TIMESTAMP

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATTERNS = {"folder": "", "hive": "", "glob": "/*/part-*.parquet"}
LAYOUTS = tuple(PATTERNS)
_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Row:
    """A row of the history; `file` is where it is kept."""

    country: str | None
    shard: int | None
    person: int
    at: datetime
    known: datetime
    amount: int | None
    file: int


@dataclass(frozen=True)
class Style:
    """How one file keeps its columns."""

    person: pa.DataType
    stamp: pa.DataType
    backwards: bool
    bare: bool  # lacks the amounts, if all are null
    group_rows: int

    def table(self, rows: Sequence[Row], *, hive: bool) -> pa.Table:
        amounts = [row.amount for row in rows]
        columns = {
            "person": pa.array([row.person for row in rows], self.person),
            "at": pa.array([row.at for row in rows], TIMESTAMP).cast(self.stamp),
            "known": pa.array([row.known for row in rows], TIMESTAMP),
            "amount": pa.array(amounts, pa.int64()),
        }
        if not hive:
            columns["country"] = pa.array([row.country for row in rows], pa.string())
            columns["shard"] = pa.array([row.shard for row in rows], pa.int64())
        if self.bare and set(amounts) == {None}:
            del columns["amount"]
        names = sorted(columns, reverse=self.backwards)
        return pa.table({name: columns[name] for name in names})


countries = st.sampled_from(["DE", "FR", "a=b / c%", "", None])
moments = st.builds(
    lambda hours, micros: T0 + timedelta(hours=hours, microseconds=micros),
    st.integers(-3, 3),
    st.integers(-1, 1),
)
histories = st.lists(
    st.builds(
        Row,
        country=countries.filter(lambda country: country != ""),  # no folder can say so
        shard=st.sampled_from([1, -20, None]),
        person=st.integers(0, 2),
        at=moments,
        known=moments,
        amount=st.integers(0, 3) | st.none(),
        file=st.integers(0, 2),
    ),
    min_size=1,
    max_size=12,
)
styles = st.tuples(
    *[
        st.builds(
            Style,
            person=st.sampled_from([pa.int64(), pa.int32()]),
            stamp=st.sampled_from(
                [
                    TIMESTAMP,
                    pa.timestamp("us"),
                    pa.timestamp("ns"),
                    pa.timestamp("us", "Asia/Kolkata"),
                ]
            ),
            backwards=st.booleans(),
            bare=st.booleans(),
            group_rows=st.integers(1, 3),
        )
    ]
    * 3
)


@dataclass(frozen=True)
class Home:
    """A folder on local disk or, given a server, in S3."""

    folder: str
    s3: S3 | None = None

    def path(self, layout: str) -> str:
        root = f"s3://{BUCKET}/{self.folder}" if self.s3 else self.folder
        return f"{root}/{layout}{PATTERNS[layout]}"

    def fill(self, rows: Sequence[Row], kept: Sequence[Style]) -> None:
        """Make `rows` all that lies in every layout."""
        self._clear()
        for layout in LAYOUTS:
            for name, table, style in _files(layout, rows, kept):
                self._put(f"{layout}/{name}", table, style)

    def _clear(self) -> None:
        if self.s3 is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self.s3.keys(self.folder):
            self.s3.files.delete_dir_contents(f"{BUCKET}/{self.folder}")

    def _put(self, name: str, table: pa.Table, style: Style) -> None:
        if self.s3 is not None:
            self.s3.put(f"{self.folder}/{name}", table, row_group_size=style.group_rows)
            return
        path = Path(self.folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=style.group_rows)


def _files(
    layout: str, rows: Sequence[Row], kept: Sequence[Style]
) -> Iterator[tuple[str, pa.Table, Style]]:
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((_folder(layout, row), row.file), []).append(row)
    for (folder, file), group in groups.items():
        table = kept[file].table(group, hive=layout == "hive")
        yield f"{folder}part-{file}.parquet", table, kept[file]


def _folder(layout: str, row: Row) -> str:
    if layout == "hive":
        return f"country={_said(row.country)}/shard={_said(row.shard)}/"
    return f"{row.file % 2}/" if layout == "glob" else ""


def _said(value: Any) -> str:
    return _NULL if value is None else quote(str(value), safe="")
