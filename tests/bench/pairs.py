"""What a privacy floor and noise cost in lift, and how fast pairs are counted.

```
python tests/bench/pairs.py --data ../shared/data   # the cost, on four directions of real logs
python tests/bench/pairs.py --speed                 # DuckDB, scipy and Ray Data, on made-up rows
python tests/bench/pairs.py --speed --scale 0.1
```

The folder of data holds `<name>/events.parquet` with `user_id`, `item_id`, `domain` and
`event_timestamp`, two domains in each. Repeats of a user and an item are dropped; the test cut is
the 0.80 quantile of the target domain's times, the validation cut the 0.65 quantile, both to the
day; target events of odd users before the test cut are hidden. Strength is chosen on the validation
window anew for each row; the prior is the popularity of the last 90 days. All items are ranked;
intervals are 95 % of a bootstrap over users, paired with the prior.

Speed is that of the count alone, from coded rows in memory to whole-number sums, in medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.clock import floor_day, from_micros, to_micros
from scalr_ray.core.events import event_schema
from scalr_ray.learn import TrainingEvents, translator_as_of
from scalr_ray.learn.counts import MARGINAL_PSEUDO_USERS
from scalr_ray.learn.pairs import PairRows, counts_to_keep, partial_counts
from scalr_ray.learn.strength import choose_strength
from scalr_ray.learn.window import Window, validation_window
from scalr_ray.offline_store.limits import Limits
from scalr_ray.translator import FrequencyTranslator, PriorMix, Strength
from scalr_ray.translator.counts import PairRules
from scalr_ray.translator.noise import Bound, Noise
from scalr_ray.translator.protocol import as_prior, log_scores
from scalr_ray.translator.weighing import Weighing
from training.metrics import ndcg_at_k, top_k

LIMITS = Limits(memory_limit="4GB", threads=2, spill_dir=None)
PRIOR = PriorMix.recent(window_days=90, background=0.01)
WEAKEST = Strength(shrinkage=0.1, alpha=0.0)
SHRINKAGES = (0.01, 0.1, 1.0, 5.0)
ALPHAS = (0.0, 0.15, 0.3, 0.6, 1.0)
K = 20
BOOTSTRAP = 1000
DELTA = 1e-5
BOUND = Bound(source_items=8, target_items=2)
_HEADER = "| direction | counts | pairs kept | alpha | all | hidden | warm | gain over the prior |"


@dataclass(frozen=True, kw_only=True)
class Counting:
    """One row of the table."""

    name: str
    min_users: int = 1
    noise: Noise | None = None

    def apply(
        self, translator: FrequencyTranslator, events: TrainingEvents, cut: datetime
    ) -> FrequencyTranslator:
        """The translator over what this counting keeps of the events visible as of `cut`."""
        weighing = Weighing(min_users=self.min_users, noisy=self.noise is not None)
        counts = counts_to_keep(events.as_of(cut), weighing, LIMITS, noise=self.noise)
        return translator.with_counts(counts, weighing, pseudo_users=MARGINAL_PSEUDO_USERS)


def countings() -> list[Counting]:
    """Floors, and noise with and without the floor that its guarantee needs."""
    made = [Counting(name=f"floor {floor}", min_users=floor) for floor in (1, 2, 5, 10)]
    # So little noise that it rounds to none: what the bound alone costs.
    none = Noise(epsilon=1e12, bound=BOUND, seed=1)
    made.append(Counting(name="8 x 2 items of a user", noise=none))
    for epsilon in (8.0, 1.0):
        noise = Noise(epsilon=epsilon, bound=BOUND, seed=1)
        safe = next(floor for floor in range(1, 10_000) if noise.delta(floor) <= DELTA)
        made.append(Counting(name=f"epsilon {epsilon:g}, no floor", noise=noise))
        name = f"epsilon {epsilon:g}, floor {safe} (delta {DELTA:g})"
        made.append(Counting(name=name, min_users=safe, noise=noise))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of real logs")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0, help="of the rows of --speed")
    parser.add_argument("--repeats", type=int, default=3, help="of --speed")
    options = parser.parse_args(arguments)
    if options.data:
        say(_HEADER, "|---" * 8 + "|")
        for file in sorted(options.data.glob("*/events.parquet")):
            for line in cost_lines(pq.read_table(file)):
                say(line)
    if options.speed:
        say("| rows | pairs | scipy | DuckDB | Ray Data | DuckDB / scipy | Ray / DuckDB |")
        say("|---" * 7 + "|")
        for rows in (250_000, 2_500_000):
            say(speed_line(int(rows * options.scale), options.repeats))


def say(*lines: str) -> None:
    """Print at once."""
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


# --- what it costs -----------------------------------------------------------------------------


def cost_lines(log: pa.Table) -> Iterator[str]:
    """The rows of both directions of one log."""
    domains = pc.unique(log["domain"]).to_pylist()
    for source in sorted(domains):
        for target in sorted(set(domains) - {source}):
            yield from direction_lines(log, source, target)


def direction_lines(log: pa.Table, source: str, target: str) -> Iterator[str]:
    """The rows of one direction."""
    events, validation_cut, cut = hidden_events(log, source, target)
    window = validation_window(events.as_of(cut), validation_cut, cut, 0)
    test = validation_window(events, cut, cut + timedelta(days=36_500), 0)
    hidden = np.diff(test.own.indptr) == 0
    at_validation = translator_as_of(events, validation_cut, strength=WEAKEST, mix=PRIOR)
    at_test = translator_as_of(events, cut, strength=WEAKEST, mix=PRIOR)
    prior = ndcg(as_prior(at_test), test)
    every_pair = at_test.counts.nnz
    yield f"| {source} → {target} | prior | | | {means(prior, hidden)} | |"
    for counting in countings():
        counted = counting.apply(at_validation, events, validation_cut)
        candidates = [counted.with_shrinkage(shrinkage) for shrinkage in SHRINKAGES]
        chosen = choose_strength(candidates, window, alphas=ALPHAS).translator
        final = counting.apply(at_test, events, cut)
        final = final.with_shrinkage(chosen.strength.shrinkage)
        values = ndcg(final.tuned(alpha=chosen.alpha, temperature=1.0), test)
        kept = f"{final.counts.nnz / every_pair:.1%}"
        yield (
            f"| | {counting.name} | {kept} | {chosen.alpha:g} | {means(values, hidden)} "
            f"| {gain(values, prior)} |"
        )


def hidden_events(
    log: pa.Table, source: str, target: str
) -> tuple[TrainingEvents, datetime, datetime]:
    """Coded events, the target events of odd users before the test cut left out, and both cuts."""
    logs = [firsts(log.filter(pc.equal(log["domain"], domain))) for domain in (source, target)]
    times = logs[1]["event_timestamp"].cast(pa.int64()).to_numpy()
    cuts = [floor_day(from_micros(int(np.quantile(times, share)))) for share in (0.65, 0.80)]
    odd = logs[1]["user_id"].to_numpy() % 2 == 1
    logs[1] = logs[1].filter(pa.array(~(odd & (times < to_micros(cuts[1])))))
    return TrainingEvents.of(*logs), cuts[0], cuts[1]


def firsts(log: pa.Table) -> pa.Table:
    """The first event of each user and item, as the store holds events."""
    log = log.sort_by([("event_timestamp", "ascending"), ("item_id", "ascending")])
    users, items = (log[name].to_numpy() for name in ("user_id", "item_id"))
    _, first = np.unique(np.stack([users, items]), axis=1, return_index=True)
    log = log.take(pa.array(np.sort(first)))
    columns = {
        "event_id": pa.array([f"{number:09d}" for number in range(log.num_rows)]),
        "available_at": log["event_timestamp"],
        "value": pa.nulls(log.num_rows, pa.float64()),
    }
    schema = event_schema("int64", "int64")
    return pa.table(
        [
            columns.get(name, log[name] if name in log.column_names else None)
            for name in schema.names
        ],
        schema=schema,
    )


def ndcg(translator: FrequencyTranslator, test: Window) -> NDArray[np.float64]:
    """(B,) NDCG@20 of each test user."""
    rankable = translator.prior > 0
    parts = [
        ndcg_at_k(
            top_k(log_scores(translator, chunk.users), K, excluded=chunk.own, rankable=rankable),
            chunk.relevant,
        )
        for chunk in test.chunks()
    ]
    return np.concatenate(parts)


def means(values: NDArray[np.float64], hidden: NDArray[np.bool_]) -> str:
    """Of all users, of those without target history, of those with it."""
    return " | ".join(f"{part.mean():.4f}" for part in (values, values[hidden], values[~hidden]))


def gain(values: NDArray[np.float64], prior: NDArray[np.float64]) -> str:
    """The relative gain in the mean, with its paired interval."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(values), (BOOTSTRAP, len(values)))
    ratios = values[drawn].mean(axis=1) / prior[drawn].mean(axis=1) - 1
    low, high = np.quantile(ratios, (0.025, 0.975))
    return f"{values.mean() / prior.mean() - 1:+.0%} [{low * 100:.0f}, {high * 100:.0f}]"


# --- how fast it is ----------------------------------------------------------------------------


def speed_line(rows: int, repeats: int) -> str:
    """One row of the table, in medians; all contenders must find the same pairs."""
    made = made_up(rows)
    with ray_here():
        ways: dict[str, Callable[[], int]] = {
            "scipy": lambda: by_scipy(made),
            "DuckDB": lambda: partial_counts(made, PairRules(), LIMITS).num_rows,
            "Ray Data": by_ray(made, rows),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        found: set[int] = set()
        targets = len(np.unique(made.target["item"].to_numpy()))
        for repeat in range(repeats + 1):
            for name, way in ways.items():
                began = time.perf_counter()
                pairs = way()
                if repeat:  # the first warms up: workers start, files are read
                    seconds[name].append(time.perf_counter() - began)
                found.add(pairs - (0 if name == "scipy" else targets))
    assert len(found) == 1, found
    scipy, duck, ray = (statistics.median(times) for times in seconds.values())
    cells = [f"{rows:,}", f"{found.pop():,}", f"{scipy:.2f} s", f"{duck:.2f} s", f"{ray:.2f} s"]
    return f"| {' | '.join([*cells, f'{duck / scipy:.2f}', f'{ray / duck:.1f}'])} |"


def made_up(rows: int) -> PairRows:
    """Four fifths source rows, one fifth target rows, with a long tail of items."""
    rng = np.random.default_rng(0)
    users = max(rows // 25, 1)

    def side(count: int, items: int) -> pa.Table:
        # Every user is in both domains, so that scipy and the statement count the same targets.
        user = np.concatenate([np.arange(users), rng.integers(0, users, max(count - users, 0))])
        return pa.table(
            {
                "user": user,
                "item": np.minimum(
                    (items * rng.random(len(user)) ** 3).astype(np.int64), items - 1
                ),
                "type": pa.nulls(len(user), pa.string()),
                "time": rng.integers(0, 10**15, len(user)),
            }
        )

    items = max(rows // 100, 10)
    return PairRows(source=side(rows * 4 // 5, items), target=side(rows // 5, items // 2))


def by_scipy(rows: PairRows) -> int:
    """The number of pairs that a product of two incidence matrices has."""
    sides = []
    for table in (rows.source, rows.target):
        users, items = table["user"].to_numpy(), table["item"].to_numpy()
        made = sparse.csr_matrix((np.ones(len(users), np.float32), (users, items)))
        made.data[:] = 1.0
        sides.append(made)
    counts = (sides[0].T @ sides[1]).tocsr()
    counts.sort_indices()
    return int(counts.nnz)


def by_ray(rows: PairRows, total: int) -> Callable[[], int]:
    """The same on the cluster, four partitions, from rows that are there already."""
    from ray.data import from_arrow

    from scalr_ray.learn.pairs_ray import pair_rows_on_cluster

    def blocks(table: pa.Table) -> list[pa.Table]:
        step = -(-table.num_rows // 4)
        return [table.slice(start, step) for start in range(0, table.num_rows, step)]

    source, target = from_arrow(blocks(rows.source)), from_arrow(blocks(rows.target))

    def count() -> int:
        partition = -(-total // 4)
        counted = pair_rows_on_cluster(
            source, target, PairRules(), LIMITS, partition_rows=partition
        )
        return int(counted.count())

    return count


def ray_here() -> object:
    """A local cluster of two CPUs for the time of a block."""
    from scalr_ray.offline_store.cluster import ray_session

    os.environ.pop("RAY_ADDRESS", None)
    return ray_session(2)


if __name__ == "__main__":
    main()
