"""Generation through Ray against the same kernel in a plain loop over the same buckets, in turns.

```
python tests/bench/generate_ray.py                                # 40k, 200k and 400k users
python tests/bench/generate_ray.py --users 2000000,10000000 --turns 1
```

Users of a frequency translator of a moderate catalogue, drawn for in full: planned, listed,
sampled, triggered, written. The loop alone runs in a process of its own, on one thread, as a worker
of Ray does. Reported are medians of the time per million users, by number of users and workers;
Ray's times leave out its own start. Beside the time by the clock stands what the driver and the
workers were on a CPU, which is what to compare where others use the machine as well. Memory is the
largest resident set of a worker and of the driver, read while they run, without what they share
with others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
_LOOK_S, _LOOKS_PER_SEARCH = 0.25, 20


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One run: how long it took, by the clock and on CPUs, and how much memory it had at most."""

    users: int
    workers: int
    seconds: float
    cpu_s: float
    worker_mib: float
    driver_mib: float


@dataclass(kw_only=True)
class Seen:
    """What was seen of the processes that are watched, by pid: largest resident set, CPU time."""

    mib: dict[int, float] = field(default_factory=dict)
    cpu_s: dict[int, float] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def turn(self, users: int, workers: int, seconds: float) -> Turn:
        """Of a run that this process drove."""
        own = os.getpid()
        mib = self.mib
        return Turn(
            users=users,
            workers=workers,
            seconds=seconds,
            cpu_s=sum(self.cpu_s.values()),
            worker_mib=max((mib[pid] for pid in mib if pid != own), default=mib[own]),
            driver_mib=mib[own],
        )


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
        watched(lambda: [psutil.Process(), *workers_of(os.getpid())]) as seen,
    ):
        start = time.perf_counter()
        batch = draw_batch(task, Path(work))
        seconds = time.perf_counter() - start
    users = sum(counts.seen for counts in batch.counts)
    return seen.turn(users, workers, seconds)


def alone(folder: Path, items: int) -> Turn:
    """Draw for all buckets of `folder` in this process."""
    buckets = Buckets.found(folder)
    assert buckets is not None
    task = task_of(buckets, items)
    with tempfile.TemporaryDirectory() as work, watched(lambda: [psutil.Process()]) as seen:
        to = DrawFolder(folder=Path(work))
        to.make()
        start = time.perf_counter()
        counts = [draw_bucket(task, to, at) for at in range(buckets.counts.buckets)]
        seconds = time.perf_counter() - start
    users = sum(found.seen for found in counts)
    return seen.turn(users, 0, seconds)


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
def watched(processes: Callable[[], list[psutil.Process]]) -> Iterator[Seen]:
    """Look at the processes four times a second; CPU time counts from the first look on.

    Which they are is asked every fifth second: to go through all processes of the machine more
    often would take CPU time from what is measured.
    """
    seen = Seen()
    before: dict[int, float] = {}
    found: list[psutil.Process] = []

    def look(at: int) -> None:
        if at % _LOOKS_PER_SEARCH == 0:
            found[:] = processes()
        for process in found:
            try:
                memory, cpu = process.memory_info(), process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            pid, used = process.pid, cpu.user + cpu.system
            seen.cpu_s[pid] = used - before.setdefault(pid, used)
            resident = (memory.rss - memory.shared) / 2**20
            seen.mib[pid] = max(seen.mib.get(pid, 0.0), resident)

    def keep_looking() -> None:
        for at in itertools.count(1):
            if seen.stop.wait(_LOOK_S):
                return
            look(at)

    look(0)
    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield seen
    finally:
        seen.stop.set()
        thread.join()
        look(0)


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

    def median(name: str, users: int, workers: int) -> float:
        return statistics.median(getattr(turn, name) for turn in found[users, workers])

    def slope(name: str, workers: int) -> float:
        """Seconds per million users between the smallest and the largest number of users."""
        grown = median(name, sizes[-1], workers) - median(name, sizes[0], workers)
        return grown / (sizes[-1] - sizes[0]) * 1e6

    names = {0: "the loop alone", 1: "Ray, one worker", 2: "Ray, two workers"}
    header = [f"{users:,} users, s" for users in sizes]
    ends = [f"MiB at {users:,}" for users in (sizes[0], sizes[-1])]
    lines = [["", *header, "s per million more", "on a CPU", *(f"worker, {end}" for end in ends)]]
    lines[0] += [f"driver, {end}" for end in ends]
    lines.append(["---"] * len(lines[0]))
    for workers, name in names.items():
        taken = [f"{median('seconds', users, workers):.1f}" for users in sizes]
        slopes = [f"{slope(clock, workers):.0f}" for clock in ("seconds", "cpu_s")]
        memory = [
            f"{median(whose, users, workers):,.0f}"
            for whose in ("worker_mib", "driver_mib")
            for users in (sizes[0], sizes[-1])
        ]
        lines.append([name, *taken, *slopes, *memory])
    for line in lines:
        sys.stdout.write(f"| {' | '.join(line)} |\n")
    growth = [
        median(whose, sizes[-1], 1) / median(whose, sizes[0], 1)
        for whose in ("worker_mib", "driver_mib")
    ]
    dearer = [slope(clock, 1) / slope(clock, 0) for clock in ("seconds", "cpu_s")]
    sys.stdout.write(
        f"\nslope of one worker over the loop alone: {dearer[0]:.2f}, on a CPU {dearer[1]:.2f} "
        f"(at most 1.25); one worker over two: {slope('seconds', 1) / slope('seconds', 2):.2f} "
        f"(at least 1.7); memory at {sizes[-1] / sizes[0]:.0f}x the users: of a worker "
        f"{growth[0]:.2f}x, of the driver {growth[1]:.2f}x (at most 1.2x)\n"
    )


def main() -> None:
    """Compare, or run one turn for a comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", default="40000,200000,400000", help="numbers of users")
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
