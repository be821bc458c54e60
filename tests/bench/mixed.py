"""What pulling a training set takes beside bare DuckDB, and how fast and how large its stream is.

```
python tests/bench/mixed.py              # 1M rows to pull, streams of up to 20M rows: 4 GB of disk
python tests/bench/mixed.py --scale 0.1
```

The pull is a call of `build_mixed_dataset`: both clocks, the guard and the manifest included. Bare
DuckDB reads the same Parquet files, selects the same rows and makes the same two as-of joins, and
no more; its rows and sums must be those of the pull. The stream is of 20 columns of doubles, beside
`to_batches` of pyarrow on the same file. What is compared runs in turn, `--repeats` times after one
that does not count; the tables show medians, wall time and time on a CPU. Memory is how far the
peak of a process of its own rises above what it held before it read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
START, CUT = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
PULLED_ROWS, STREAM_ROWS, LARGE_ROWS = 1_000_000, 1_000_000, 20_000_000
SYNTHETIC_FRAC, BATCHES = 0.3, 3
SNAPSHOTS = 10  # of each user and item
COLUMNS = [f"x{number}" for number in range(20)]
BATCH_ROWS = 4096
USER_FEATURES = [f"source_events_{span}" for span in ("7d", "30d", "90d", "total")]
USER_FEATURES.append("distinct_source_items")
ITEM_FEATURES = [f"target_events_{span}" for span in ("7d", "30d", "90d", "total")]
ITEM_FEATURES.append("days_since_last_target_event")
SERVICE = f"""
bench_v1 = FeatureService(
    name="bench_v1",
    features=[user_source_features[{USER_FEATURES}], item_popularity[{ITEM_FEATURES}]],
    tags={{"mix": "real+synthetic"}},
)
"""
TIME = pa.timestamp("us", "UTC")

BARE = """
WITH picked AS (
    SELECT event_id, user_id, item_id, event_timestamp, sample_weight FROM (
        SELECT event_id, user_id, item_id, event_timestamp, available_at, 1.0 AS sample_weight
        FROM '{real}'
        UNION ALL
        SELECT event_id, user_id, item_id, event_timestamp, available_at, sample_weight
        FROM '{synthetic}' WHERE label > 0
    )
    WHERE event_timestamp >= $start AND event_timestamp < $cut AND available_at <= $cut
    QUALIFY row_number() OVER (
        PARTITION BY event_id ORDER BY event_timestamp DESC, available_at DESC
    ) = 1
)
SELECT picked.*, {columns}
FROM picked
ASOF LEFT JOIN (SELECT *, greatest(event_timestamp, available_at) AS since FROM '{users}') AS u
    ON picked.user_id = u.user_id AND picked.event_timestamp >= u.since
ASOF LEFT JOIN (SELECT *, greatest(event_timestamp, available_at) AS since FROM '{items}') AS i
    ON picked.item_id = i.item_id AND picked.event_timestamp >= i.since
ORDER BY event_timestamp, event_id
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench and print its Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of all rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read:
        sys.stdout.write(json.dumps(peak_of_reading(Path(options.read))) + "\n")
        return
    os.environ["FEAST_USAGE"] = "False"
    with tempfile.TemporaryDirectory() as folder:
        pull(Path(folder), options.scale, options.repeats)
        stream(Path(folder), options.scale, options.repeats)


def pull(folder: Path, scale: float, repeats: int) -> None:
    """The table of pulling."""
    import duckdb

    from scalr_ray.offline_store import open_feature_store
    from training import build_mixed_dataset

    rows = int(PULLED_ROWS * scale)
    repo = write_repo(folder, rows)
    store = open_feature_store(repo)
    names = {
        "real": repo / "data/events/target_events/*.parquet",
        "users": next((repo / "data").rglob("user_source_features")) / "*.parquet",
        "items": next((repo / "data").rglob("item_popularity")) / "*.parquet",
        "synthetic": folder / "synthetic/*.parquet",
    }
    columns = ", ".join([*(f"u.{n}" for n in USER_FEATURES), *(f"i.{n}" for n in ITEM_FEATURES)])
    statement = BARE.format(columns=columns, **names)

    def ours() -> pa.Table:
        return build_mixed_dataset(
            store, service="bench_v1", start=START, end=CUT, as_of=CUT
        ).to_arrow()

    def bare() -> pa.Table:
        with duckdb.connect(config={"threads": os.cpu_count()}) as session:
            session.execute("SET TimeZone = 'UTC'")
            asked = session.execute(statement, {"start": START, "cut": CUT})
            return asked.to_arrow_table()

    found, expected = ours(), bare()
    assert found.num_rows == expected.num_rows, (found.num_rows, expected.num_rows)
    for name in ("sample_weight", *USER_FEATURES, *ITEM_FEATURES):
        sums = [pc.sum(table[name]).as_py() for table in (found, expected)]
        assert np.isclose(*sums), (name, sums)
    count = found.num_rows
    del found, expected
    show("pulling", count, {"bare DuckDB": bare, "build_mixed_dataset": ours}, repeats)


def stream(folder: Path, scale: float, repeats: int) -> None:
    """The tables of streams: rate, and memory by size."""
    from training.row_file import RowFile
    from training.streams import torch_stream

    rows = int(STREAM_ROWS * scale)
    path = write_numbers(folder / "small.parquet", rows)
    file = RowFile.of(path)

    def arrow() -> None:
        for _ in ds.dataset(path).to_batches(batch_size=BATCH_ROWS):
            pass

    def torch(shuffle_rows: int) -> Callable[[], None]:
        def call() -> None:
            taken = 0
            for batch in torch_stream(file, BATCH_ROWS, shuffle_rows=shuffle_rows):
                taken += len(batch["x0"])
            assert taken == rows

        return call

    calls = {"to_batches": arrow, "torch, in order": torch(0), "torch, shuffled": torch(262_144)}
    for call in calls.values():
        call()
    show("streaming", rows, calls, repeats)
    large = write_numbers(folder / "large.parquet", int(LARGE_ROWS * scale))
    lines = ["| rows | memory of the stream, shuffled |", "|---|---|"]
    for one in (path, large):
        command = [sys.executable, __file__, "--read", str(one)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        grown = json.loads(done.stdout.splitlines()[-1])
        lines.append(f"| {pq.read_metadata(one).num_rows:,} | {grown / 2**20:,.0f} MB |")
    sys.stdout.write("\n".join(lines) + "\n")


def peak_of_reading(path: Path) -> int:
    """How far the peak of this process rises while it reads a file once, in bytes."""
    import torch  # noqa: F401 - held before

    from training.row_file import RowFile
    from training.streams import torch_stream

    stream = torch_stream(RowFile.of(path), BATCH_ROWS)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    for _ in stream:
        pass
    return peak_bytes() - before


def peak_bytes() -> int:
    """The most that this process has held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def show(what: str, rows: int, calls: dict[str, Callable[[], object]], repeats: int) -> None:
    """Run calls in turn and print their medians beside those of the first."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    lines = [f"| {what} {rows:,} rows | wall | x first | CPU | x first | rows/s |"]
    lines.append("|---|---|---|---|---|---|")
    base = [statistics.median(each) for each in zip(*next(iter(taken.values())), strict=True)]
    for name, runs in taken.items():
        wall, cpu = (statistics.median(each) for each in zip(*runs, strict=True))
        lines.append(
            f"| {name} | {wall:.2f} s | {wall / base[0]:.2f} | {cpu:.2f} s | {cpu / base[1]:.2f} "
            f"| {rows / wall:,.0f} |"
        )
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()


def write_repo(folder: Path, rows: int) -> Path:
    """A repository with that many real and synthetic events, and the synthetic ones as Parquet."""
    from scalr_ray import Scalr
    from scalr_ray.core.config import IdTypes
    from scalr_ray.core.events import event_schema, synthetic_event_schema
    from scalr_ray.core.layout import Layout
    from scalr_ray.lake import SyntheticEventLake

    repo = folder / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    with (repo / "services.py").open("a", encoding="utf-8") as services:
        services.write(SERVICE)
    layout = Layout.of(repo)
    users, items = max(rows // 20, 1), max(rows // 50, 1)
    made = int(rows * SYNTHETIC_FRAC)
    schema = event_schema("string", "string")
    real = layout.events("target_events")
    write(real, events(schema, "r", rows - made, users, items))
    for name, count, key, features in (
        ("user_source_features", users, "user_id", USER_FEATURES),
        ("item_popularity", items, "item_id", ITEM_FEATURES),
    ):
        write(layout.features(name), snapshots(key, count, features))
    with SyntheticEventLake.open(layout, IdTypes()) as lake:
        for batch in range(BATCHES):
            name = f"b{batch}"
            schema = synthetic_event_schema("string", "string")
            drawn = events(schema, name, made // BATCHES, users, items)
            write(folder / "synthetic", drawn, f"{name}.parquet")
            lake.write_staged(name, drawn)
            lake.publish(name)
    with Scalr(repo) as scalr:
        scalr.apply()
    return repo


def events(schema: pa.Schema, name: str, count: int, users: int, items: int) -> pa.Table:
    """Events of one source, real or of a batch."""
    rng = np.random.default_rng(len(name) + count)
    span = int((CUT - START) / timedelta(microseconds=1))
    times = pa.array(int(START.timestamp() * 1e6) + rng.integers(0, span, count)).cast(TIME)
    synthetic = "batch_id" in schema.names
    known = pa.repeat(pa.scalar(CUT, TIME), count) if synthetic else times
    columns = {
        "event_id": pa.array([f"{name}-{number:012x}" for number in range(count)]),
        "user_id": pa.array([f"u{number:08d}" for number in rng.integers(0, users, count)]),
        "item_id": pa.array([f"i{number:08d}" for number in rng.zipf(1.3, count) % items]),
        "event_timestamp": times,
        "available_at": known,
        "train_cutoff": known,
        "generated_at": known,
    }
    texts = {"domain": "target", "event_type": "synthetic" if synthetic else "click"}
    texts |= {"batch_id": name, "translator_version": "v1", "source_event_id": "s"}
    for field in schema:
        if field.name not in columns:
            columns[field.name] = pa.repeat(texts.get(field.name, 1.0), count)
    return pa.table([columns[field.name] for field in schema], schema=schema)


def snapshots(key: str, count: int, features: Sequence[str]) -> pa.Table:
    """`SNAPSHOTS` rows of features for each key, evenly over the time."""
    prefix, rows = key[0], count * SNAPSHOTS
    step = (CUT - START) / SNAPSHOTS
    moments = [START + step * number for number in range(SNAPSHOTS)]
    times = pa.array([moment for moment in moments for _ in range(count)], TIME)
    rng = np.random.default_rng(count)
    columns = {
        key: pa.array([f"{prefix}{number:08d}" for number in range(count)] * SNAPSHOTS),
        "event_timestamp": times,
        "available_at": times,
        **{name: pa.array(rng.integers(0, 1000, rows)) for name in features},
    }
    if key == "user_id":
        columns["days_since_last_source_event"] = pa.repeat(1.0, rows)
        columns["last_source_items"] = pa.array([["x"]] * rows)
    else:
        columns[features[-1]] = columns[features[-1]].cast(pa.float64())
    return pa.table(columns)


def write(folder: Path, rows: pa.Table, name: str = "part-0.parquet") -> None:
    """Rows as a file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / name, compression="zstd")


def write_numbers(path: Path, rows: int) -> Path:
    """A file of 20 columns of doubles, as saved sets are written; in memory a block at a time."""
    from training.row_file import BLOCK_ROWS

    rng = np.random.default_rng(0)
    schema = pa.schema([(name, pa.float64()) for name in COLUMNS])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, rows, BLOCK_ROWS):
            block = rng.random((len(COLUMNS), min(BLOCK_ROWS, rows - first)))
            writer.write_table(pa.table(list(block), schema=schema))
    return path


if __name__ == "__main__":
    main()
