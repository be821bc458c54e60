"""Generation over Ray Data, in two passes: buckets of users to drawn rows, drawn rows to a batch.

```
buckets ─► [Drawer actors] ─► drawn/part-*  ─► fit_refinement, in the driver
                              refused/part-*      │
                              done/part-*         ▼
drawn/part-* ────────────────► [refine, tasks] ─► a hidden folder ─► the staged batch, by rename
```

The translator travels once through the object store and is loaded once by each actor. What comes
back to the driver is a few counts per bucket, which are also the progress; rows go from the worker
to its file, so that memory is flat in the number of users. A bucket that is done is not drawn for
again, after a crash neither.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy

from scalr_ray.generate import spread
from scalr_ray.generate.actors import USER_CAP, DrawCounts, Drawer, DrawFolder, DrawTask
from scalr_ray.generate.appearing import parquet_rows
from scalr_ray.generate.disk import full_disk_told, refuse_full_disk
from scalr_ray.generate.kernel.block import refuse_later_translator
from scalr_ray.generate.refining.refinement import Refinement, refine

_BYTES_PER_ROW = 120  # of a drawn row in its file
_FRUITLESS_ROUNDS = 2  # in which workers died and no bucket was done
_PAUSE_S = 5.0  # in which Ray finds out that a node is gone

OnProgress: TypeAlias = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class DrawnBatch:
    """What the first pass drew.

    Attributes:
        folder: where the rows lie.
        counts: of each bucket.
    """

    folder: DrawFolder
    counts: tuple[DrawCounts, ...]

    @property
    def paths(self) -> list[Path]:
        """The files of the rows accepted so far, at least one; some may have no rows."""
        return [self.folder.drawn(counts.bucket) for counts in self.counts]

    @property
    def rows(self) -> int:
        """How many rows have been accepted so far."""
        return sum(counts.drawn for counts in self.counts)

    @property
    def without_consent(self) -> int:
        """Users who would have got events and have not consented."""
        return sum(counts.without_consent for counts in self.counts)

    @property
    def above_user_cap(self) -> int:
        """Events that were not drawn because their user has as many as a user may."""
        return sum(counts.above_user_cap for counts in self.counts)


@dataclass(frozen=True, kw_only=True)
class GeneratedBatch:
    """A batch that has been staged.

    Attributes:
        users: users that have rows in it.
        events: its rows, negatives included.
        refused: refused rows by reason, those of both passes; what users do not get because they
            have as many as they may (`user_cap`) is counted too.
        without_consent: users who would have got events and have not consented.
    """

    users: int
    events: int
    refused: dict[str, int]
    without_consent: int = 0


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a batch goes: folders on a disk that every worker sees; what they held is removed.

    Attributes:
        staged: synthetic events, in the schema of the lake.
        refused: refused rows, with their `reason`.
    """

    staged: Path
    refused: Path

    @property
    def hidden(self) -> Destination:
        """Where the batch is made before it appears: beside it, under names that nobody reads."""
        return Destination(
            staged=self.staged.with_name(f".{self.staged.name}.half"),
            refused=self.refused.with_name(f".{self.refused.name}.half"),
        )


def work_folder(root: Path, identity: str) -> Path:
    """The folder of the run `identity` below `root`; those of other runs are removed.

    Args:
        root: of one batch, on a disk that every worker sees.
        identity: a fingerprint of everything that the rows follow from.
    """
    folder = root / identity
    folder.mkdir(parents=True, exist_ok=True)
    for other in root.iterdir():
        if other != folder:
            shutil.rmtree(other)
    return folder


def draw_batch(
    task: DrawTask,
    work: Path,
    *,
    also_room_in: Sequence[Path] = (),
    on_progress: OnProgress | None = None,
) -> DrawnBatch:
    """Draw for the users of all buckets that are not done yet; needs a Ray session.

    Args:
        task: what to draw.
        work: a folder of this very task (`work_folder`), on a disk that every worker sees.
        also_room_in: folders whose disks must hold the rows as well, later.
        on_progress: called with the number of users (with source events) done since the last call.

    Raises:
        LeakageError: the translator was trained after the generation time.
        DataError: the translator's scores are no numbers, or the catalogue is not of its items.
        UsageError: a disk is too small.
        RetryLater: workers died again and again at the same bucket, the cluster gave up, or the
            disk is full after all.
    """
    refuse_later_translator(task.translator, task.settings)
    folder = DrawFolder(folder=work)
    folder.make()
    done = folder.done()
    pending = [bucket for bucket in range(task.buckets.counts.buckets) if bucket not in done]
    for place in (work, *also_room_in):
        refuse_full_disk(place, _bytes_to_come(task, len(pending)), "the events to be drawn")
    if on_progress is not None and done:
        on_progress(sum(counts.seen for counts in done.values()))
    # Closed also where `on_progress` raises, so that the workers do not go on.
    with closing(_draw_in_rounds(task, folder, pending)) as drawing:
        for counts in drawing:
            done[counts.bucket] = counts
            if on_progress is not None:
                on_progress(counts.seen)
    folder.make()
    return DrawnBatch(folder=folder, counts=tuple(done[bucket] for bucket in sorted(done)))


def wanted_rows(task: DrawTask) -> int:
    """How many events the plan of all buckets asks for; needs a Ray session.

    Raises:
        RetryLater: as `draw_batch`.
    """
    shared = ray.put(task)

    def count(buckets: pa.Table) -> pa.Table:
        plans = (ray.get(shared).plan(bucket).plan for bucket in buckets["bucket"].to_pylist())
        return pa.table({"slots": [pc.sum(plan["slots"]).as_py() or 0 for plan in plans]})

    counted = spread.over_tasks(spread.blocks_of(range(task.buckets.counts.buckets)), count)
    return sum(row["slots"] for row in counted)


def refine_batch(
    drawn: DrawnBatch,
    refinement: Refinement,
    schema: pa.Schema,
    *,
    to: Destination,
    on_progress: OnProgress | None = None,
) -> GeneratedBatch:
    """Refine what was drawn and let the batch appear; needs a Ray session.

    Args:
        drawn: what `draw_batch` drew.
        refinement: fitted on it.
        schema: of a synthetic event.
        to: where the batch and the refused rows go.
        on_progress: called with the number of users done since the last call.

    Raises:
        UsageError: the disk is too small.
        RetryLater: as `draw_batch`.
    """
    hidden = to.hidden
    for folder in (hidden.staged, hidden.refused):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    refuse_full_disk(hidden.staged, drawn.rows * _BYTES_PER_ROW, "the events of the batch")
    seen = {counts.bucket: counts.seen for counts in drawn.counts}
    users, events, refused = 0, 0, Counter({USER_CAP: drawn.above_user_cap})
    with closing(_refine(drawn, refinement, schema, hidden)) as refining:
        for row in refining:
            users += row["users"]
            events += row["events"]
            refused.update(dict(row["refused"]))
            if on_progress is not None:
                on_progress(seen[row["bucket"]])
    for made, shown in ((hidden.refused, to.refused), (hidden.staged, to.staged)):
        for half_written in made.glob(".*"):
            half_written.unlink()
        shutil.rmtree(shown, ignore_errors=True)
        made.rename(shown)
    return GeneratedBatch(
        users=users,
        events=events,
        refused=dict(sorted((+refused).items())),
        without_consent=drawn.without_consent,
    )


def _draw_in_rounds(
    task: DrawTask, folder: DrawFolder, pending: Sequence[int]
) -> Generator[DrawCounts, None, None]:
    """`_draw`, again for what is left as long as workers die and buckets are done all the same.

    A lost node takes its actors along, and their tries run out before Ray knows that it is gone.
    """
    left = set(pending)
    fruitless = 0
    while left:
        before = len(left)
        try:
            with closing(_draw(task, folder, sorted(left))) as drawing:
                for counts in drawing:
                    left.remove(counts.bucket)
                    yield counts
        except spread.WorkersDied:
            marked = folder.done()
            for bucket in sorted(left & marked.keys()):
                left.remove(bucket)
                yield marked[bucket]
            fruitless = 0 if len(left) < before else fruitless + 1
            if fruitless == _FRUITLESS_ROUNDS:
                raise
            time.sleep(_PAUSE_S)


def _draw(
    task: DrawTask, folder: DrawFolder, pending: Sequence[int]
) -> Generator[DrawCounts, None, None]:
    """Draw for the pending buckets; what was counted of each, as they come."""
    if not pending:
        return
    gpus = int(ray.cluster_resources().get("GPU", 0)) if task.translator.kind == "neural" else 0
    workers = gpus or int(ray.cluster_resources().get("CPU", 1))
    most = max(1, min(workers, len(pending)))
    # All at once, and fewer where nodes have gone.
    actors = ActorPoolStrategy(min_size=1, initial_size=most, max_size=most)
    with spread.named_actors() as next_name:
        with spread.needed_arguments():
            drawing = spread.blocks_of(pending).map_batches(
                Drawer,
                fn_constructor_kwargs={"shared": ray.put(task), "folder": folder, "gpu": gpus > 0},
                batch_size=None,
                batch_format="pyarrow",
                compute=actors,
                num_cpus=1,
                num_gpus=1 if gpus else None,
                max_task_retries=spread.TASK_RETRIES,
                max_restarts=spread.ACTOR_RESTARTS,
                ray_remote_args_fn=next_name,
            )
        for row in spread.rows_as_they_come(drawing):
            yield DrawCounts.parse(row["counts"])


def _refine(
    drawn: DrawnBatch, refinement: Refinement, schema: pa.Schema, to: Destination
) -> Generator[dict[str, Any], None, None]:
    """Refine bucket by bucket; what was counted of each, as they come."""
    folder = drawn.folder

    def refine_each(buckets: pa.Table) -> pa.Table:
        numbers = buckets["bucket"].to_pylist()
        return pa.concat_tables(
            [refine_bucket(bucket, folder, refinement, schema, to) for bucket in numbers]
        )

    return spread.over_tasks(
        spread.blocks_of([counts.bucket for counts in drawn.counts]), refine_each
    )


def refine_bucket(
    bucket: int, folder: DrawFolder, refinement: Refinement, schema: pa.Schema, to: Destination
) -> pa.Table:
    """Refine the rows of a bucket and write them; one row of counts, `refused` by reason.

    Raises:
        RetryLater: the disk is full.
    """
    with full_disk_told("the events of the batch"):
        return _refine_and_write(bucket, folder, refinement, schema, to)


def _refine_and_write(
    bucket: int, folder: DrawFolder, refinement: Refinement, schema: pa.Schema, to: Destination
) -> pa.Table:
    name = folder.drawn(bucket).name
    users: set[object] = set()
    events, reasons = 0, Counter[str]()
    with (
        parquet_rows(to.staged / name) as staged_file,
        parquet_rows(to.refused / name) as refused_file,
    ):
        for path in (folder.refused(bucket), folder.drawn(bucket)):
            for rows in _row_groups(path):
                told = refine(rows, refinement, schema)
                kept = told.filter(pc.is_null(told["reason"]))
                refused = told.filter(pc.is_valid(told["reason"]))
                staged_file.write_some(kept.select(schema.names).cast(schema))
                refused_file.write_some(refused)
                users.update(pc.unique(kept["user_id"]).to_pylist())
                events += kept.num_rows
                reasons.update(refused["reason"].to_pylist())
    counted = {"bucket": bucket, "users": len(users), "events": events}
    refused_by = pa.array([list(reasons.items())], pa.map_(pa.string(), pa.int64()))
    return pa.table({name: [value] for name, value in counted.items()} | {"refused": refused_by})


def _row_groups(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def _bytes_to_come(task: DrawTask, pending: int) -> int:
    rules, counts = task.rules, task.buckets.counts
    each = min(rules.per_user, len(task.translator.target_items)) * rules.thin
    users = counts.users * pending / counts.buckets
    return int(users * each * (1 + task.settings.negatives) * _BYTES_PER_ROW)
