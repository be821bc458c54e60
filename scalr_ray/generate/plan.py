"""Who gets synthetic events, and how many: one row per user, with all the kernel needs to know.

A user's row follows from that user's own events and from nothing else, so that it is the same
whichever other users are planned beside: all at once, or one bucket of users at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.core.keyed import id_keys, keyed_uniform, stream_seed
from scalr_ray.core.versions import latest_versions
from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.translator.encode import Vocabulary, source_domains
from scalr_ray.translator.histories import EventLists, FeaturesAsOf, Users
from scalr_ray.translator.protocol import Translator

VOCABULARY_KEY = b"scalr.vocabulary"

# A user whose weight falls below this share of the scale gets no events: they would not count.
_LEAST_WEIGHT = 1e-3


@dataclass(frozen=True, kw_only=True)
class PlanRules:
    """How many events a user gets.

    Attributes:
        as_of: the generation time; only what is visible as of it is looked at.
        per_user: events of a user without target history.
        per_user_total: the most events of a user, with those that are published already; None:
            any number.
        taper: with `count`, fewer for users who have target history, as their weight falls.
        decay_events: of `history_weight`.
        thin: share of everybody's events that is drawn, to keep a budget; fractions of an event
            are decided by a coin keyed by the user.
        history_events: how many events of a user and domain speak or trigger, the newest to appear;
            what a user owns is never drawn, however long ago.
        seed: of the coins.
        since: source domain -> microseconds since 1970; only its events that appear later trigger
            anything. Events of a domain that is not named all do, and with None all of all domains.
    """

    as_of: datetime
    per_user: int
    taper: Literal["none", "count"] = "none"
    decay_events: float = 0.0
    thin: float = 1.0
    history_events: int = 10_000
    seed: int = 0
    since: Mapping[str, int] | None = None
    per_user_total: int | None = None


@dataclass(frozen=True, kw_only=True)
class Coding:
    """The codes that a plan is written in.

    Attributes:
        source_items: vocabulary of (domain, item) keys.
        target_items: vocabulary of target item ids.
        event_types: vocabulary of event types.
        keeps_unknown: whether source events on unknown items are kept, under the code -1.
    """

    source_items: Vocabulary
    target_items: Vocabulary
    event_types: Vocabulary
    keeps_unknown: bool = False

    @classmethod
    def of(cls, translator: Translator) -> Self:
        """The codes of a translator; a neural one makes something of unknown items too."""
        return cls(
            source_items=translator.source_items,
            target_items=translator.target_items,
            event_types=translator.event_types,
            keeps_unknown=translator.kind == "neural",
        )

    @property
    def fingerprint(self) -> bytes:
        """Equal where the item codes of a plan and of a translator mean the same items."""
        return vocabulary_fingerprint(self.source_items, self.target_items)


def history_weight(own_events: NDArray[np.int64], decay_events: float) -> NDArray[np.float64]:
    """(N,) exp(-n / decay) for a user with n target events; at decay 0, 1 for n = 0 and else 0.

    Augmentation helps users without target history and harms those with it, so it fades with n.
    """
    if decay_events == 0.0:
        return np.asarray(own_events == 0, dtype=np.float64)
    return np.asarray(np.exp(-own_events / decay_events))


def plan_users(
    events: TrainingEvents,
    rules: PlanRules,
    *,
    coding: Coding | None = None,
    features: FeaturesAsOf | None = None,
) -> pa.Table:
    """The users who get synthetic events.

    Args:
        events: of both domains.
        rules: how many a user gets.
        coding: the codes to write; None takes those of `events`.
        features: serves what the translator reads of a user beside the events.

    Returns:
        One row per user, in order of id: `user_id`, `user_key` (uint64), `slots` (int64, at least
        1), `weight` (float64), `group` (int64, 0), `taken` (item codes that are not drawn, beside
        those in `own`), and `source`, never empty and never without a `fresh` event, and `own`:
        lists of events in order of appearance, each with `item` (code), `time` (microseconds),
        `type` (code), `value` and `event_id`. With `features` a struct of what is served of the
        user. The schema carries a fingerprint of the item vocabularies, because codes mean nothing
        under other ones.
    """
    coding = coding or Coding(
        source_items=events.source_items,
        target_items=events.target_items,
        event_types=events.event_types,
    )
    planned = _plan(events, rules, coding)
    if features is not None:
        times = np.full(planned.num_rows, to_micros(rules.as_of))
        served = features(planned["user_id"].combine_chunks(), times)
        planned = planned.append_column("features", served.to_struct_array())
    return planned.replace_schema_metadata({VOCABULARY_KEY: coding.fingerprint})


def plan_bucket(source: pa.Table, target: pa.Table, coding: Coding, rules: PlanRules) -> pa.Table:
    """The rows of `plan_users`, of users all of whose events are in these two tables.

    Args:
        source: source-domain events of some users, in the columns of
            `scalr_ray.core.events`; may be empty.
        target: the target-domain events of the same users; may be empty.
        coding: the codes to write.
        rules: how many events a user gets.
    """
    source, target = (latest_versions(side, rules.as_of) for side in (source, target))
    events = TrainingEvents.coded(source, target)
    planned = _plan(events, rules, coding)
    return planned.replace_schema_metadata({VOCABULARY_KEY: coding.fingerprint})


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


@dataclass(frozen=True, kw_only=True)
class _Histories:
    """What is looked at of U users, in the codes of the plan.

    Attributes:
        source: source events.
        fresh: (N,) which of them may trigger something.
        own: target events on items that the plan has a code for, the newest of each user.
        older: the other ones.
        own_events: (U,) number of distinct target items, of those without a code too.
    """

    source: CodedEvents
    fresh: NDArray[np.bool_]
    own: CodedEvents
    older: CodedEvents
    own_events: NDArray[np.int64]

    @classmethod
    def of(cls, events: TrainingEvents, rules: PlanRules, coding: Coding) -> Self:
        seen = events.as_of(rules.as_of)
        own = seen.target_log.firsts_by_type()
        newest = _are_newest(own, np.zeros(len(own), np.int64), rules.history_events)
        # All target history counts, also that on items the translator has never seen.
        own_events = np.bincount(own.firsts().users, minlength=len(events.users))
        own = replace(own, items=coding.target_items.codes(events.target_items.ids)[own.items])

        source = seen.source_log.firsts_by_type()
        # After an event in the very last microsecond there is no time left for one that follows.
        source = source.where(source.times < to_micros(rules.as_of) - 1)
        domains = source_domains(events.source_items.ids).dictionary_encode()
        domain = domains.indices.to_numpy()[source.items]
        keep = _are_newest(source, domain, rules.history_events)
        fresh = source.appear > _watermarks(domains.dictionary, rules)[domain]
        item = coding.source_items.codes(events.source_items.ids)[source.items]
        if not coding.keeps_unknown:
            keep &= item >= 0
        return cls(
            source=replace(source, items=item).where(keep),
            fresh=fresh[keep],
            own=own.where(newest & (own.items >= 0)),
            older=own.where(~newest & (own.items >= 0)),
            own_events=own_events,
        )

    def share_fresh(self) -> NDArray[np.float64]:
        """(U,) the share of each user's source events that may trigger something."""
        users = len(self.own_events)
        fresh = np.bincount(self.source.users[self.fresh], minlength=users)
        return np.asarray(fresh / np.maximum(np.bincount(self.source.users, minlength=users), 1))


def _plan(events: TrainingEvents, rules: PlanRules, coding: Coding) -> pa.Table:
    users = len(events.users)
    histories = _Histories.of(events, rules, coding)
    weight = history_weight(histories.own_events, rules.decay_events)
    user_key = id_keys(events.users.ids)
    slots = _slots(histories.own_events, histories.share_fresh(), user_key, rules)
    chosen = np.flatnonzero((slots > 0) & (weight > _LEAST_WEIGHT))
    types = coding.event_types.codes(events.event_types.ids)
    order, offsets = histories.older.by_user(chosen, users)
    older = pa.array(offsets, pa.int64()), pa.array(histories.older.items[order], pa.int64())
    return pa.table(
        {
            "user_id": events.users.ids.take(pa.array(chosen)),
            "user_key": pa.array(user_key[chosen], pa.uint64()),
            "slots": pa.array(slots[chosen], pa.int64()),
            "weight": pa.array(weight[chosen], pa.float64()),
            "group": pa.array(np.zeros(len(chosen), dtype=np.int64)),
            "taken": pa.LargeListArray.from_arrays(*older),
            "source": _lists(histories.source, types, chosen, users, fresh=histories.fresh),
            "own": _lists(histories.own, types, chosen, users),
        }
    )


def _are_newest(events: CodedEvents, domain: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """(N,) whether an event is among the last `most` of its user and domain to appear."""
    order = np.lexsort((events.appear, domain, events.users))
    pair = events.users[order] * (int(domain.max(initial=0)) + 1) + domain[order]
    from_end = np.searchsorted(pair, pair, side="right") - np.arange(len(pair))
    newest = np.empty(len(pair), dtype=bool)
    newest[order] = from_end <= most
    return newest


def _watermarks(domains: pa.Array, rules: PlanRules) -> NDArray[np.int64]:
    """(D,) up to when what appeared in each source domain triggers nothing; microseconds."""
    since = rules.since or {}
    beginning = np.iinfo(np.int64).min
    return np.array([since.get(name, beginning) for name in domains.to_pylist()], dtype=np.int64)


def _slots(
    own_events: NDArray[np.int64],
    share: NDArray[np.float64],
    user_key: NDArray[np.uint64],
    rules: PlanRules,
) -> NDArray[np.int64]:
    """(U,) how many events each user gets; who has something fresh gets at least one of them."""
    full = np.full(len(own_events), float(rules.per_user))
    if rules.taper == "count":
        full *= history_weight(own_events, rules.decay_events)
    wanted = np.floor(full * share + 0.5)
    wanted = np.where((share > 0) & (full >= 0.5), np.maximum(wanted, 1.0), wanted)
    coin = keyed_uniform(stream_seed("slots", rules.seed), user_key)
    return np.floor(wanted * rules.thin + coin).astype(np.int64)


def _lists(
    events: CodedEvents,
    types: NDArray[np.int64],
    chosen: NDArray[np.int64],
    users: int,
    *,
    fresh: NDArray[np.bool_] | None = None,
) -> pa.Array:
    order, offsets = events.by_user(chosen, users)
    columns = {
        "item": pa.array(events.items[order]),
        "time": pa.array(events.times[order]),
        # The code of no type, -1, reads the last place.
        "type": pa.array(np.append(types, -1)[events.types[order]]),
        "value": pa.array(events.values[order]),
        "event_id": events.event_ids.take(pa.array(order)),
    }
    if fresh is not None:
        columns["fresh"] = pa.array(fresh[order])
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
