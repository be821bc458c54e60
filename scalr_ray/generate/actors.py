"""What one worker does: the users of a bucket, planned, drawn for, and written.

A bucket is drawn for in blocks, so that memory is bounded by the size of a block and of a bucket.
Its files appear by rename, and the mark that it is done comes last: a bucket that is drawn for
again, by a retry or after a crash, replaces its own files and doubles nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from scalr_ray.core.events import TIMESTAMP
from scalr_ray.generate.appearing import appearing, parquet_rows
from scalr_ray.generate.buckets import ABOUT, SOURCE, TAKEN, TARGET, Buckets
from scalr_ray.generate.catalogue import Catalogue
from scalr_ray.generate.disk import full_disk_told
from scalr_ray.generate.kernel.block import DrawSettings
from scalr_ray.generate.kernel.draw import EVENT_TYPE, draw_events
from scalr_ray.generate.plan import Coding, PlanRules, plan_bucket
from scalr_ray.translator.encode import KEY_SEPARATOR
from scalr_ray.translator.protocol import Translator

if TYPE_CHECKING:
    from scalr_ray.translator.neural.index import ItemIndex

USER_CAP = "user_cap"  # why events are refused that are not even drawn
# What a block of users may have of each: it ends where these shares add up to one.
_BLOCK_USERS, _BLOCK_ROWS, _BLOCK_EVENTS = 1024, 200_000, 500_000


@dataclass(frozen=True, kw_only=True)
class DrawTask:
    """What every worker of a run is told.

    Attributes:
        buckets: the users.
        translator: trained as of `settings.as_of` or before.
        rules: how many events a user gets.
        settings: how they are drawn.
        schema: of a synthetic event.
        catalogue: what may be proposed to each group of users; None: everything to everybody.
        index: of the translator's items; None looks at all.
    """

    buckets: Buckets
    translator: Translator
    rules: PlanRules
    settings: DrawSettings
    schema: pa.Schema
    catalogue: Catalogue | None = None
    index: ItemIndex | None = None

    def plan(self, bucket: int) -> BucketPlan:
        """The users of a bucket who get events."""
        source, target, taken, about = (
            self.buckets.read(side, bucket) for side in (SOURCE, TARGET, TAKEN, ABOUT)
        )
        assert source is not None, "there are source events, or there would be no buckets"
        if target is None:
            target = source.slice(0, 0)
        seen = pc.count_distinct(source["user_id"]).as_py()
        plan = plan_bucket(source, target, Coding.of(self.translator), self.rules)
        without_consent, above_user_cap = 0, 0
        if about is not None:
            planned = plan.num_rows
            plan = _with_about(plan, about)
            without_consent = planned - plan.num_rows
        if taken is not None:
            plan = _with_taken(plan, taken, self.translator)
        if self.rules.per_user_total is not None:
            wanted = _slots(plan)
            plan = _within_user_cap(plan, taken, self.rules.per_user_total)
            above_user_cap = wanted - _slots(plan)
        return BucketPlan(
            plan=plan, seen=seen, without_consent=without_consent, above_user_cap=above_user_cap
        )


@dataclass(frozen=True, kw_only=True)
class BucketPlan:
    """Who gets events in a bucket.

    Attributes:
        plan: rows of `plan_users`.
        seen: users that have source events.
        without_consent: users who would have got events and have not consented.
        above_user_cap: events that users do not get because they have as many as they may.
    """

    plan: pa.Table
    seen: int
    without_consent: int
    above_user_cap: int


@dataclass(frozen=True, kw_only=True)
class DrawCounts:
    """What was drawn for the users of a bucket.

    Attributes:
        bucket: its number.
        seen: users that have source events.
        without_consent: users left out because they have not consented.
        above_user_cap: events that were not drawn because their user has as many as a user may.
        planned: users drawn for.
        drawn: rows that were accepted so far.
        refused: refused rows by reason.
    """

    bucket: int
    seen: int
    without_consent: int
    above_user_cap: int
    planned: int
    drawn: int
    refused: dict[str, int]

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `json` gave."""
        return cls(**json.loads(text))

    @property
    def json(self) -> str:
        """All of it, as text."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, kw_only=True)
class DrawFolder:
    """Where the drawn rows of one run lie, a file for each bucket; on a disk all workers see."""

    folder: Path

    def drawn(self, bucket: int) -> Path:
        """The rows accepted so far, as `draw_events` gives them."""
        return self.folder / "drawn" / f"part-{bucket:08d}.parquet"

    def refused(self, bucket: int) -> Path:
        """The rows refused, with their `reason`."""
        return self.folder / "refused" / f"part-{bucket:08d}.parquet"

    def mark(self, bucket: int) -> Path:
        """What was counted; there once the other two are."""
        return self.folder / "done" / f"part-{bucket:08d}.json"

    def make(self) -> None:
        """Make the folders, and remove what workers left half-written."""
        for path in (self.drawn(0), self.refused(0), self.mark(0)):
            path.parent.mkdir(parents=True, exist_ok=True)
            for half_written in path.parent.glob(".*"):
                half_written.unlink()

    def done(self) -> dict[int, DrawCounts]:
        """The buckets that have been drawn for, by number."""
        marks = sorted(self.mark(0).parent.glob("part-*.json"))
        found = [DrawCounts.parse(mark.read_text()) for mark in marks]
        return {counts.bucket: counts for counts in found}


class Drawer:
    """An actor: holds the translator, warmed, and draws for one bucket after the other.

    It is made ready by its first call: what goes wrong in a constructor Ray reports as a worker
    that died, and what goes wrong in a call as what it is.
    """

    def __init__(self, shared: ray.ObjectRef[DrawTask], folder: DrawFolder, *, gpu: bool) -> None:
        self._shared = shared
        self._folder = folder
        self._gpu = gpu

    def __call__(self, buckets: pa.Table) -> pa.Table:
        """Draw for the buckets named; one row of counts, as JSON, for each."""
        counted = [
            draw_bucket(self._task, self._folder, bucket)
            for bucket in buckets["bucket"].to_pylist()
        ]
        return pa.table({"counts": [counts.json for counts in counted]})

    @cached_property
    def _task(self) -> DrawTask:
        task: DrawTask = ray.get(self._shared)
        if self._gpu:
            _move_to_gpu(task.translator)
        _warm_up(task)
        return task


def _move_to_gpu(translator: Translator) -> None:
    from scalr_ray.translator.neural.translator import NeuralTranslator

    assert isinstance(translator, NeuralTranslator), "no other kind makes use of one"
    translator.net.to("cuda")


def draw_bucket(task: DrawTask, folder: DrawFolder, bucket: int) -> DrawCounts:
    """Draw for the users of a bucket and write the rows; what was counted.

    Raises:
        RetryLater: the disk is full.
    """
    with full_disk_told("the events drawn"):
        return _draw_and_write(task, folder, bucket)


def _draw_and_write(task: DrawTask, folder: DrawFolder, bucket: int) -> DrawCounts:
    found = task.plan(bucket)
    drawn_rows, refused = 0, Counter[str]()
    with (
        parquet_rows(folder.drawn(bucket)) as drawn_file,
        parquet_rows(folder.refused(bucket)) as refused_file,
    ):
        for block in _blocks(found.plan, rows_each=1 + task.settings.negatives):
            rows = draw_events(
                block,
                task.translator,
                task.settings,
                task.schema,
                catalogue=task.catalogue,
                index=task.index,
            )
            accepted = pc.is_null(rows["reason"])
            kept, others = rows.filter(accepted), rows.filter(pc.invert(accepted))
            drawn_file.write(kept)
            refused_file.write(others)
            drawn_rows += kept.num_rows
            refused.update(others["reason"].to_pylist())
    counts = DrawCounts(
        bucket=bucket,
        seen=found.seen,
        without_consent=found.without_consent,
        above_user_cap=found.above_user_cap,
        planned=found.plan.num_rows,
        drawn=drawn_rows,
        refused=dict(sorted(refused.items())),
    )
    with appearing(folder.mark(bucket)) as half_written:
        half_written.write_text(counts.json)
    return counts


def _blocks(plan: pa.Table, *, rows_each: int) -> Iterator[pa.Table]:
    """The plan in blocks of a bounded number of users, of rows to draw and of events to look at."""
    slots = plan["slots"].to_numpy() * rows_each
    events = sum(pc.list_value_length(plan[name]).to_numpy() for name in ("source", "own", "taken"))
    cost = 1 / _BLOCK_USERS + slots / _BLOCK_ROWS + events / _BLOCK_EVENTS
    block = np.floor(np.cumsum(cost))
    starts = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist()]
    # A plan without users is drawn for too: it says the columns.
    for start, end in zip(starts, [*starts[1:], plan.num_rows], strict=True):
        yield plan.slice(start, end - start)


def _with_taken(plan: pa.Table, taken: pa.Table, translator: Translator) -> pa.Table:
    """The plan with the items that have been proposed to each user before, beside those there."""
    row = pc.index_in(taken["user_id"], plan["user_id"].combine_chunks())
    row = pc.fill_null(row, -1).to_numpy()
    item = translator.target_items.codes(taken["item_id"])
    matters = (row >= 0) & (item >= 0)
    there = plan["taken"].combine_chunks()
    rows = np.repeat(np.arange(plan.num_rows), np.diff(there.offsets.to_numpy()))
    both = np.append(rows, row[matters]), np.append(there.flatten().to_numpy(), item[matters])
    pairs = np.unique(np.stack(both), axis=1)
    ends = np.cumsum(np.bincount(pairs[0], minlength=plan.num_rows))
    lists = pa.LargeListArray.from_arrays(
        pa.array(np.append(0, ends), pa.int64()), pa.array(pairs[1], pa.int64())
    )
    return plan.set_column(plan.schema.get_field_index("taken"), "taken", lists)


def _within_user_cap(plan: pa.Table, taken: pa.Table | None, most: int) -> pa.Table:
    """The plan with slots for so many events that no user has more than `most` with those there."""
    there = np.zeros(plan.num_rows, dtype=np.int64)
    if taken is not None:
        events = taken.filter(pc.equal(taken["event_type"], EVENT_TYPE))
        pairs = events.group_by(["user_id", "item_id"]).aggregate([])
        row = pc.index_in(pairs["user_id"], plan["user_id"].combine_chunks())
        there += np.bincount(pc.drop_null(row).to_numpy(), minlength=plan.num_rows)
    slots = np.minimum(plan["slots"].to_numpy(), np.maximum(most - there, 0))
    plan = plan.set_column(plan.schema.get_field_index("slots"), "slots", pa.array(slots))
    return plan.filter(pa.array(slots > 0))


def _slots(plan: pa.Table) -> int:
    return int(pc.sum(plan["slots"]).as_py() or 0)


def _with_about(plan: pa.Table, about: pa.Table) -> pa.Table:
    """The plan with what was told of each user, without those who have not consented."""
    told = about.take(pc.index_in(plan["user_id"], about["user_id"].combine_chunks()))
    if "group" in told.column_names:
        plan = plan.set_column(plan.schema.get_field_index("group"), "group", told["group"])
    if "features" in told.column_names:
        plan = plan.append_column("features", told["features"])
    if "consent" in told.column_names:
        plan = plan.filter(pc.fill_null(told["consent"], fill_value=False))
    return plan


def _warm_up(task: DrawTask) -> None:
    """Draw for somebody made up, so that the first of the others need not wait for caches."""
    domain, _, item = task.translator.source_items.ids[0].as_py().partition(KEY_SEPARATOR)
    happened = task.rules.as_of - timedelta(seconds=1)
    made_up = {
        "event_id": ["warm-up"],
        "user_id": ["0"],
        "item_id": [item],
        "domain": [domain],
        "event_type": pa.nulls(1, pa.string()),
        "event_timestamp": pa.array([happened], TIMESTAMP),
        "available_at": pa.array([happened], TIMESTAMP),
        "value": pa.nulls(1, pa.float64()),
    }
    source = pa.table(made_up).cast(pa.schema([task.schema.field(name) for name in made_up]))
    rules = replace(task.rules, since=None, thin=1.0)
    plan = plan_bucket(source, source.slice(0, 0), Coding.of(task.translator), rules)
    features = task.buckets.features
    if features is not None:
        unknown = [pa.nulls(1, field.type) for field in features]
        struct = pa.StructArray.from_arrays(unknown, names=[field.name for field in features])
        plan = plan.append_column("features", struct)
    draw_events(plan, task.translator, task.settings, task.schema, catalogue=task.catalogue)
