"""How fast the items of a neural translator are gone through, by catalogue.

```
python -m tests.bench.generate                           # on one thread of a CPU, some minutes
python -m tests.bench.generate --items 10000000
python -m tests.bench.generate --device cuda
```

Needs PyTorch and this package; the second table also Arrow, SciPy and faiss, without which it is
left out. Each row is a process of its own.

The first table times `scan`: for each user the `--k` best items, the normaliser of the evidence and
that of the likelihood. Beside it stands what the machine makes of the same matrix product and
`topk` alone, which give neither normaliser: the whole catalogue at once for as many users as fit
into 256 MB (CPU) or 4 GB (GPU), or in chunks of items with a running `topk`, whichever is faster.
Both are timed in turn, and the medians compared. Share of peak is that of the matrix product alone:
of a large float32 product in the same process on a CPU, of `--peak` TFLOP/s on a GPU (67, an H100
in float32). Memory is the most that was allocated on the GPU, or resident on a CPU, before the
comparison runs; the table of items is in it.

The second table times `ItemIndex` against the exact shortlist, encoder included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import torch

_OPTIONAL = ("pyarrow", "pyarrow.compute", "pyarrow.parquet", "scipy", "scipy.sparse")


class _Nothing(ModuleType):
    """Stands for a module that is named by annotations and by code that is not run here."""

    __path__: list[str] = []  # noqa: RUF012 - what makes it a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _Nothing("nothing")


_HAS_INDEX = all(importlib.util.find_spec(name) for name in ("pyarrow", "scipy", "faiss"))
_MISSING = [name for name in _OPTIONAL if importlib.util.find_spec(name.split(".")[0]) is None]
sys.modules |= {name: _Nothing(name) for name in _MISSING}

from scalr_ray.translator.neural.scan import (  # noqa: E402 - after the stand-ins
    Barred,
    ItemTable,
    Wanted,
    scan,
    users_at_once,
)

_WIDTH, _AGES = 64, 7
_DAY = 86_400_000_000
_BARRED = 20
_CHUNK = 1 << 16
_MADE_AT_ONCE = 1 << 18


def _world(items: int, users: int, device: str) -> tuple[torch.Tensor, ItemTable, Barred]:
    """Queries and items with a long tail, and some items of each user that are not listed."""
    draw = torch.Generator().manual_seed(0)
    vectors = torch.zeros(items, _WIDTH + _AGES + 1, device=device)
    prior = -torch.log(torch.arange(1, items + 1).double())
    prior = (prior - prior.logsumexp(0)).float()[torch.randperm(items, generator=draw)]
    for start in range(0, items, _MADE_AT_ONCE):
        stop = min(start + _MADE_AT_ONCE, items)
        vectors[start:stop, :_WIDTH] = torch.randn(stop - start, _WIDTH, generator=draw).to(device)
        ages = torch.randint(_AGES, (stop - start, 1), generator=draw) + _WIDTH
        vectors[start:stop].scatter_(1, ages.to(device), 1.0)
    vectors[:, -1] = prior.to(device)
    queries = torch.randn(users, _WIDTH + _AGES + 1, generator=draw) * 0.25
    queries[:, -1] = 1.0
    barred = torch.randint(items, (users * _BARRED,), generator=draw).sort().values
    rows = torch.randint(users, (users * _BARRED,), generator=draw)
    table = ItemTable(vectors=vectors)
    return queries.to(device), table, Barred(rows=rows.to(device), items=barred.to(device))


def _at_once(queries: torch.Tensor, table: ItemTable, k: int) -> None:
    """Matrix product and topk, all items for some users after the other."""
    room = 1 << (30 if queries.is_cuda else 26)
    for some in queries.split(max(1, room // len(table))):
        (some @ table.vectors.T).topk(k, dim=1)


def _in_chunks(queries: torch.Tensor, table: ItemTable, k: int) -> None:
    """Matrix product and topk, some items for all users after the other."""
    best = queries.new_empty(len(queries), 0)
    for chunk in table.vectors.split(max(_CHUNK, k)):
        scores = torch.cat((best, queries @ chunk.T), dim=1)
        best = scores.topk(min(k, scores.shape[1]), dim=1).values


def _seconds(call: Callable[[], object], device: str) -> float:
    """How long a call takes: on a CPU, what the thread worked, whatever else the machine does."""
    if device == "cpu":
        began = time.process_time()
        call()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(arguments: argparse.Namespace, items: int) -> dict[str, float]:
    """Time one catalogue in this process."""
    device, k = arguments.device, min(arguments.k, items - 1)
    where = torch.device(device)
    users = min(users_at_once(items, k, where), arguments.users)
    queries, table, barred = _world(items, users, device)
    allowed = torch.ones(items, dtype=torch.bool, device=device)
    wanted = Wanted(k=k, exponent=1.0, alpha=0.8, temperature=1.2, allowed=allowed)

    def ours() -> object:
        return scan(queries, table, wanted, barred)

    _seconds(ours, device)
    memory = _peak_bytes(device)
    plain = min(
        (_at_once, _in_chunks), key=lambda way: _seconds(lambda: way(queries, table, k), device)
    )
    pairs = [
        (_seconds(ours, device), _seconds(lambda: plain(queries, table, k), device))
        for _ in range(arguments.repeats)
    ]
    seconds, plainly = (statistics.median(times) for times in zip(*pairs, strict=True))
    flops = 2 * users * items * table.vectors.shape[1]
    peak = 1e12 * (arguments.peak if device == "cuda" else _product_tflops())
    return {
        "users_per_s": users / seconds,
        "plain_per_s": users / plainly,
        "fraction": plainly / seconds,
        "peak_share": flops / seconds / peak,
        "memory_gib": memory / 2**30,
    }


def _product_tflops() -> float:
    """What a large float32 matrix product reaches on this CPU."""
    size = 2048
    left = torch.rand(size, size)
    return 2e-12 * size**3 / min(_seconds(lambda: left @ left, "cpu") for _ in range(5))


def _peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_index(arguments: argparse.Namespace, items: int) -> dict[str, float]:
    """Time the index of one catalogue in this process."""
    import faiss
    import numpy as np
    from scipy import sparse

    from scalr_ray.translator.histories import EventLists, Users
    from scalr_ray.translator.neural.index import ItemIndex
    from scalr_ray.translator.shortlist import shortlist

    faiss.omp_set_num_threads(1)
    translator, as_of = _translator(items), 20_000 * _DAY
    began = time.process_time()
    index = ItemIndex.of(translator)
    build_s = time.process_time() - began
    draw = np.random.default_rng(0)
    count, length = 64, 10
    events = count * length
    nothing = np.zeros(0, dtype=np.int64)
    users = Users(
        as_of=as_of,
        source=EventLists(
            offsets=np.arange(count + 1) * length,
            items=draw.integers(0, 10_000, events),
            times=as_of - draw.integers(1, 90 * _DAY, events),
            types=np.zeros(events, dtype=np.int64),
            values=np.full(events, np.nan, dtype=np.float32),
        ),
        own=EventLists(
            offsets=np.zeros(count + 1, dtype=np.int64),
            items=nothing,
            times=nothing,
            types=nothing,
            values=np.zeros(0, dtype=np.float32),
        ),
    )
    asked = {
        "k": arguments.k,
        "exponent": 1.0,
        "barred": sparse.csr_matrix((count, items)),
        "allowed": np.ones(items, dtype=bool),
    }
    exact = shortlist(translator, users, **asked)
    found = shortlist(translator, users, **asked, index=index)
    pairs = [
        (
            _seconds(lambda: shortlist(translator, users, **asked), "cpu"),
            _seconds(lambda: shortlist(translator, users, **asked, index=index), "cpu"),
        )
        for _ in range(arguments.repeats)
    ]
    exactly, seconds = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {
        "build_s": build_s,
        "recall": index.recall(users, arguments.k),
        "exact_per_s": count / exactly,
        "users_per_s": count / seconds,
        "norm_error": float(np.abs(found.log_norm - exact.log_norm).mean()),
    }


def _translator(items: int) -> object:
    """A net without training whose items lie around 200 places, as trained ones do."""
    import numpy as np
    import pyarrow as pa

    from scalr_ray.translator.encode import Vocabulary
    from scalr_ray.translator.neural.config import NetShape
    from scalr_ray.translator.neural.net import TranslatorNet
    from scalr_ray.translator.neural.translator import NeuralTranslator
    from scalr_ray.translator.prior_mix import PriorMix

    torch.manual_seed(0)
    net = TranslatorNet(NetShape(source_items=10_000, target_items=items, event_types=1))
    places = torch.randn(200, _WIDTH)
    with torch.no_grad():
        net.target_table.weight.copy_(places[torch.randint(200, (items + 1,))] * 0.8)
        net.target_table.weight.add_(torch.randn(items + 1, _WIDTH) * 0.6)
        # Source items lie near target items that they make likely.
        net.source_table.weight.copy_(places[torch.randint(200, (10_001,))])
    share = 1.0 / np.random.default_rng(0).permutation(np.arange(1.0, items + 1))
    return NeuralTranslator(
        net=net,
        train_cutoff=datetime.fromtimestamp(20_000 * 86_400, UTC),
        source_items=Vocabulary(ids=pa.array(range(10_000))),
        target_items=Vocabulary(ids=pa.array(range(items))),
        event_types=Vocabulary(ids=pa.array(["view"])),
        mix=PriorMix(windows_days=(None,), weights=(1.0,)),
        log_prior=np.log(share / share.sum()).astype(np.float32),
        first_seen=np.random.default_rng(1).integers(0, 20_000, items) * _DAY,
        delays=np.array([_DAY]),
        alpha=0.8,
        temperature=1.2,
    )


def _apart(arguments: argparse.Namespace, table: str, items: int) -> dict[str, float]:
    """Measure in a process of its own, so that memory is that of this catalogue."""
    command = [sys.executable, "-m", "tests.bench.generate", "--one", table, "--items", str(items)]
    for name in ("device", "k", "users", "repeats", "peak"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--items", type=int, nargs="+", help="sizes of the catalogue")
    parser.add_argument("--k", type=int, default=1000, help="items to list for each user")
    parser.add_argument("--users", type=int, default=1024, help="at most so many in a block")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", type=float, default=67.0, help="TFLOP/s of the GPU in float32")
    parser.add_argument("--one", choices=("scan", "index"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    small = [10_000, 100_000, 1_000_000]
    if not arguments.items:
        arguments.items = small if arguments.device == "cpu" else [*small[1:], 10_000_000]
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables as Markdown."""
    arguments = _arguments(argv)
    if arguments.one:
        if arguments.device == "cpu":
            torch.set_num_threads(1)  # threads that wait for one another measure what else runs
        with torch.inference_mode():
            take = measure if arguments.one == "scan" else measure_index
            _say(json.dumps(take(arguments, arguments.items[0])))
        return
    _say("| catalogue | users/s | product + topk, users/s | ratio | share of peak | peak memory |")
    _say("|---|---|---|---|---|---|")
    for items in arguments.items:
        found = _apart(arguments, "scan", items)
        _say(
            f"| {items:,} | {found['users_per_s']:,.0f} | {found['plain_per_s']:,.0f} | "
            f"{found['fraction']:.2f} | {found['peak_share']:.0%} | {found['memory_gib']:.1f} GiB |"
        )
    if not _HAS_INDEX:
        return
    _say("\n| catalogue | build | recall | faiss, users/s | exact, users/s | error of log norm |")
    _say("|---|---|---|---|---|---|")
    for items in arguments.items:
        if items < 100_000:
            continue
        found = _apart(arguments, "index", items)
        _say(
            f"| {items:,} | {found['build_s']:.0f} s | {found['recall']:.1%} | "
            f"{found['users_per_s']:,.0f} | {found['exact_per_s']:,.0f} | "
            f"{found['norm_error']:.3f} |"
        )


if __name__ == "__main__":
    main()
