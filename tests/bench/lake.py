"""What the lake takes to publish, to erase, and to be read, by its size.

```
python tests/bench/lake.py                   # 10M rows, 1,000 batches: some minutes, 2 GB of disk
python tests/bench/lake.py --scale 0.1
```

A SQLite catalog and a local warehouse in a temporary folder, `--folder` names another disk. Rows
are drawn as generation writes them: `--rows-per-file` in a file, all events of a user in one. The
times of publishing and erasing are of a single call, because it can be made once; those of reading
are the median of `--repeats`, what is compared being read in turn. Beside the time stands how long
the process was on a CPU, which is what to look at where others use the machine as well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scalr_ray.core.config import IdTypes
from scalr_ray.core.events import WEIGHT_FACTORS, synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake

IDS = IdTypes(user_id="string", item_id="int64")
SCHEMA = synthetic_event_schema("string", "int64")
CUT = datetime(2026, 3, 1, tzinfo=UTC)
EVENTS_PER_USER = 60
SMALL_ROWS = 1_000


def drawn(batch_id: str, first: int, count: int) -> pa.Table:
    """Rows `first` and so on of a batch; `EVENTS_PER_USER` in a row are of one user."""
    rng = np.random.default_rng(first)
    rows = np.arange(first, first + count)
    moments = int(CUT.timestamp() * 1e6) - rng.integers(1, 10**12, count)
    same = {
        "domain": "target",
        "event_type": "synthetic",
        "value": 1.0,
        "batch_id": batch_id,
        "translator_version": "frequency-0123456789abcdef",
        "label": 1.0,
    }
    columns = {name: pa.repeat(pa.scalar(value), count) for name, value in same.items()}
    columns |= {
        name: pa.repeat(pa.scalar(CUT, pa.timestamp("us", "UTC")), count)
        for name in ("available_at", "train_cutoff", "generated_at")
    }
    columns |= {
        name: pa.array(rng.random(count))
        for name in ("likelihood", "propensity", "sample_weight", *WEIGHT_FACTORS)
    }
    columns |= {
        "event_id": pa.array([f"{batch_id}-{row:032x}" for row in rows]),
        "user_id": pa.array([user_id(row // EVENTS_PER_USER) for row in rows]),
        "source_event_id": pa.array([f"source-{row:016x}" for row in rows // 3]),
        "item_id": pa.array(rng.integers(0, 100_000, count)),
        "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC")),
    }
    return pa.table([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def user_id(number: int) -> str:
    """Users stand in no order, as those of a bucket do: the bounds of a file rule nobody out."""
    return f"user-{int(number) * 2_654_435_761 % 2**32:012d}"


class Bench:
    """A lake in a folder of its own, and what is measured on it."""

    def __init__(self, folder: Path, rows_per_file: int, repeats: int) -> None:
        self.folder = folder
        self.rows_per_file = rows_per_file
        self.repeats = repeats

    def open(self, name: str) -> SyntheticEventLake:
        return SyntheticEventLake.open(Layout(repo=self.folder, data=self.folder / name), IDS)

    def stage(self, lake: SyntheticEventLake, batch_id: str, rows: int) -> None:
        made = self.folder / f"{batch_id}-made"
        made.mkdir()
        each = self.rows_per_file
        for first in range(0, rows, each):
            table = drawn(batch_id, first, min(each, rows - first))
            pq.write_table(table, made / f"part-{first:012d}.parquet", compression="zstd")
        lake.stage(batch_id, made)
        made.rmdir()

    def in_turn(self, *work: Callable[[], object]) -> list[Taken]:
        """What each takes, the medians."""
        taken: list[list[Taken]] = [[] for _ in work]
        for _ in range(self.repeats):
            for place, call in enumerate(work):
                taken[place].append(measured(call))
        return [
            Taken(
                statistics.median(once.wall_s for once in each),
                statistics.median(once.cpu_s for once in each),
            )
            for each in taken
        ]


class Taken(NamedTuple):
    """Seconds by the clock, and on a CPU."""

    wall_s: float
    cpu_s: float


def measured(work: Callable[[], object]) -> Taken:
    started, on_cpu = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - started, time.process_time() - on_cpu)


def show(what: str, taken: Taken, than: Taken | None = None) -> None:
    told = f"{what:<58} {taken.wall_s:8.2f} s {taken.cpu_s:8.2f} s"
    if than is not None:
        told += f"  {taken.wall_s / than.wall_s:.2f}x {taken.cpu_s / than.cpu_s:.2f}x"
    sys.stdout.write(f"{told}\n")
    sys.stdout.flush()


def publish_and_erase(bench: Bench, sizes: list[int]) -> None:
    with bench.open("large") as lake:
        for rows in sizes:
            batch_id = f"b{rows}"
            bench.stage(lake, batch_id, rows)
            taken = measured(lambda name=batch_id: lake.publish(name))
            show(f"publish {rows:,} staged rows", taken)
    with bench.open("erased") as lake:
        rows = sizes[-1]
        bench.stage(lake, "b1", rows)
        lake.publish("b1")
        leaver = user_id(rows // EVENTS_PER_USER // 2)
        show(f"erase one user of {rows:,} rows", measured(lambda: lake.erase([leaver])))
        left = rows - lake.published_batches()["b1"].rows
        assert left == EVENTS_PER_USER, f"{left} rows have gone"


def read_old(bench: Bench, rows: int) -> None:
    with bench.open("old") as lake:
        bench.stage(lake, "b1", rows)
        old = lake.publish("b1").snapshot_id
        for number in range(20):
            lake.write_staged(f"s{number}", drawn(f"s{number}", 0, SMALL_ROWS))
            lake.publish(f"s{number}")
            lake.retire(f"s{number}")
        then, now = bench.in_turn(lambda: lake.read(snapshot_id=old), lake.read)
        show(f"read {rows:,} rows: the newest snapshot", now)
        show("the same rows as of the oldest, 40 commits ago", then, now)


def compact(bench: Bench, batches: int) -> None:
    rows = batches * SMALL_ROWS
    with bench.open("one") as one, bench.open("many") as many:
        # As many files as there are after compaction, so that only their number of batches differs.
        large = Bench(bench.folder, 1_000_000, bench.repeats)
        large.stage(one, "b1", rows)
        one.publish("b1")
        for number in range(batches):
            name = f"s{number}"
            many.write_staged(name, drawn(name, number * SMALL_ROWS, SMALL_ROWS))
        every = measured(lambda: [many.publish(f"s{number}") for number in range(batches)])
        each = Taken(every.wall_s / batches, every.cpu_s / batches)
        show(f"publish one of {batches:,} batches of {SMALL_ROWS:,} rows", each)
        show(f"read {batches:,} small batches before compaction", measured(many.read))
        show("compact them", measured(many.compact))
        after, whole = bench.in_turn(many.read, one.read)
        show(f"read one batch of {rows:,} rows", whole)
        show("read the small batches after compaction", after, whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of 10M rows and 1,000 batches")
    parser.add_argument("--rows-per-file", type=int, default=250_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        bench = Bench(Path(folder), asked.rows_per_file, asked.repeats)
        most = int(10_000_000 * asked.scale)
        publish_and_erase(bench, [most // 10, most])
        read_old(bench, most // 10)
        compact(bench, int(1_000 * asked.scale))


if __name__ == "__main__":
    main()
