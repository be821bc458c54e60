"""How fast the neural translator trains on one device, by catalogue and by number of examples.

```
python -m tests.bench.translator                         # on one CPU, some minutes
python -m tests.bench.translator --device cuda
python -m tests.bench.translator --examples 1            # cost against work up to 50M examples
```

Needs PyTorch and this package; of Arrow and SciPy, where they are missing, only the cost against
work goes without. Each row is a process of its own that runs `train_loop`. The first table is of
batches that are made beforehand, so that it shows the device and what the loop asks of the CPU for
it; the second feeds, shuffles and collates training rows as they come.

Examples are queries, tokens are events read. Utilisation is that of matrix products, counted
forward once and backward twice, against `--peak` TFLOP/s (790, an H200 in bfloat16) on a GPU and
against a large float32 product measured in the same process on a CPU. Memory is the most that was
allocated on the GPU, or resident on a CPU, tables and the state of the optimizer included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

_OPTIONAL = (
    "duckdb",
    "pyarrow",
    "pyarrow.compute",
    "pyarrow.parquet",
    "pyarrow.fs",
    "scipy",
    "scipy.sparse",
    "scipy.optimize",
)
_DAY = 86_400_000_000
_MILLION = 1_000_000
_LOT = 64 * 128 * 4  # examples of one batch of each lane, in the cost against work


class _Nothing(ModuleType):
    """Stands for a module that is named by annotations and by code that is not run here."""

    __path__: list[str] = []  # noqa: RUF012 - what makes it a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _Nothing("nothing")


_HAS_ARROW = importlib.util.find_spec("pyarrow") is not None
_MISSING = [name for name in _OPTIONAL if importlib.util.find_spec(name.split(".")[0]) is None]
sys.modules |= {name: _Nothing(name) for name in _MISSING}
sys.path.append(str(Path(__file__).parents[1] / "support"))

from planted_rows import flat_catalogue, planted_rows  # noqa: E402 - after the stand-ins

from scalr_ray.learn.neural import loop  # noqa: E402
from scalr_ray.learn.neural.feed import Feed  # noqa: E402
from scalr_ray.learn.neural.peers import Alone  # noqa: E402
from scalr_ray.translator.neural.batch import Batch  # noqa: E402
from scalr_ray.translator.neural.config import NetShape  # noqa: E402
from scalr_ray.translator.neural.net import TranslatorNet  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A net, a catalogue and batches."""

    model: str
    items: int
    width: int
    layers: int
    heads: int
    length: int
    rows: int
    queries: int
    negatives: int
    warm: int
    steps: int
    examples: int = 0  # of the cost against work; 0 times ready-made batches


_SMALL_CPU = {"width": 32, "layers": 1, "heads": 2, "length": 32, "rows": 64, "queries": 4}
_SMALL_GPU = {"width": 64, "layers": 1, "heads": 2, "length": 32, "rows": 2048, "queries": 4}
_LARGE = {"width": 512, "layers": 4, "heads": 8, "length": 256, "queries": 4}


def workloads(device: str) -> list[Workload]:
    """The rows of the first table: what fits the device."""
    few, many = {"warm": 3, "steps": 20}, {"warm": 20, "steps": 200}
    if device == "cpu":
        small = _SMALL_CPU | few | {"model": "small", "negatives": 1024}
        large = _LARGE | {"model": "encoder", "rows": 4, "negatives": 1024, "warm": 1, "steps": 5}
        fewest = small | {"warm": 1, "steps": 4}  # every step moves all rows of the tables
        sizes = [(small, 10_000), (fewest, _MILLION), (fewest, 10 * _MILLION), (large, 10_000)]
    else:
        small = _SMALL_GPU | many | {"model": "small", "negatives": 8192}
        large = _LARGE | {
            "model": "encoder",
            "rows": 512,
            "negatives": 8192,
            "warm": 10,
            "steps": 50,
        }
        sizes = [(model, n) for model in (small, large) for n in (10_000, _MILLION, 10 * _MILLION)]
    return [Workload(items=items, **model) for model, items in sizes]


def work(scale: float) -> list[Workload]:
    """The rows of the second table."""
    light = {"width": 16, "layers": 0, "heads": 1, "length": 16, "rows": 128, "queries": 4}
    rest = {"model": "light", "items": 10_000, "negatives": 256, "warm": 5, "steps": 0}
    lots = (max(1, round(n * scale * _MILLION / _LOT)) for n in (1, 10, 50))
    return [Workload(**light, **rest, examples=lot * _LOT) for lot in lots]


class _Clock(Alone):
    """Notes the time after each step, by the clock and on a CPU."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.cpu: list[float] = []

    def after_step(self, snapshot: Callable[[], loop.LoopState]) -> None:
        del snapshot
        self.times.append(time.perf_counter())
        self.cpu.append(time.process_time())


class _Ready:
    """Stands for a table of training rows whose batch is made already."""

    def __init__(self, load: Workload, seed: int) -> None:
        self.batch = _batch(load, seed)
        self.users = np.arange(load.rows)

    def __getitem__(self, name: str) -> Any:
        assert name == "user"
        return self.users


def _batch(load: Workload, seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    rows, length, queries = load.rows, load.length, load.rows * load.queries

    def power_law(*shape: int) -> torch.Tensor:
        return (load.items * torch.rand(*shape, generator=draw) ** 3).long()

    tokens = (rows, length)
    return Batch(
        items=power_law(*tokens) + 1,
        sides=torch.zeros(tokens, dtype=torch.int64),
        types=torch.ones(tokens, dtype=torch.int64),
        gaps=torch.rand(tokens, generator=draw),
        values=torch.zeros(*tokens, 2),
        query_rows=torch.arange(rows).repeat_interleave(load.queries),
        query_positions=torch.randint(length // 2, length, (queries,), generator=draw),
        query_gaps=torch.rand(queries, generator=draw),
        query_times=20_000 * _DAY + torch.randint(0, 30, (queries,), generator=draw) * _DAY,
        query_items=power_law(queries),
        owned=torch.empty(2, 0, dtype=torch.int64),
    )


def measure(load: Workload, device: str, peak_tflops: float) -> dict[str, float]:
    """Run one workload in this process."""
    if device == "cpu":
        torch.set_num_threads(1)  # threads that wait for one another measure what else is running
    torch.manual_seed(0)
    shape = NetShape(
        source_items=load.items,
        target_items=load.items,
        event_types=1,
        length=load.length,
        width=load.width,
        layers=load.layers,
        heads=load.heads,
    )
    net = TranslatorNet(shape).to(device)
    settings = loop.LoopSettings(epochs=1, batch_rows=load.rows, warmup_steps=1)
    catalogue = flat_catalogue(load.items, negatives=load.negatives)
    clock = _Clock()
    if load.examples:
        loop.train_loop(
            net, _streamed(load).batches, lambda _: 0.0, settings, catalogue=catalogue, peers=clock
        )
    else:
        pool = [_Ready(load, seed) for seed in range(4)]

        def batches(_: int) -> Iterator[_Ready]:
            return (pool[step % len(pool)] for step in range(load.warm + load.steps + 1))

        with patch.object(loop, "collate", lambda rows, **_: rows.batch):
            loop.train_loop(net, batches, lambda _: 0.0, settings, catalogue=catalogue, peers=clock)
    steps = len(clock.times) - 1 - load.warm
    seconds = (clock.times[-1] - clock.times[load.warm]) / steps
    cpu_s = (clock.cpu[-1] - clock.cpu[load.warm]) / steps
    on_gpu = device == "cuda"
    peak = peak_tflops if on_gpu else _product_tflops()
    return {
        "examples_per_s": load.rows * load.queries / seconds,
        "cpu_s_per_example": cpu_s / (load.rows * load.queries),
        "tokens_per_s": load.rows * load.length / seconds,
        "memory_gib": _peak_bytes(on_gpu=on_gpu) / 2**30,
        "utilisation": 3 * _forward_flops(load) / seconds / (peak * 1e12),
    }


def _streamed(load: Workload) -> Feed:
    """A feed whose blocks are made when they are opened."""
    each = load.rows
    blocks = load.examples // load.queries // each
    made = {"tokens": load.length, "queries": load.queries, "items": load.items}
    return Feed(
        blocks=range(blocks),
        counts=[each] * blocks,
        open_block=lambda number: planted_rows(users=each, seed=int(number), **made),
        batch_rows=load.rows,
        seed=0,
    )


def _forward_flops(load: Workload) -> float:
    """Of the matrix products of a batch: projections, causal attention, queries with candidates."""
    width, tokens = load.width, load.rows * load.length
    inner = -(-width * 8 // 3 // 16) * 16
    per_token = load.layers * (2 * (4 * width**2 + 3 * width * inner) + 2 * load.length * width)
    own, values = 2 * width**2, 2 * 11 * width  # own tokens; gaps and values
    queries = load.rows * load.queries
    candidates = min(load.negatives + queries, load.items)
    return tokens * (per_token + own + values) + 2 * queries * width * (width + candidates)


def _product_tflops() -> float:
    """What a large float32 matrix product reaches on this CPU."""
    size = 2048
    left = torch.rand(size, size)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e12


def _peak_bytes(*, on_gpu: bool) -> int:
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _apart(load: Workload, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure in a process of its own, so that memory is that of this workload."""
    command = [sys.executable, "-m", "tests.bench.translator", "--one", json.dumps(asdict(load))]
    command += ["--device", arguments.device, "--peak", str(arguments.peak)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak", type=float, default=790.0, help="TFLOP/s of the GPU in bfloat16")
    parser.add_argument("--examples", type=float, help="1: 1M, 10M and 50M; 0.02 on a CPU, else 1")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        load = Workload(**json.loads(arguments.one))
        _say(json.dumps(measure(load, arguments.device, arguments.peak)))
        return
    _say("| model | catalogue | examples/s | tokens/s | peak memory | utilisation |")
    _say("|---|---|---|---|---|---|")
    for load in workloads(arguments.device):
        found = _apart(load, arguments)
        model = f"{load.model}, D = {load.width}, L = {load.length}, {load.layers} layers"
        _say(
            f"| {model} | {load.items:,} | {found['examples_per_s']:,.0f} | "
            f"{found['tokens_per_s']:,.0f} | {found['memory_gib']:.1f} GiB | "
            f"{found['utilisation']:.1%} |",
        )
    if not _HAS_ARROW:
        return
    scale = arguments.examples or (0.02 if arguments.device == "cpu" else 1.0)
    _say("\n| examples, streamed | per example | on a CPU | peak memory |")
    _say("|---|---|---|---|")
    for load in work(scale):
        found = _apart(load, arguments)
        _say(
            f"| {load.examples:,} | {1e6 / found['examples_per_s']:.1f} us | "
            f"{1e6 * found['cpu_s_per_example']:.1f} us | {found['memory_gib']:.2f} GiB |",
        )


if __name__ == "__main__":
    main()
