"""Drawn rows and an observed target domain, made from a few numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from scalr_ray.core.clock import to_micros
from scalr_ray.core.events import WEIGHT_FACTORS, synthetic_event_schema
from scalr_ray.core.keyed import id_keys, keyed_uniform, stream_seed
from scalr_ray.generate.refining.contrast import ObservedTarget
from scalr_ray.generate.refining.refine import RefineSettings

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
CUT = to_micros(AS_OF)
DAY = to_micros(datetime(1970, 1, 2, tzinfo=UTC))
SCHEMA = synthetic_event_schema("string", "string")
DRAWN = pa.schema(
    [
        *SCHEMA,
        pa.field("reason", pa.string()),
        pa.field("item_code", pa.int64()),
        pa.field("thinning", pa.float64()),
        pa.field("log_lift", pa.float64()),
    ]
)


def settings(**changes) -> RefineSettings:
    return RefineSettings(**{"as_of": AS_OF, "seed": 3, **changes})


def item_ids(items: int) -> pa.Array:
    return pa.array([f"i{code:05d}" for code in range(items)])


def drawn_rows(
    users,
    items,
    *,
    of,
    days=None,
    thinning=None,
    label=None,
    history=None,
    log_lift=None,
    reason=None,
    batch="batch-1",
) -> pa.Table:
    """Rows of users (numbers) on items (codes), `of` items in all, `days` before the cut."""
    users, items = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
    rows = len(users)
    user_ids = pa.array([f"u{user:06d}" for user in users.tolist()], pa.string())
    if thinning is None:
        keys = id_keys(item_ids(of))[items] if rows else np.zeros(0, dtype=np.uint64)
        thinning = keyed_uniform(stream_seed("thinning", 1), id_keys(user_ids), keys)
    days = np.full(rows, 1.5) if days is None else np.asarray(days)
    label = np.ones(rows) if label is None else np.asarray(label, dtype=np.float64)
    history = np.ones(rows) if history is None else np.asarray(history)
    moments = pa.array(CUT - (days * DAY).astype(np.int64)).cast(SCHEMA.field("available_at").type)
    cut = pa.repeat(pa.scalar(AS_OF, SCHEMA.field("available_at").type), rows)
    columns = {
        "event_id": pa.array(
            [f"{batch}-{u}-{i}" for u, i in zip(users.tolist(), items.tolist(), strict=True)],
            pa.string(),
        ),
        "user_id": user_ids,
        "item_id": item_ids(of).take(pa.array(items)),
        "domain": pa.repeat("target", rows),
        "event_type": pa.array(
            ["synthetic" if one > 0 else "synthetic_negative" for one in label], pa.string()
        ),
        "event_timestamp": moments,
        "available_at": cut,
        "value": pa.nulls(rows, pa.float64()),
        "batch_id": pa.repeat(batch, rows),
        "translator_version": pa.repeat("t-1", rows),
        "train_cutoff": cut,
        "likelihood": pa.array(np.full(rows, 0.1)),
        "propensity": pa.array(np.full(rows, 0.1)),
        "label": pa.array(label),
        "sample_weight": pa.array(history),
        **{name: pa.array(np.ones(rows)) for name in WEIGHT_FACTORS},
        "history_weight": pa.array(history),
        "source_event_id": pa.repeat("s", rows),
        "generated_at": cut,
        "reason": pa.nulls(rows, pa.string()) if reason is None else pa.array(reason, pa.string()),
        "item_code": pa.array(items),
        "thinning": pa.array(np.asarray(thinning, dtype=np.float64)),
        "log_lift": pa.array(np.zeros(rows) if log_lift is None else np.asarray(log_lift)),
    }
    return pa.table([columns[name] for name in DRAWN.names], schema=DRAWN)


def observed_target(prior, events=None, **changes) -> ObservedTarget:
    """A target domain of that prior; `events` are triples of user, item and days before."""
    prior = np.asarray(prior, dtype=np.float64)
    if events is None:
        events = [(user, code, 2.0) for user, code in enumerate(np.flatnonzero(prior > 0))]
    table = pa.table(
        {
            "user_id": pa.array([f"u{int(user):06d}" for user, _, _ in events], pa.string()),
            "item_id": item_ids(len(prior)).take(
                pa.array([int(item) for _, item, _ in events], pa.int64())
            ),
            "event_timestamp": pa.array(
                [AS_OF - timedelta(days=float(days)) for _, _, days in events],
                SCHEMA.field("event_timestamp").type,
            ),
        }
    )
    return ObservedTarget(
        **{
            "events": table,
            "item_ids": item_ids(len(prior)),
            "prior": prior / prior.sum(),
            "first_seen": np.full(len(prior), CUT - 100 * DAY),
            **changes,
        }
    )


def written(table: pa.Table, folder, parts: int) -> list:
    """The rows in so many Parquet files, one row after the other into the next."""
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part in range(parts):
        paths.append(folder / f"part-{part:03d}.parquet")
        pq.write_table(table.take(pa.array(np.arange(part, table.num_rows, parts))), paths[-1])
    return paths
