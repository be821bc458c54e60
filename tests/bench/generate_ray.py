"""Generation through Ray against the same kernel in a plain loop over the same buckets, in turns.

```
python tests/bench/generate_ray.py                                # 50k, 100k and 200k users
python tests/bench/generate_ray.py --users 2000000,10000000 --turns 1
```

Users of a frequency translator of a moderate catalogue, drawn for in full: planned, listed,
sampled, triggered, written. The loop alone runs in a process of its own, on one thread, as a worker
of Ray does. Reported are medians of the time per million users, by number of users and workers;
Ray's times leave out its own start, which is reported beside. Memory is the largest resident set of
a worker, read while it runs, without what it shares with others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

sys.path.append(str(Path(__file__).parents[1] / "support"))

from table_streams import table_stream

from scalr_ray.core.config import IdTypes
from scalr_ray.core.events import event_schema, synthetic_event_schema
from scalr_ray.generate import (
    BucketRules,
    Buckets,
    DrawSettings,
    DrawTask,
    PlanRules,
    bucket_events,
    draw_batch,
)
from scalr_ray.generate.actors import DrawFolder, draw_bucket
from scalr_ray.learn import TrainingEvents, translator_as_of
from scalr_ray.offline_store.cluster import ray_session
from scalr_ray.translator import FrequencyTranslator, PriorMix, Strength

AS_OF = datetime(2026, 6, 1, tzinfo=UTC)
DAYS = 120
EVENTS_EACH, SLOTS = 10, 20
TRAINING_USERS = 20_000
USERS_PER_TASK = 4096


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One run: how long it took, and how much memory its workers had at most."""

    users: int
    workers: int
    seconds: float
    peak_mib: float


@dataclass(kw_only=True)
class Peak:
    """The largest resident set of the processes that are watched, in MiB."""

    mib: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)


def events_of(users: range, items: int, domain: str, each: int) -> pa.Table:
    """Events of some users, the same for a user whoever else is asked for; popular items first."""
    tables = []
    for start in range(users.start, users.stop, 100_000):
        block = range(start, min(start + 100_000, users.stop))
        rng = np.random.default_rng([start, len(domain)])
        rows = len(block) * each
        user = np.repeat(np.arange(block.start, block.stop), each)
        taste = user % 50
        own = (taste * items // 50 + items // 50 * rng.random(rows) ** 2).astype(np.int64)
        common = (items * rng.random(rows) ** 3).astype(np.int64)
        item = np.where(rng.random(rows) < 0.5, own, common)
        micros = (rng.random(rows) * DAYS * 86_400e6).astype(np.int64)
        first = int((AS_OF - timedelta(days=DAYS)).timestamp() * 1e6)
        when = pa.array(first + micros).cast(pa.timestamp("us", tz="UTC"))
        columns = {
            "event_id": pa.array(np.arange(rows) + block.start * each).cast(pa.string()),
            "user_id": pa.array(user),
            "item_id": pa.array(item),
            "domain": pa.repeat(domain, rows),
            "event_type": pa.repeat("view", rows),
            "event_timestamp": when,
            "available_at": when,
            "value": pa.nulls(rows, pa.float64()),
        }
        tables.append(pa.table(columns).cast(event_schema("int64", "int64")))
    return pa.concat_tables(tables)


def trained(items: int) -> FrequencyTranslator:
    """A translator of users that nobody is drawn for."""
    some = range(10**9, 10**9 + TRAINING_USERS)
    events = TrainingEvents.of(
        events_of(some, items, "source", EVENTS_EACH), events_of(some, items, "target", 5)
    )
    return translator_as_of(
        events,
        AS_OF,
        strength=Strength(shrinkage=1.0, alpha=0.8, temperature=1.2),
        mix=PriorMix.recent(window_days=90, background=0.05),
    )


def bucketed(folder: Path, users: int, items: int) -> Buckets:
    """The users in buckets; this happens before anything is timed."""
    rules = BucketRules(
        ids=IdTypes(user_id="int64", item_id="int64"),
        as_of=AS_OF,
        source_domains=("source",),
        target_domain="target",
        history_events=10_000,
        users_per_bucket=USERS_PER_TASK,
    )
    sides = [
        table_stream(events_of(range(users), items, domain, each), AS_OF, memory_limit="2GB")
        for domain, each in (("source", EVENTS_EACH), ("target", 1))
    ]
    return bucket_events(*sides, rules, folder)


def task_of(buckets: Buckets, items: int) -> DrawTask:
    """What is drawn."""
    settings = DrawSettings(
        batch_id="batch",
        translator_version="frequency",
        domain="target",
        as_of=AS_OF,
        strategy="sample",
        temperature=1.0,
        top_p=1.0,
        evidence=1.0,
        candidates=50_000,
        likelihood_floor=0.0,
        without_evidence="draw",
        negatives=0,
        seed=7,
    )
    return DrawTask(
        buckets=buckets,
        translator=trained(items),
        rules=PlanRules(as_of=AS_OF, per_user=SLOTS, decay_events=9.0),
        settings=settings,
        schema=synthetic_event_schema("int64", "int64"),
    )


def through_ray(folder: Path, items: int, workers: int) -> Turn:
    """Draw for all buckets of `folder` by so many workers."""
    buckets = Buckets.found(folder)
    assert buckets is not None
    task = task_of(buckets, items)
    with (
        tempfile.TemporaryDirectory() as work,
        ray_session(workers),
        watched(lambda: workers_of(os.getpid())) as peak,
    ):
        start = time.perf_counter()
        batch = draw_batch(task, Path(work))
        seconds = time.perf_counter() - start
    users = sum(counts.seen for counts in batch.counts)
    return Turn(users=users, workers=workers, seconds=seconds, peak_mib=peak.mib)


def alone(folder: Path, items: int) -> Turn:
    """Draw for all buckets of `folder` in this process."""
    buckets = Buckets.found(folder)
    assert buckets is not None
    task = task_of(buckets, items)
    with tempfile.TemporaryDirectory() as work, watched(lambda: [psutil.Process()]) as peak:
        to = DrawFolder(folder=Path(work))
        to.make()
        start = time.perf_counter()
        counts = [draw_bucket(task, to, at) for at in range(buckets.counts.buckets)]
        seconds = time.perf_counter() - start
    users = sum(found.seen for found in counts)
    return Turn(users=users, workers=0, seconds=seconds, peak_mib=peak.mib)


def workers_of(pid: int) -> list[psutil.Process]:
    """The actors of the Ray that a process started."""
    below = psutil.Process(pid).children(recursive=True)
    return [process for process in below if "Drawer" in "".join(_command(process))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@contextmanager
def watched(processes) -> Iterator[Peak]:
    """Read the resident sets four times a second."""
    peak = Peak()

    def look() -> None:
        while not peak.stop.wait(0.25):
            for process in processes():
                try:
                    memory = process.memory_info()
                except psutil.NoSuchProcess:
                    continue
                peak.mib = max(peak.mib, (memory.rss - memory.shared) / 2**20)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        peak.stop.set()
        thread.join()


def in_a_process(folder: Path, items: int, workers: int) -> Turn:
    """One turn in a process of its own; no workers means the loop alone."""
    command = [sys.executable, __file__, "--turn", str(folder), str(workers)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--items", str(items)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return Turn(**json.loads(done.stdout.splitlines()[-1]))


def compare(sizes: Sequence[int], items: int, turns: int) -> None:
    """Print the comparison as Markdown."""
    found: dict[tuple[int, int], list[Turn]] = {}
    with tempfile.TemporaryDirectory() as root:
        for users in sizes:
            bucketed(Path(root) / str(users), users, items)
        for _ in range(turns):
            for users in sizes:
                for workers in (0, 1, 2):
                    turn = in_a_process(Path(root) / str(users), items, workers)
                    found.setdefault((users, workers), []).append(turn)
                    sys.stderr.write(f"{turn}\n")
    print_table(found, sizes)


def print_table(found: dict[tuple[int, int], list[Turn]], sizes: Sequence[int]) -> None:
    """Medians of the turns, and the ratios that are promised."""

    def seconds(users: int, workers: int) -> float:
        return statistics.median(turn.seconds for turn in found[users, workers])

    def slope(workers: int) -> float:
        """Seconds per million users between the smallest and the largest number of users."""
        grown = seconds(sizes[-1], workers) - seconds(sizes[0], workers)
        return grown / (sizes[-1] - sizes[0]) * 1e6

    def peak(users: int, workers: int) -> float:
        return statistics.median(turn.peak_mib for turn in found[users, workers])

    names = {0: "the loop alone", 1: "Ray, one worker", 2: "Ray, two workers"}
    header = [f"{users:,} users, s" for users in sizes]
    lines = [["", *header, "s per million more", f"MiB at {sizes[0]:,}", f"MiB at {sizes[-1]:,}"]]
    lines.append(["---"] * len(lines[0]))
    for workers, name in names.items():
        taken = [f"{seconds(users, workers):.1f}" for users in sizes]
        memory = [f"{peak(users, workers):,.0f}" for users in (sizes[0], sizes[-1])]
        lines.append([name, *taken, f"{slope(workers):.0f}", *memory])
    for line in lines:
        sys.stdout.write(f"| {' | '.join(line)} |\n")
    growth = peak(sizes[-1], 1) / peak(sizes[0], 1)
    sys.stdout.write(
        f"\nslope of one worker over the loop alone: {slope(1) / slope(0):.2f} (at most 1.25); "
        f"one worker over two: {slope(1) / slope(2):.2f} (at least 1.7); "
        f"memory of a worker at {sizes[-1] / sizes[0]:.0f}x the users: {growth:.2f}x "
        "(at most 1.2x)\n"
    )


def main() -> None:
    """Compare, or run one turn for a comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", default="50000,100000,200000", help="numbers of users")
    parser.add_argument("--items", type=int, default=2000, help="of each catalogue")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn is None:
        sizes = sorted(int(users) for users in arguments.users.split(","))
        compare(sizes, arguments.items, arguments.turns)
        return
    folder, workers = Path(arguments.turn[0]), int(arguments.turn[1])
    if workers:
        turn = through_ray(folder, arguments.items, workers)
    else:
        turn = alone(folder, arguments.items)
    sys.stdout.write(json.dumps(vars(turn)) + "\n")


if __name__ == "__main__":
    main()
