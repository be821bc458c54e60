"""Who gets synthetic events: one row per user, with everything the kernel needs to know of them."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.histories import EventLists, FeaturesAsOf, Users

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


def plan_users(
    events: TrainingEvents,
    as_of: datetime,
    *,
    decay_events: float,
    features: FeaturesAsOf | None = None,
) -> pa.Table:
    """The users with source history as of `as_of` whose weight does not vanish.

    Returns:
        One row per user in order of user code: `user_id`, `user_code` (int64), `weight` (share of
        the scale), `source` (never empty) and `own`: lists of events in order of appearance, each
        with `item` (code), `time` (microseconds), `type` (code), `value` and `event_id`. With
        `features`, a struct of what is served of the user. The schema carries a fingerprint of the
        vocabularies, because codes mean nothing under other ones.
    """
    seen = events.as_of(as_of)
    # After an event in the very last microsecond there is no time left for one that follows it.
    seen_source = seen.source_log.firsts_by_type()
    seen_source = seen_source.where(seen_source.times < to_micros(as_of) - 1)
    users = len(events.users)
    own_counts = np.bincount(seen.target.users, minlength=users)
    weight = history_weight(own_counts, decay_events)
    has_source = np.bincount(seen_source.users, minlength=users) > 0
    chosen = np.flatnonzero(has_source & (weight > _LEAST_WEIGHT))
    planned = pa.table(
        {
            "user_id": events.users.ids.take(pa.array(chosen)),
            "user_code": pa.array(chosen),
            "weight": pa.array(weight[chosen]),
            "source": _lists(seen_source, chosen, users),
            "own": _lists(seen.target_log.firsts_by_type(), chosen, users),
        }
    )
    if features is not None:
        served = features(
            planned["user_id"].combine_chunks(), np.full(len(chosen), to_micros(as_of))
        )
        planned = planned.append_column("features", served.to_struct_array())
    vocabulary = vocabulary_fingerprint(events.source_items, events.target_items)
    return planned.replace_schema_metadata({VOCABULARY_KEY: vocabulary})


def vocabulary_fingerprint(source_items: Vocabulary, target_items: Vocabulary) -> bytes:
    """Equal where the item codes of a plan and of a translator mean the same items."""
    return f"{source_items.fingerprint}/{target_items.fingerprint}".encode()


def known(users: pa.Table, as_of: datetime) -> Users:
    """The planned users as a translator sees them."""
    features = None
    if "features" in users.column_names:
        features = pa.Table.from_struct_array(users["features"])
    return Users(
        as_of=to_micros(as_of),
        source=_event_lists(users["source"]),
        own=_event_lists(users["own"]),
        features=features,
    )


def _lists(events: CodedEvents, chosen: NDArray[np.int64], users: int) -> pa.Array:
    order, offsets = events.by_user(chosen, users)
    columns = {
        "item": pa.array(events.items[order]),
        "time": pa.array(events.times[order]),
        "type": pa.array(events.types[order]),
        "value": pa.array(events.values[order]),
        "event_id": events.event_ids.take(pa.array(order)),
    }
    listed = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    return pa.LargeListArray.from_arrays(pa.array(offsets), listed)


def _event_lists(column: pa.ChunkedArray) -> EventLists:
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy()
    events = lists.flatten()
    return EventLists(
        offsets=offsets - offsets[0],
        items=events.field("item").to_numpy(),
        times=events.field("time").to_numpy(),
        types=events.field("type").to_numpy(),
        values=events.field("value").to_numpy(),
    )
