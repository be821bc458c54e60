"""The as-of join on one machine against the same join on Ray, and Ray by its number of workers.

```
python tests/bench/cluster.py                  # 1M, 5M and 20M entity rows, as many feature rows
python tests/bench/cluster.py --scale 0.1
```

Each run is a process of its own, which asks once before it is timed, so that the workers are up.
Time is that of `to_arrow()`, through Feast, with the availability cut-off. Memory is what the
process held at most above what it held before; for Ray that of its largest worker, shared memory
aside. All answers must be equal. The last workload gives one user 30 % of both sides.
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
from pathlib import Path
from typing import Any

from asof_contenders import OURS, feature_store
from asof_workload import FEATURES, Workload, write_workload

_M = 1_000_000
_SIZES = (
    Workload(name="1M", entity_rows=_M, feature_rows=_M, users=50_000),
    Workload(name="5M", entity_rows=5 * _M, feature_rows=5 * _M, users=250_000),
    Workload(
        name="5M, one user has 30 %",
        entity_rows=5 * _M,
        feature_rows=5 * _M,
        users=250_000,
        heavy=0.3,
    ),
    Workload(name="20M", entity_rows=20 * _M, feature_rows=20 * _M, users=1_000_000),
)
_RUNS = {"DuckDB": ("duckdb", 2), "Ray, 1 worker": ("ray", 1), "Ray, 2 workers": ("ray", 2)}
_HEADER = (
    "| entity rows | "
    + " | ".join(_RUNS)
    + " | Ray / DuckDB | 1 to 2 workers |\n"
    + "|---" * 6
    + "|"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of rows and users")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", choices=[size.name for size in _SIZES])
    parser.add_argument("--one", nargs=2, metavar=("RUN", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        run, folder = options.one
        sys.stdout.write(json.dumps(run_here(*_RUNS[run], Path(folder))) + "\n")
        return
    sys.stdout.write(_HEADER + "\n")
    for workload in _SIZES:
        if options.size in (None, workload.name):
            sys.stdout.write(line(workload.scaled(options.scale), options.repeats) + "\n")
            sys.stdout.flush()


def line(workload: Workload, repeats: int) -> str:
    """One row of the table, in medians."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _RUNS}
    with tempfile.TemporaryDirectory() as folder:
        write_workload(workload, Path(folder))
        for _ in range(repeats):
            for name in _RUNS:
                found[name].append(run_apart(name, folder))
    answers = {tuple(run["answer"]) for runs in found.values() for run in runs}
    seconds = {
        name: statistics.median(run["seconds"] for run in runs) for name, runs in found.items()
    }
    memory = {name: statistics.median(run["bytes"] for run in runs) for name, runs in found.items()}
    duckdb, one, two = seconds.values()
    cells = [f"{seconds[name]:.1f} s, {memory[name] / 2**30:.2f} GB" for name in _RUNS]
    ratios = [f"{two / duckdb:.1f}", f"{one / two:.2f} times as fast"]
    differ = "" if len(answers) == 1 else " **answers differ**"
    return f"| {workload.name}{differ} | " + " | ".join([*cells, *ratios]) + " |"


def run_apart(name: str, folder: str) -> dict[str, Any]:
    """One run in a process of its own."""
    quiet = {
        "FEAST_USAGE": "False",
        "PYTHONWARNINGS": "ignore",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_idle_worker_killing_time_threshold_ms": "600000",
    }
    command = [sys.executable, __file__, "--one", name, folder]
    done = subprocess.run(
        command,
        env=os.environ | quiet,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_here(engine: str, cpus: int, folder: Path) -> dict[str, Any]:
    """Time one engine in this process."""
    import pandas as pd
    import pyarrow.compute as pc

    if engine == "ray":
        from scalr_ray.offline_store.cluster import connect

        connect(cpus)
    store = feature_store(folder, OURS, engine=engine, threads=cpus)
    entities = pd.read_parquet(folder / "entities.parquet")
    features = [f"history:{name}" for name in FEATURES]

    def ask(rows: Any) -> Any:
        job = store.get_historical_features(rows, features, filter_by_created_timestamp=True)
        return job.to_arrow()

    ask(entities.head(1000))
    with peak_memory(workers=engine == "ray") as peak:
        began = time.perf_counter()
        result = ask(entities)
        seconds = time.perf_counter() - began
    total = sum(pc.fill_null(pc.sum(result[name]), 0.0).as_py() for name in FEATURES)
    found = result.num_rows - result[FEATURES[0]].null_count
    answer = (result.num_rows, found, round(total, 3))
    return {"seconds": seconds, "bytes": peak["bytes"], "answer": answer}


@contextmanager
def peak_memory(*, workers: bool) -> Iterator[dict[str, int]]:
    """The most this process grew by, or its largest worker held, read ten times a second."""
    import psutil

    here = psutil.Process()
    before = held(here)
    peak = {"bytes": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if workers:
                held_now = [
                    held(child)
                    for child in here.children(recursive=True)
                    if child_name(child).startswith("ray::")
                ]
            else:
                held_now = [held(here) - before]
            peak["bytes"] = max([peak["bytes"], *held_now])

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        done.set()
        watching.join()


def held(process: Any) -> int:
    """Bytes that no other process shares; none once it has ended."""
    import psutil

    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(memory.rss - memory.shared)


def child_name(process: Any) -> str:
    """What Ray calls a worker, by its task; empty once it has ended."""
    import psutil

    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


if __name__ == "__main__":
    main()
