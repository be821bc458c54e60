"""The event: its columns, their Arrow types, and the identity of a row.

A real event and a synthetic event share the first eight columns, so that a trainer can read both
through one schema. Times are UTC with microseconds. `user_id` and `item_id` are `string` or
`int64`, as `scalr.yaml` says; everything else is fixed.
"""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa

IdType = Literal["string", "int64"]
ID_TYPES: tuple[str, ...] = get_args(IdType)

TIMESTAMP = pa.timestamp("us", tz="UTC")

EVENT_TIMESTAMP = "event_timestamp"
AVAILABLE_AT = "available_at"

EVENT_COLUMNS = (
    "event_id",
    "user_id",
    "item_id",
    "domain",
    "event_type",
    "event_timestamp",
    "available_at",
    "value",
)

# How the type of every synthetic event begins; a real event of such a type is a mistake.
SYNTHETIC_PREFIX = "synthetic"

# What the sample weight is the product of, beside the scale of the batch.
WEIGHT_FACTORS = ("history_weight", "likelihood_weight", "density_weight", "age_weight")

LINEAGE_COLUMNS = (
    "batch_id",
    "translator_version",
    "train_cutoff",
    "likelihood",
    "propensity",
    "label",
    "sample_weight",
    *WEIGHT_FACTORS,
    "source_event_id",
    "generated_at",
)


def arrow_id_type(id_type: IdType) -> pa.DataType:
    """The Arrow type of an id column declared as `string` or `int64`."""
    return pa.int64() if id_type == "int64" else pa.string()


def event_schema(user_id: IdType, item_id: IdType) -> pa.Schema:
    """The schema of a real event, in the order of `EVENT_COLUMNS`."""
    return pa.schema(
        [
            pa.field("event_id", pa.string(), nullable=False),
            pa.field("user_id", arrow_id_type(user_id), nullable=False),
            pa.field("item_id", arrow_id_type(item_id), nullable=False),
            pa.field("domain", pa.string(), nullable=False),
            pa.field("event_type", pa.string()),
            pa.field(EVENT_TIMESTAMP, TIMESTAMP, nullable=False),
            pa.field(AVAILABLE_AT, TIMESTAMP, nullable=False),
            pa.field("value", pa.float64()),
        ]
    )


def synthetic_event_schema(user_id: IdType, item_id: IdType) -> pa.Schema:
    """The schema of a synthetic event: the event columns, then the lineage columns.

    `likelihood` is a calibrated probability in (0, 1]; `propensity` is the probability with which a
    single draw takes the item, in (0, 1]; `label` is 1, or 0 for a negative, which only says that
    the item was not chosen; `sample_weight` is how much the row counts in training, at least 0, the
    product of `WEIGHT_FACTORS` and of a scale that all rows of a batch share; `source_event_id` is
    the observed event that triggered it;
    `train_cutoff` is the as-of time of its translator; `generated_at` is the logical
    generation time, so that a rerun gives equal rows (the wall clock is in the ledger).
    """
    lineage = [
        pa.field("batch_id", pa.string(), nullable=False),
        pa.field("translator_version", pa.string(), nullable=False),
        pa.field("train_cutoff", TIMESTAMP, nullable=False),
        pa.field("likelihood", pa.float64(), nullable=False),
        pa.field("propensity", pa.float64(), nullable=False),
        pa.field("label", pa.float64(), nullable=False),
        pa.field("sample_weight", pa.float64(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in WEIGHT_FACTORS),
        pa.field("source_event_id", pa.string()),
        pa.field("generated_at", TIMESTAMP, nullable=False),
    ]
    return pa.schema([*event_schema(user_id, item_id), *lineage])
