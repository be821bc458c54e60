"""The kernel of generation: one block of users in, their synthetic events and refused rows out.

For each user, in this order: the items worth drawing from are listed
(`scalr_ray.translator.shortlist`), items are drawn from the list (`sampling`), each gets the source
event that triggered it and a time after it (`event_times`), rows that fail a filter get a reason,
and negatives are drawn for those that are left (`negatives`).

What a user gets is a function of that user's row of the plan alone: every draw is keyed by user and
item. An item that the user owns, or was proposed before, is never drawn, so that no row repeats a
real event or another synthetic one.

Legend: B users, N rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.core.events import TIMESTAMP, WEIGHT_FACTORS
from scalr_ray.core.keyed import keyed_bits, keyed_uniform, stream_seed
from scalr_ray.generate.catalogue import Catalogue
from scalr_ray.generate.kernel.block import Block, DrawSettings, refuse_later_translator
from scalr_ray.generate.kernel.event_times import choose_triggers, event_times
from scalr_ray.generate.kernel.negatives import negatives_of
from scalr_ray.generate.kernel.proposals import Candidates, propose
from scalr_ray.generate.kernel.sampling import ranks
from scalr_ray.translator.protocol import Translator

if TYPE_CHECKING:
    from scalr_ray.translator.neural.index import ItemIndex

__all__ = [
    "BELOW_FLOOR",
    "EVENT_TYPE",
    "NEGATIVE_TYPE",
    "NO_EVIDENCE",
    "DrawSettings",
    "draw_events",
    "refuse_later_translator",
]

EVENT_TYPE = "synthetic"
NEGATIVE_TYPE = "synthetic_negative"

# Why a row is refused.
BELOW_FLOOR = "likelihood_floor"
NO_EVIDENCE = "no_evidence"

# Probabilities are above 0 in the schema of an event.
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """N rows to be; those of a user stand together, events in order of slot before negatives.

    Attributes:
        drawn: N candidates.
        slot: (N,) number among the user's events, or -1, -2, ... among the user's negatives.
        trigger: (N,) position of the source event among those of the block.
        time: (N,) event time, microseconds since 1970.
        reason: (N,) text; null where no filter refused the row.
    """

    drawn: Candidates
    slot: NDArray[np.int64]
    trigger: NDArray[np.int64]
    time: NDArray[np.int64]
    reason: pa.Array


def draw_events(
    users: pa.Table,
    translator: Translator,
    settings: DrawSettings,
    schema: pa.Schema,
    *,
    catalogue: Catalogue | None = None,
    index: ItemIndex | None = None,
) -> pa.Table:
    """The synthetic events of one block of users and the rows refused, in order of user and slot.

    Args:
        users: rows of `plan_users`.
        translator: trained as of `settings.as_of` or before, under the vocabularies of the plan.
        settings: of this run.
        schema: of a synthetic event (`scalr_ray.core.events.synthetic_event_schema`).
        catalogue: what may be proposed to each `group` of the plan; None: everything to everybody.
        index: of the translator's items, to list them without looking at all; None looks at all.

    Returns:
        `schema`, then `reason` (text; null for a synthetic event, else why it was refused),
        `item_code` (int64), `thinning` (float64, keyed uniform in (0, 1), by which rows are left
        out later) and `log_lift` (float64, log of the likelihood over what the prior alone gives).
        All weights but `history_weight` are 1. Negatives, of label 0, follow their user's events.

    Raises:
        LeakageError: the translator was trained after `settings.as_of`.
        DataError: the translator's scores are no numbers, or the catalogue is not of its items.
    """
    refuse_later_translator(translator, settings)
    if catalogue is None:
        catalogue = Catalogue.everything(len(translator.target_items))
    block = Block.of(users, translator, settings.as_of, catalogue)
    proposed = propose(block, translator, settings, index)
    rows = _triggered(block, translator, settings, proposed)
    if settings.negatives:
        rows = _with_negatives(block, translator, settings, rows)
    return _table(users, block, translator, settings, schema, rows)


def _triggered(
    block: Block, translator: Translator, settings: DrawSettings, proposed: Candidates
) -> _Rows:
    """What was drawn, with what triggered it, when it happens, and why it is refused."""
    users, items = block.keys[proposed.row], translator.target_items.keys[proposed.item]
    trigger = choose_triggers(
        translator,
        block.users,
        block.may_trigger,
        row=proposed.row,
        item=proposed.item,
        keys=keyed_bits(stream_seed("trigger", settings.seed), users, items),
    )
    time = event_times(
        block.users.source.times[trigger],
        translator.first_seen[proposed.item],
        translator.delays,
        to_micros(settings.as_of),
        keyed_uniform(stream_seed("delay", settings.seed), users, items),
    )
    return _Rows(
        drawn=proposed,
        slot=ranks(proposed.row),
        trigger=trigger,
        time=time,
        reason=_reasons(proposed, settings),
    )


def _reasons(proposed: Candidates, settings: DrawSettings) -> pa.Array:
    """(N,) the first filter that refuses each candidate; null where none does."""
    likely = pa.array(_likelihood(proposed) >= settings.likelihood_floor)
    reason = pc.if_else(likely, pa.scalar(None, pa.string()), BELOW_FLOOR)
    if settings.without_evidence == "refuse":
        reason = pc.if_else(pa.array(proposed.informed), reason, NO_EVIDENCE)
    return reason


def _with_negatives(
    block: Block, translator: Translator, settings: DrawSettings, rows: _Rows
) -> _Rows:
    """Each user's rows, and then so many negatives for each of them that is not refused.

    A negative has the trigger and the time of the event it belongs to, or the time of the first
    sighting of its item where that is later. The events of a user take turns, because the
    first items drawn are more popular than later ones.
    """
    accepted = np.flatnonzero(np.asarray(pc.is_null(rows.reason)))
    events = np.bincount(rows.drawn.row[accepted], minlength=len(block.users))
    negatives = negatives_of(
        block, translator, rows.drawn, wanted=settings.negatives * events, seed=settings.seed
    )
    rank, firsts = ranks(negatives.row), np.cumsum(events) - events
    event = accepted[firsts[negatives.row] + rank % events[negatives.row]]
    time = np.maximum(rows.time[event], translator.first_seen[negatives.item])
    # The order in which candidates are joined.
    order = np.argsort(np.concatenate([rows.drawn.row, negatives.row]), kind="stable")
    reason = pa.concat_arrays([rows.reason, pa.nulls(len(negatives), pa.string())])
    return _Rows(
        drawn=Candidates.joined([rows.drawn, negatives]),
        slot=np.concatenate([rows.slot, -1 - rank])[order],
        trigger=np.concatenate([rows.trigger, rows.trigger[event]])[order],
        time=np.concatenate([rows.time, time])[order],
        reason=reason.take(pa.array(order)),
    )


def _table(
    users: pa.Table,
    block: Block,
    translator: Translator,
    settings: DrawSettings,
    schema: pa.Schema,
    rows: _Rows,
) -> pa.Table:
    """The rows as `draw_events` returns them."""
    drawn, positive = rows.drawn, pa.array(rows.slot >= 0)
    source_event_ids = users["source"].combine_chunks().flatten().field("event_id")
    weight = pa.array(users["weight"].to_numpy()[drawn.row])
    columns = _constants(translator, settings, len(drawn))
    columns["user_id"] = users["user_id"].combine_chunks().take(pa.array(drawn.row))
    columns["item_id"] = translator.target_items.ids.take(pa.array(drawn.item))
    columns["event_id"] = _event_ids(settings.batch_id, columns["user_id"], rows.slot)
    columns["event_type"] = pc.if_else(positive, EVENT_TYPE, NEGATIVE_TYPE)
    columns["event_timestamp"] = pa.array(rows.time).cast(TIMESTAMP)
    columns["likelihood"] = pa.array(_likelihood(drawn))
    columns["propensity"] = pa.array(np.clip(drawn.propensity, _TINY, 1.0))
    columns["label"] = pc.if_else(positive, 1.0, 0.0)
    columns["history_weight"] = columns["sample_weight"] = weight
    columns["source_event_id"] = source_event_ids.take(pa.array(rows.trigger))
    keys = block.keys[drawn.row], translator.target_items.keys[drawn.item]
    thinning = keyed_uniform(stream_seed("thinning", settings.seed), *keys)
    return (
        pa.table([columns[name] for name in schema.names], schema=schema)
        .append_column("reason", rows.reason)
        .append_column("item_code", pa.array(drawn.item))
        .append_column("thinning", pa.array(thinning))
        .append_column("log_lift", pa.array(drawn.log_p - drawn.log_prior))
    )


def _constants(translator: Translator, settings: DrawSettings, rows: int) -> dict[str, pa.Array]:
    """The columns that are the same in every row of a run."""
    scalars = {
        "domain": pa.scalar(settings.domain),
        **{name: pa.scalar(1.0) for name in WEIGHT_FACTORS},
        "value": pa.scalar(None, pa.float64()),
        "batch_id": pa.scalar(settings.batch_id),
        "translator_version": pa.scalar(settings.translator_version),
        "train_cutoff": pa.scalar(translator.train_cutoff, TIMESTAMP),
        # Known once it is drawn: neither the translator nor what it was drawn from is newer.
        "available_at": pa.scalar(settings.as_of, TIMESTAMP),
        "generated_at": pa.scalar(settings.as_of, TIMESTAMP),
    }
    return {name: pa.repeat(scalar, rows) for name, scalar in scalars.items()}


def _likelihood(drawn: Candidates) -> NDArray[np.float64]:
    """(N,) in (0, 1], however unlikely."""
    return np.maximum(np.exp(drawn.log_p), _TINY)


def _event_ids(batch_id: str, users: pa.Array, slots: NDArray[np.int64]) -> pa.Array:
    """(N,) hashes of batch, user and slot: distinct, and the same on a retry."""
    return pa.array(
        [
            hashlib.blake2b(f"{batch_id}\x1f{user}\x1f{slot}".encode(), digest_size=16).hexdigest()
            for user, slot in zip(users.to_pylist(), slots.tolist(), strict=True)
        ],
        pa.string(),
    )
