"""The kernel of generation: one block of users in, their candidates out.

Sampling without replacement by Gumbel top-k (Vieira 2014; Kool et al. 2019): adding keyed Gumbel
noise to the scores and taking the k largest draws k distinct items as if one after the other. The
event time lies after the source event that triggered it, by a delay as observed between the
domains, at or after the first sighting of the item, and before the cut.

Legend: B users, I target items, N candidates, H source events of a candidate's user.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import LeakageError
from scalr_ray.core.events import TIMESTAMP, WEIGHT_FACTORS
from scalr_ray.core.keyed import keyed_bits, keyed_gumbel, keyed_uniform, stream_seed
from scalr_ray.generate.plan import known
from scalr_ray.translator.histories import Users
from scalr_ray.translator.protocol import Translator, log_scores, log_softmax, mask_entries

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
        temperature: of the sampling, which is from (prior * lift^evidence)^(1 / temperature).
        evidence: exponent of the lift in sampling, where anything transfers at all.
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
    evidence: float
    likelihood_floor: float
    weight_scale: float
    seed: int


def draw_events(
    users: pa.Table, translator: Translator, settings: DrawSettings, schema: pa.Schema
) -> pa.Table:
    """Candidates of one block of users, in order of user and slot.

    Args:
        users: rows of `plan_users`.
        translator: trained as of `settings.as_of` or before, under the vocabularies of the plan.
        settings: of this run.
        schema: of a synthetic event (`core.events.synthetic_event_schema`).

    Returns:
        `schema` plus `reason` (text): null for a synthetic event, else why it was refused.

    Raises:
        LeakageError: the translator was trained after `settings.as_of`.
    """
    refuse_later_translator(translator, settings)
    about, codes = known(users, settings.as_of), users["user_code"].to_numpy()
    row, item, log_p = _sample(about, codes, translator, settings)
    trigger = _trigger(about, codes, translator, row, item, settings)
    likelihood = np.exp(log_p.astype(np.float64))
    source_event_ids = users["source"].combine_chunks().flatten().field("event_id")
    columns = _constants(translator, settings, len(row))
    columns["user_id"] = users["user_id"].combine_chunks().take(pa.array(row))
    columns["item_id"] = translator.target_items.ids.take(pa.array(item))
    columns["event_id"] = _event_ids(settings.batch_id, columns["user_id"], row)
    columns["event_timestamp"] = pa.array(
        _event_times(
            about.source.times[trigger],
            translator.first_seen[item],
            translator.delays,
            to_micros(settings.as_of),
            keyed_uniform(stream_seed("delay", settings.seed), codes[row], item),
        )
    ).cast(TIMESTAMP)
    columns["likelihood"] = pa.array(np.maximum(likelihood, np.finfo(np.float64).tiny))
    columns["propensity"] = columns["likelihood"]
    columns["history_weight"] = pa.array(users["weight"].to_numpy()[row])
    columns["sample_weight"] = pc.multiply(columns["history_weight"], settings.weight_scale)
    columns["source_event_id"] = source_event_ids.take(pa.array(trigger))
    drawn = pa.table([columns[name] for name in schema.names], schema=schema)
    accepted = pa.array(likelihood >= settings.likelihood_floor)
    reason = pc.if_else(accepted, pa.scalar(None, pa.string()), BELOW_FLOOR)
    return drawn.append_column("reason", reason)


def refuse_later_translator(translator: Translator, settings: DrawSettings) -> None:
    """Raise LeakageError if the translator was trained after `settings.as_of`."""
    if translator.train_cutoff > settings.as_of:
        raise LeakageError(
            f"the translator was trained as of {translator.train_cutoff}, after the generation "
            f"time {settings.as_of}; train one as of then"
        )


def _constants(translator: Translator, settings: DrawSettings, rows: int) -> dict[str, pa.Array]:
    """The columns that are the same in every row of a run."""
    scalars = {
        "domain": pa.scalar(settings.domain),
        "event_type": pa.scalar(EVENT_TYPE),
        "label": pa.scalar(1.0),
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


def _sample(
    users: Users, codes: NDArray[np.int64], translator: Translator, settings: DrawSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(N,) user row, item code and calibrated log-likelihood, by user, then by slot."""
    catalogue = np.arange(len(translator.target_items))
    noise_seed = stream_seed("item", settings.seed)
    nobody = np.empty(0, dtype=np.int64)
    parts = [(nobody, nobody, np.empty(0, dtype=np.float32))]
    for start in range(0, len(users), _SCORE_CHUNK):
        part = slice(start, start + _SCORE_CHUNK)
        scores, sampled = _scores(users.part(part.start, part.stop), translator, settings.evidence)
        noise = keyed_gumbel(noise_seed, codes[part, None], catalogue[None, :])
        perturbed = sampled / settings.temperature + noise
        items = _largest(perturbed, settings.per_user)
        log_p = log_softmax(scores / np.float32(translator.temperature))
        rows = np.repeat(np.arange(items.shape[0]), items.shape[1])
        flat = items.ravel()
        drawable = np.isfinite(perturbed[rows, flat])
        rows, flat = rows[drawable], flat[drawable]
        parts.append((rows + start, flat, log_p[rows, flat]))
    row, item, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return row, item, value


def _scores(
    users: Users, translator: Translator, exponent: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(B, I) scores that the likelihood is calibrated for, and those that are sampled from."""
    own = users.own.incidence(len(translator.target_items))
    if translator.alpha == 0.0:
        scores = log_scores(translator, users)
        mask_entries(scores, own)
        return scores, scores
    evidence = translator.evidence(users)
    scores = np.float32(translator.alpha) * evidence + translator.log_prior
    sampled = np.float32(exponent) * evidence + translator.log_prior
    mask_entries(scores, own)
    mask_entries(sampled, own)
    return scores, sampled


def _largest(values: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """(B, min(k, I)) positions of the largest values of each row, largest first."""
    k = min(k, values.shape[1])
    top = np.argpartition(-values, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(values, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)


def _trigger(
    users: Users,
    codes: NDArray[np.int64],
    translator: Translator,
    row: NDArray[np.int64],
    item: NDArray[np.int64],
    settings: DrawSettings,
) -> NDArray[np.int64]:
    """(N,) position, among all source events of the block, of the event that triggered each draw.

    Drawn in proportion to what the event contributed to the item's evidence; where none contributed
    anything, uniformly.
    """
    candidate, position = users.source.of_rows(row)
    weight = np.ones(len(candidate))
    if translator.alpha > 0:
        pull = translator.triggers(users, row, item)
        nothing = np.bincount(candidate, weights=pull, minlength=len(row)) == 0
        weight = np.where(nothing[candidate], 1.0, pull)
    lengths = np.diff(users.source.offsets)[row]
    firsts = np.cumsum(lengths) - lengths
    pair = keyed_bits(stream_seed("trigger", settings.seed), codes[row], item)
    with np.errstate(divide="ignore"):
        value = np.log(weight) + keyed_gumbel(
            0, pair[candidate], np.arange(len(candidate)) - firsts[candidate]
        )
    order = np.lexsort((-value, candidate))
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
    high = cut - triggered
    delay = low + uniform * (high - low)
    if delays.size:
        grid = np.linspace(0.0, 1.0, len(delays))
        # A microsecond more per quantile: strictly increasing, so that it can be inverted.
        support = (delays + np.arange(len(delays))).astype(np.float64)
        at_low, at_high = np.interp(low, support, grid), np.interp(high, support, grid)
        inside = at_high > at_low
        drawn = np.interp(at_low + uniform * (at_high - at_low), grid, support)
        delay = np.where(inside, drawn, delay)
    return np.asarray(triggered + np.clip(np.floor(delay).astype(np.int64), low, high - 1))


def _event_ids(batch_id: str, users: pa.Array, row: NDArray[np.int64]) -> pa.Array:
    """(N,) hashes of batch, user and slot, which is a candidate's place among the user's rows."""
    slots = np.arange(len(row)) - np.searchsorted(row, row)
    return pa.array(
        [
            hashlib.blake2b(f"{batch_id}\x1f{user}\x1f{slot}".encode(), digest_size=16).hexdigest()
            for user, slot in zip(users.to_pylist(), slots.tolist(), strict=True)
        ],
        pa.string(),
    )
