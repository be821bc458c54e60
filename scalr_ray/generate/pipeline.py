"""Generation over Ray Data: plan rows in, staged Parquet and refused rows out.

The translator travels once through the object store; each task turns a block of users into
candidates with the kernel and writes its own file, so memory is flat in the number of users. A file
is named after the first user of its block and appears by rename: a retried task replaces its own
file and doubles nothing. What comes back to the driver is a few counts per block, which are also
the progress.
"""

from __future__ import annotations

import shutil
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError
from ray.util.annotations import RayDeprecationWarning

from scalr_ray.core.errors import DataError, RetryLater
from scalr_ray.generate.draw import DrawSettings, draw_events, refuse_later_translator
from scalr_ray.generate.plan import VOCABULARY_KEY, vocabulary_fingerprint
from scalr_ray.translator.protocol import Translator

# Of a task whose worker dies, say because its node is taken away. Ray Data's default is to try for
# ever, which for a worker that dies each time, or lacks a module, is to hang.
_TASK_RETRIES = 5


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
    translator: Translator,
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

    Raises:
        DataError: the plan and the translator were made from different events.
        LeakageError: the translator was trained after `settings.as_of`.
        RetryLater: the workers of a task died again and again.
    """
    refuse_later_translator(translator, settings)
    _refuse_other_vocabulary(users, translator)
    for folder in (to.staged, to.refused):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    if users.num_rows == 0:
        return GeneratedBatch(users=0, events=0, refused={})
    shared = ray.put(translator)

    def draw_and_write(block: pa.Table) -> pa.Table:
        drawn = draw_events(block, ray.get(shared), settings, schema)
        return _write_block(block, drawn, to, schema)

    totals, refused = Counter[str](), Counter[str]()
    for counts in _over_blocks(users, draw_and_write, users_per_task):
        refused.update(dict(counts.pop("refused")))
        totals.update(counts)
        if on_progress is not None:
            on_progress(counts["planned"])
    _remove_half_written(to)
    return GeneratedBatch(
        users=totals["users"], events=totals["events"], refused=dict(sorted(refused.items()))
    )


def _over_blocks(
    users: pa.Table, task: Callable[[pa.Table], pa.Table], users_per_task: int
) -> Iterator[dict[str, Any]]:
    """The rows that `task` returns for each block, as they come."""
    with warnings.catch_warnings():
        # Ray 2.60 calls `max_retries` deprecated and has nothing else that bounds the retries.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        blocks = (
            ray.data.from_arrow(users)
            .repartition(-(-users.num_rows // users_per_task))
            .map_batches(task, batch_size=None, batch_format="pyarrow", max_retries=_TASK_RETRIES)
        )
    try:
        for returned in blocks.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from returned.to_pylist()
    except (NodeDiedError, OutOfMemoryError, WorkerCrashedError) as error:
        raise RetryLater(
            f"{_TASK_RETRIES + 1} Ray workers died at the same task; give them more memory or "
            "lower generation.users_per_task, and run it again"
        ) from error


def _refuse_other_vocabulary(users: pa.Table, translator: Translator) -> None:
    expected = vocabulary_fingerprint(translator.source_items, translator.target_items)
    if (users.schema.metadata or {}).get(VOCABULARY_KEY) != expected:
        raise DataError(
            f"the events visible as of {translator.train_cutoff:%Y-%m-%d %H:%M:%S} are not those "
            "the translator was trained on; run `scalr train` again"
        )


def _write_block(block: pa.Table, drawn: pa.Table, to: Destination, schema: pa.Schema) -> pa.Table:
    """Write accepted and refused rows apart; one row of counts, `refused` by reason."""
    name = f"part-{block['user_code'][0].as_py():012d}.parquet"
    accepted = pc.is_null(drawn["reason"])
    kept, refused = drawn.filter(accepted), drawn.filter(pc.invert(accepted))
    _write_atomically(kept.select(schema.names).cast(schema), to.staged / name)
    _write_atomically(refused, to.refused / name)
    reasons = Counter(refused["reason"].to_pylist())
    return pa.table(
        {
            "planned": pa.array([block.num_rows]),
            "users": pa.array([pc.count_distinct(drawn["user_id"]).as_py()]),
            "events": pa.array([kept.num_rows]),
            "refused": pa.array([list(reasons.items())], pa.map_(pa.string(), pa.int64())),
        }
    )


def _write_atomically(table: pa.Table, path: Path) -> None:
    if table.num_rows == 0:
        return
    # A name of its own: a task that is thought dead and its retry may write at the same time.
    half_written = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    pq.write_table(table, half_written)
    half_written.replace(path)


def _remove_half_written(to: Destination) -> None:
    """What killed tasks left behind; nobody reads names that start with a dot."""
    for folder in (to.staged, to.refused):
        for path in folder.glob(".*"):
            path.unlink()
