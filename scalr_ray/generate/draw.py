"""The kernel of generation: one block of users in, their candidates out.

Sampling without replacement by Gumbel top-k (Vieira 2014; Kool et al. 2019): adding keyed Gumbel
noise to the scores and taking the k largest draws k distinct items as if one after the other. The
event time lies after the source event that triggered it, by a delay as observed between the
domains, at or after the first sighting of the item, and before the cut.

Legend: B users, I target items, N candidates, H source events of a candidate's user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.clock import to_micros
from scalr_ray.core.events import TIMESTAMP
from scalr_ray.core.keyed import keyed_bits, keyed_gumbel, keyed_uniform, stream_seed
from scalr_ray.translator.frequency import FrequencyTranslator, log_softmax, mask_entries

EVENT_TYPE = "synthetic"
BELOW_FLOOR = "likelihood_floor"

_SCORE_CHUNK = 128


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """What one generation run has in common.

    Attributes:
        batch_id: the batch the events belong to.
        translator_version: recorded as lineage.
        domain: the target domain.
        as_of: the logical generation time; nothing drawn lies at or after it.
        per_user: candidates per user.
        temperature: of the sampling.
        likelihood_floor: candidates below it are refused.
        weight_scale: weight of an event of a user without target history.
        seed: of every draw.
    """

    batch_id: str
    translator_version: str
    domain: str
    as_of: datetime
    per_user: int
    temperature: float
    likelihood_floor: float
    weight_scale: float
    seed: int


def draw_events(
    users: pa.Table, translator: FrequencyTranslator, settings: DrawSettings, schema: pa.Schema
) -> pa.Table:
    """Candidates of one block of users, in order of user and slot.

    Args:
        users: rows of `plan_users`.
        translator: must have been trained as of `settings.as_of` or before.
        settings: of this run.
        schema: of a synthetic event (`core.events.synthetic_event_schema`).

    Returns:
        `schema` plus `reason` (text): null for a synthetic event, else why it was refused.
    """
    row, item, log_p = _sample(users, translator, settings)
    trigger = _trigger(users, translator, row, item, settings)
    source_times = users["source_times"].combine_chunks().values.to_numpy()
    times = _event_times(
        source_times[trigger],
        translator.first_seen[item],
        translator.delays,
        to_micros(settings.as_of),
        keyed_uniform(
            stream_seed("delay", settings.seed), _codes(users)[row], _item_keys(translator)[item]
        ),
    )
    likelihood = np.exp(log_p.astype(np.float64))
    slot = np.arange(len(row)) - np.searchsorted(row, row)
    user_ids = users["user_id"].combine_chunks().take(pa.array(row))
    known = max(settings.as_of, translator.train_cutoff)
    constant = {
        "domain": settings.domain,
        "event_type": EVENT_TYPE,
        "batch_id": settings.batch_id,
        "translator_version": settings.translator_version,
    }
    moments = {
        "available_at": known,
        "train_cutoff": translator.train_cutoff,
        "generated_at": settings.as_of,
    }
    columns = {
        "event_id": _event_ids(settings.batch_id, user_ids.to_pylist(), slot),
        "user_id": user_ids,
        "item_id": translator.target_items.ids.take(pa.array(item)),
        "event_timestamp": pa.array(times).cast(TIMESTAMP),
        "value": pa.nulls(len(row), pa.float64()),
        "likelihood": pa.array(np.maximum(likelihood, np.finfo(np.float64).tiny)),
        "sample_weight": pa.array(settings.weight_scale * users["weight"].to_numpy()[row]),
        "source_event_id": users["source_event_ids"]
        .combine_chunks()
        .values.take(pa.array(trigger)),
        **{name: pa.repeat(text, len(row)) for name, text in constant.items()},
        **{
            name: pa.repeat(pa.scalar(moment, TIMESTAMP), len(row))
            for name, moment in moments.items()
        },
    }
    drawn = pa.table([columns[name] for name in schema.names], schema=schema)
    accepted = pa.array(likelihood >= settings.likelihood_floor)
    reason = pc.if_else(accepted, pa.scalar(None, pa.string()), BELOW_FLOOR)
    return drawn.append_column("reason", reason)


def _codes(users: pa.Table) -> NDArray[np.int64]:
    return np.asarray(users["user_code"].to_numpy())


def _item_keys(translator: FrequencyTranslator) -> NDArray[np.int64]:
    return np.arange(len(translator.target_items))


def _sample(
    users: pa.Table, translator: FrequencyTranslator, settings: DrawSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(N,) user row, item code and calibrated log-likelihood, by user, then by slot."""
    history = _incidence(users, "source_items", len(translator.source_items))
    own = _incidence(users, "own_items", len(translator.target_items))
    codes, keys = _codes(users), _item_keys(translator)
    noise_seed = stream_seed("item", settings.seed)
    parts = []
    for start in range(0, users.num_rows, _SCORE_CHUNK):
        part = slice(start, start + _SCORE_CHUNK)
        scores = translator.log_scores(history[part], own[part])
        mask_entries(scores, own[part])
        noise = keyed_gumbel(noise_seed, codes[part, None], keys[None, :])
        perturbed = scores / settings.temperature + noise
        items = _largest(perturbed, settings.per_user)
        log_p = log_softmax(scores / np.float32(translator.strength.temperature))
        rows = np.repeat(np.arange(items.shape[0]), items.shape[1])
        flat = items.ravel()
        drawable = np.isfinite(perturbed[rows, flat])
        rows, flat = rows[drawable], flat[drawable]
        parts.append((rows + start, flat, log_p[rows, flat]))
    row, item, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return row, item, value


def _largest(values: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """(B, min(k, I)) positions of the largest values of each row, largest first."""
    k = min(k, values.shape[1])
    top = np.argpartition(-values, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(values, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)


def _incidence(users: pa.Table, column: str, width: int) -> sparse.csr_matrix:
    lists = users[column].combine_chunks()
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    values = lists.flatten().to_numpy()
    return sparse.csr_matrix(
        (np.ones(len(values), dtype=np.float32), values, offsets), shape=(len(lists), width)
    )


def _trigger(
    users: pa.Table,
    translator: FrequencyTranslator,
    row: NDArray[np.int64],
    item: NDArray[np.int64],
    settings: DrawSettings,
) -> NDArray[np.int64]:
    """(N,) position, among all source events of the block, of the event that triggered each draw.

    Drawn in proportion to what the event contributed to the item's evidence; where none contributed
    anything, uniformly.
    """
    lists = users["source_items"].combine_chunks()
    offsets = lists.offsets.to_numpy()
    source_items = lists.values.to_numpy()
    lengths = np.diff(offsets)[row]
    candidate = np.repeat(np.arange(len(row)), lengths)
    within = np.arange(len(candidate)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    position = offsets[row][candidate] + within
    weight = np.full(len(candidate), 1.0)
    if translator.strength.alpha > 0:
        pull = translator.evidence_by_event(source_items[position], item[candidate])
        nothing = np.bincount(candidate, weights=pull, minlength=len(row)) == 0
        weight = np.where(nothing[candidate], 1.0, pull)
    pair = keyed_bits(
        stream_seed("trigger", settings.seed), _codes(users)[row], _item_keys(translator)[item]
    )
    with np.errstate(divide="ignore"):
        value = np.log(weight) + keyed_gumbel(0, pair[candidate], within)
    order = np.lexsort((-value, candidate))
    firsts = np.cumsum(lengths) - lengths
    return np.asarray(position[order[firsts]])


def _event_times(
    triggered: NDArray[np.int64],
    first_seen: NDArray[np.int64],
    delays: NDArray[np.int64],
    cut: int,
    uniform: NDArray[np.float64],
) -> NDArray[np.int64]:
    """(N,) event times in microseconds: triggered < time < cut and time >= first_seen.

    The delay follows its empirical distribution restricted to what these bounds allow; where they
    leave none of it, it is uniform between them.
    """
    low = np.maximum(1, first_seen - triggered)
    high = np.maximum(cut - triggered, low + 1)
    delay = low + uniform * (high - low)
    if delays.size > 1:
        grid = np.linspace(0.0, 1.0, len(delays))
        # Strictly increasing support, so that the quantile function can be inverted.
        support = delays.astype(np.float64) + np.arange(len(delays)) * 1e-3
        at_low, at_high = np.interp(low, support, grid), np.interp(high, support, grid)
        inside = at_high > at_low
        drawn = np.interp(at_low + uniform * (at_high - at_low), grid, support)
        delay = np.where(inside, drawn, delay)
    return np.asarray(triggered + np.clip(np.floor(delay).astype(np.int64), low, high - 1))


def _event_ids(batch_id: str, users: Iterable[object], slots: NDArray[np.int64]) -> pa.Array:
    return pa.array(
        [
            hashlib.blake2b(f"{batch_id}\x1f{user}\x1f{slot}".encode(), digest_size=16).hexdigest()
            for user, slot in zip(users, slots.tolist(), strict=True)
        ],
        pa.string(),
    )
