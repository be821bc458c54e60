"""Who gets synthetic events: one row per user, with everything the kernel needs to know of them."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.translator.encode import Vocabulary

VOCABULARY_KEY = b"scalr.vocabulary"

# A user whose weight falls below this share of the scale gets no events: they would not count.
_LEAST_WEIGHT = 1e-3


def history_weight(own_events: NDArray[np.int64], decay_events: float) -> NDArray[np.float64]:
    """(N,) exp(-n / decay) for a user with n target events; at decay 0, 1 for n = 0 and else 0.

    Augmentation helps users without target history and harms those with it, so it fades with n.
    """
    if decay_events == 0.0:
        return np.asarray(own_events == 0, dtype=np.float64)
    return np.asarray(np.exp(-own_events / decay_events))


def plan_users(events: TrainingEvents, as_of: datetime, *, decay_events: float) -> pa.Table:
    """The users with source history as of `as_of` whose weight does not vanish.

    Returns:
        One row per user in order of user code: `user_id`, `user_code` (int64), `weight` (share of
        the scale), `source_items` / `source_times` / `source_event_ids` (lists, in order of time,
        never empty), `own_items` (list of target item codes). The schema carries a fingerprint of
        the vocabularies, because codes mean nothing under other ones.
    """
    seen = events.as_of(as_of)
    # After an event in the very last microsecond there is no time left for one that follows it.
    seen_source = seen.source.where(seen.source.times < to_micros(as_of) - 1)
    users = len(events.users)
    own_counts = np.bincount(seen.target.users, minlength=users)
    weight = history_weight(own_counts, decay_events)
    has_source = np.bincount(seen_source.users, minlength=users) > 0
    chosen = np.flatnonzero(has_source & (weight > _LEAST_WEIGHT))
    source, source_offsets = _by_user(seen_source, chosen, users)
    target, target_offsets = _by_user(seen.target, chosen, users)

    def lists(values: pa.Array, offsets: NDArray[np.int32]) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets), values)

    planned = pa.table(
        {
            "user_id": events.users.ids.take(pa.array(chosen)),
            "user_code": pa.array(chosen),
            "weight": pa.array(weight[chosen]),
            "source_items": lists(pa.array(seen_source.items[source]), source_offsets),
            "source_times": lists(pa.array(seen_source.times[source]), source_offsets),
            "source_event_ids": lists(seen_source.event_ids.take(pa.array(source)), source_offsets),
            "own_items": lists(pa.array(seen.target.items[target]), target_offsets),
        }
    )
    vocabulary = vocabulary_fingerprint(events.source_items, events.target_items)
    return planned.replace_schema_metadata({VOCABULARY_KEY: vocabulary})


def vocabulary_fingerprint(source_items: Vocabulary, target_items: Vocabulary) -> bytes:
    """Equal where the item codes of a plan and of a translator mean the same items."""
    return f"{source_items.fingerprint}/{target_items.fingerprint}".encode()


def _by_user(
    events: CodedEvents, chosen: NDArray[np.int64], users: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Positions of the chosen users' events grouped by user in order of time, and list offsets."""
    order = np.argsort(events.users, kind="stable")
    keep = np.zeros(users, dtype=bool)
    keep[chosen] = True
    order = order[keep[events.users[order]]]
    counts = np.bincount(events.users[order], minlength=users)[chosen]
    return order, np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
