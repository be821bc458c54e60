"""Generation over Ray Data: plan rows in, staged Parquet and refused rows out.

The translator travels once through the object store; each task turns a block of users into
candidates with the kernel and writes its own file, so memory is flat in the number of users. A file
is named after the first user of its block and appears by rename: a retried task replaces its own
file and doubles nothing. What comes back to the driver is one row of counts per block, which is
also the progress.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from scalr_ray.generate.draw import DrawSettings, draw_events
from scalr_ray.translator.frequency import FrequencyTranslator


@dataclass(frozen=True, kw_only=True)
class GeneratedBatch:
    """What a run drew.

    Attributes:
        users: users that got candidates.
        events: synthetic events staged.
        refused: number of refused candidates by reason.
    """

    users: int
    events: int
    refused: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a batch goes: folders on a disk that every worker sees; their old content is removed.

    Attributes:
        staged: synthetic events, in the schema of the lake.
        refused: refused candidates, with their `reason`.
    """

    staged: Path
    refused: Path


def generate_batch(
    users: pa.Table,
    translator: FrequencyTranslator,
    settings: DrawSettings,
    schema: pa.Schema,
    *,
    to: Destination,
    users_per_task: int,
    on_progress: Callable[[int], None] | None = None,
) -> GeneratedBatch:
    """Draw for every user of the plan and write what was drawn; needs a Ray session.

    Args:
        users: rows of `plan_users`.
        translator: trained as of `settings.as_of` or before.
        settings: of this run.
        schema: of a synthetic event.
        to: where the rows go.
        users_per_task: users per block; bounds the memory of a task.
        on_progress: called with the number of users done since the last call.
    """
    for folder in (to.staged, to.refused):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if users.num_rows == 0:
        return GeneratedBatch(users=0, events=0, refused={})
    shared = ray.put(translator)

    def draw_and_write(block: pa.Table) -> pa.Table:
        drawn = draw_events(block, ray.get(shared), settings, schema)
        return _write_block(drawn, f"part-{block['user_code'][0].as_py():012d}.parquet", to, schema)

    counted = (
        ray.data.from_arrow(users)
        .repartition(-(-users.num_rows // users_per_task))
        .map_batches(draw_and_write, batch_size=None, batch_format="pyarrow")
    )
    totals: Counter[str] = Counter()
    for block in counted.iter_batches(batch_size=None, batch_format="pyarrow"):
        for reason, rows in zip(
            block["reason"].to_pylist(), block["rows"].to_pylist(), strict=True
        ):
            totals[reason] += rows
        if on_progress is not None:
            on_progress(pc.sum(block["users"]).as_py())
    events = totals.pop("", 0)
    return GeneratedBatch(users=users.num_rows, events=events, refused=dict(sorted(totals.items())))


def _write_block(drawn: pa.Table, name: str, to: Destination, schema: pa.Schema) -> pa.Table:
    """Write accepted and refused rows apart; one row of counts per reason, "" for accepted."""
    accepted = pc.is_null(drawn["reason"])
    kept, refused = drawn.filter(accepted), drawn.filter(pc.invert(accepted))
    _write_atomically(kept.select(schema.names).cast(schema), to.staged / name)
    _write_atomically(refused, to.refused / name)
    reasons = Counter(refused["reason"].to_pylist())
    users = pc.count_distinct(drawn["user_id"]).as_py()
    return pa.table(
        {
            "reason": pa.array(["", *reasons], pa.string()),
            "rows": pa.array([kept.num_rows, *reasons.values()], pa.int64()),
            "users": pa.array([users, *[0] * len(reasons)], pa.int64()),
        }
    )


def _write_atomically(table: pa.Table, path: Path) -> None:
    if table.num_rows == 0:
        return
    hidden = path.with_name(f".{path.name}.partial")
    pq.write_table(table, hidden)
    hidden.rename(path)
