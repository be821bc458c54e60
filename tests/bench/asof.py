"""How fast the as-of join is: every contender on the same files, side by side, in one call.

```
python tests/bench/asof.py                     # full size
python tests/bench/asof.py --scale 0.1         # a tenth of the rows and of the users
python tests/bench/asof.py --only kernel,ours  # some contenders
```

Each run is a process of its own, one at a time, and the repetitions of all contenders are
interleaved, so that another load on the machine meets them alike. Time is that of the call alone,
from rows in memory and a Parquet file to an Arrow table; CPU is that of all threads, which other
work on the machine changes less. Memory is the peak of the process above what it held before the
call: interpreter, imports and entity rows are not the join's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from asof_contenders import CONTENDERS, REFERENCE, Contender
from asof_workload import FEATURES, WORKLOADS, Workload, write_workload

_HEADER = (
    "| {name}: {entity_rows:,} x {feature_rows:,} rows, {users:,} users | time | x bare "
    "| CPU x bare | rows/s | memory | x bare | answers |\n|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run of one contender.

    Attributes:
        seconds: of the call.
        cpu_seconds: of all its threads.
        before_bytes: what the process held before the call.
        peak_bytes: the most it held during the call.
        rows: of the result.
        found: rows with a value.
        total: sum of all values.
    """

    seconds: float
    cpu_seconds: float
    before_bytes: int
    peak_bytes: int
    rows: int
    found: int
    total: float

    @property
    def answer(self) -> tuple[int, int, float]:
        """What all contenders of a kind must agree on."""
        return self.rows, self.found, round(self.total, 3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench and print a Markdown table per workload."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of rows and users")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, comma-separated")
    parser.add_argument("--workload", choices=[one.name for one in WORKLOADS])
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        sys.stdout.write(json.dumps(asdict(run_here(*options.one))) + "\n")
        return
    only = {REFERENCE, *options.only.split(",")}
    if unknown := only - CONTENDERS.keys():
        parser.error(f"no contender {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    for workload in WORKLOADS:
        if options.workload in (None, workload.name):
            names = [name for name in CONTENDERS if name in only & set(workload.only or only)]
            scaled = workload.scaled(options.scale)
            sys.stdout.write(table(scaled, measure(scaled, names, options.repeats)) + "\n")
            sys.stdout.flush()


def run_here(name: str, folder: str) -> Measured:
    """Prepare and time one contender in this process."""
    import pyarrow.compute as pc

    call = CONTENDERS[name].prepare(Path(folder))
    _forget_peak()
    before = _peak_bytes()
    began, cpu_began = time.perf_counter(), time.process_time()
    result = call()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    peak = _peak_bytes()
    values = [pc.fill_null(pc.sum(result[feature]), 0.0).as_py() for feature in FEATURES]
    return Measured(
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        before_bytes=before,
        peak_bytes=peak,
        rows=result.num_rows,
        found=result.num_rows - result[FEATURES[0]].null_count,
        total=sum(values),
    )


def measure(
    workload: Workload, names: Sequence[str], repeats: int
) -> dict[str, list[Measured] | str]:
    """All runs of each contender, or why there are none."""
    found: dict[str, list[Measured] | str] = {name: _obstacle(name, workload) for name in names}
    able = [name for name in names if not found[name]]
    found |= {name: [] for name in able}
    with tempfile.TemporaryDirectory() as folder:
        write_workload(workload, Path(folder))
        for round_ in range(repeats):
            for name in able:
                if not (round_ and CONTENDERS[name].once):
                    found[name] += [run_apart(name, folder)]
    return found


def run_apart(name: str, folder: str) -> Measured:
    """Run one contender in a process of its own."""
    command = [sys.executable, __file__, "--one", name, folder]
    environment = {**os.environ, "FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def table(workload: Workload, found: dict[str, list[Measured] | str]) -> str:
    """The Markdown table of one workload, in medians."""
    lines = [_HEADER.format(**asdict(workload))]
    bare = _medians(found[REFERENCE])
    for name, runs in found.items():
        contender = CONTENDERS[name]
        if isinstance(runs, str):
            lines.append(f"| {contender.label} | {runs} | | | | | | |")
            continue
        seconds, cpu, growth = _medians(runs)
        judged = _judge(contender, runs, found)
        lines.append(
            f"| {contender.label} | {seconds:.2f} s | {seconds / bare[0]:.2f} "
            f"| {cpu / bare[1]:.2f} | {workload.entity_rows / seconds:,.0f} "
            f"| {growth / 2**30:.2f} GB | {growth / bare[2]:.2f} | {judged} |"
        )
    return "\n".join(lines) + "\n"


def _medians(runs: list[Measured] | str) -> tuple[float, float, float]:
    assert not isinstance(runs, str)
    return (
        statistics.median(run.seconds for run in runs),
        statistics.median(run.cpu_seconds for run in runs),
        statistics.median(run.peak_bytes - run.before_bytes for run in runs),
    )


def _judge(
    contender: Contender, runs: list[Measured], found: dict[str, list[Measured] | str]
) -> str:
    """Whether a contender gives what the first of its kind, one of ours, gives."""
    model = next(
        other[0]
        for name, other in found.items()
        if CONTENDERS[name].cut_off == contender.cut_off and not isinstance(other, str)
    )
    kind = "cut off" if contender.cut_off else "not cut off"
    if all(run.answer == model.answer for run in runs):
        return kind
    return f"{kind}, **differ**: {runs[0].rows:,} rows, {runs[0].found:,} found"


def _obstacle(name: str, workload: Workload) -> str:
    contender = CONTENDERS[name]
    if importlib.util.find_spec(contender.needs) is None:
        return f"{contender.needs} is not installed"
    pairs = workload.entity_rows * workload.feature_rows // workload.users
    if contender.most_pairs is not None and pairs > contender.most_pairs:
        return "too large for it"
    return ""


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _forget_peak() -> None:
    """Let the peak start again from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
