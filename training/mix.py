"""`Mix`: which rows beside the real events a training set gets, and how much they count."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from scalr_ray.core.errors import UsageError

LATEST = "latest"


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Items that a user did not take, drawn as of the time of each real event.

    An item can be drawn once an event of it was known at that time, and not where one of the same
    user was: nothing that came later has a say. Early events may get fewer, or none.

    Attributes:
        per_event: how many for each real event, all different.
        by: `popularity` draws an earlier event and takes its item, `uniform` draws an item.
        seed: of the draws.
    """

    per_event: int = 4
    by: Literal["popularity", "uniform"] = "popularity"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.per_event < 1:
            raise UsageError(f"per_event is {self.per_event}; write 1 or more, or no negatives")
        if self.by not in {"popularity", "uniform"}:
            raise UsageError(f"by is {self.by!r}; write popularity or uniform")


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How many synthetic rows a training set gets, and how much they count.

    Attributes:
        synthetic_frac: the share of synthetic rows in the result, at most; None takes all. Which
            ones stay follows from their ids, and a smaller share is part of a larger one.
        synthetic_count: their number instead, at most.
        weight_scale: multiple of their `sample_weight`.
        segment_weights: number of real events -> a further multiple, for users with at least so
            many of them in the set: `{0: 1.0, 1: 0.5, 20: 0.0}` fades them out. None is 1 for all.
        batch_ids: the published batches to take them from; `latest` is the one that became
            available last of those known as of T, None takes every one.
        source_domains: the domains of the source events that they were translated from; None is
            all of them.
        holdout_frac: the share of users who get none, so that a model can be looked at on users
            whom it knows by their own events alone. A hash of the user decides: the same ones in
            every set, and a smaller share is part of a larger one.
        holdout_salt: another text holds out others.
        negatives: rows with `label` 0, for trainers that learn from pairs. True takes those that
            were drawn with the synthetic events; `Negatives` draws some for the real events; a
            table gives them, with `event_id`, `user_id`, `item_id`, `event_timestamp` and
            `available_at`.
        label_column: what the label is called in the set.
        weight_column: what the weight is called in the set.
        drop_columns: features of the service to leave out, such as those that shift.
    """

    synthetic_frac: float | None = None
    synthetic_count: int | None = None
    weight_scale: float = 1.0
    segment_weights: Mapping[int, float] | None = None
    batch_ids: tuple[str, ...] | Literal["latest"] | None = None
    source_domains: tuple[str, ...] | None = None
    holdout_frac: float = 0.0
    holdout_salt: str = ""
    negatives: bool | Negatives | pa.Table = False
    label_column: str = "label"
    weight_column: str = "sample_weight"
    drop_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be mixed."""
        if self.synthetic_frac is not None and not 0 <= self.synthetic_frac < 1:
            raise UsageError(f"synthetic_frac is {self.synthetic_frac}; write 0 to below 1")
        if self.synthetic_count is not None and self.synthetic_count < 0:
            raise UsageError(f"synthetic_count is {self.synthetic_count}; write 0 or more")
        if self.synthetic_frac is not None and self.synthetic_count is not None:
            raise UsageError("give synthetic_frac or synthetic_count, not both")
        if not _is_weight(self.weight_scale):
            raise UsageError(f"weight_scale is {self.weight_scale}; write a number of at least 0")
        if not 0 <= self.holdout_frac <= 1:
            raise UsageError(f"holdout_frac is {self.holdout_frac}; write 0 to 1")
        _check_segments(self.segment_weights)
        _check_names(self)

    @property
    def takes_drawn_negatives(self) -> bool:
        """Whether the negatives that were drawn with the synthetic events belong in."""
        return self.negatives is True

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; a table of negatives is told by what is in it."""
        told: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.negatives, Negatives):
            told["negatives"] = asdict(self.negatives)
        elif isinstance(self.negatives, pa.Table):
            told["negatives"] = {"rows": self.negatives.num_rows, "sha256": _hash(self.negatives)}
        if self.segment_weights is not None:
            told["segment_weights"] = {
                str(events): weight for events, weight in sorted(self.segment_weights.items())
            }
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in told.items()
        }


def _check_segments(weights: Mapping[int, float] | None) -> None:
    if weights is None:
        return
    if min(weights, default=None) != 0 or not all(map(_is_weight, weights.values())):
        raise UsageError(
            f"segment_weights is {dict(weights)}; begin with users of 0 real events, and give each "
            "a number of at least 0"
        )


def _check_names(mix: Mix) -> None:
    if isinstance(mix.batch_ids, str) and mix.batch_ids != LATEST:
        raise UsageError(f"batch_ids is {mix.batch_ids!r}; write a tuple of ids, or 'latest'")
    for name in ("source_domains", "drop_columns"):
        if isinstance(value := getattr(mix, name), str):
            raise UsageError(f"{name} is {value!r}; write a tuple of names")


def _is_weight(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _hash(rows: pa.Table) -> str:
    """Of the values in their order, whatever chunks they lie in."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.combine_chunks(), sink)
    return hashlib.sha256(sink.getvalue()).hexdigest()
