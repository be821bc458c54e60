"""Proof that no selected row is a leak: what could not have been known at T never trains a model.

Selecting already leaves such rows out. The guard does not trust it: it looks at both clocks again,
at what a synthetic event says of its translator, and asks the store for every published one by id.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.errors import DataError, LeakageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP, TIMESTAMP
from training.selection import TRAIN_CUTOFF

if TYPE_CHECKING:
    from feast import FeatureStore


def check_clocks(rows: pa.Table, as_of: datetime) -> None:
    """Check that every row had happened before T and was known by T.

    Raises:
        LeakageError: names the first row that had not, or was not.
    """
    cut = pa.scalar(as_of, TIMESTAMP)
    _refuse(
        rows.filter(pc.greater_equal(rows[EVENT_TIMESTAMP], cut)),
        f"had not happened before {as_of}",
        EVENT_TIMESTAMP,
    )
    _refuse(
        rows.filter(pc.greater(rows[AVAILABLE_AT], cut)), f"was not known by {as_of}", AVAILABLE_AT
    )


def check_lineage(rows: pa.Table) -> None:
    """Check that no synthetic event claims to be older than what its translator had seen.

    Raises:
        LeakageError: names the first one that does.
    """
    impossible = pc.greater(rows[TRAIN_CUTOFF], rows[AVAILABLE_AT])
    _refuse(
        rows.filter(pc.fill_null(impossible, fill_value=False)),
        "claims to have been available before the cut-off of the translator that made it",
        TRAIN_CUTOFF,
    )


def check_published(store: FeatureStore, view: str, rows: pa.Table, as_of: datetime) -> None:
    """Ask the store, at T and by id, for every synthetic event among `rows`.

    Raises:
        LeakageError: names the first one that the store does not know at T in that batch.
    """
    synthetic = rows.filter(rows["is_synthetic"])
    if not synthetic.num_rows:
        return
    times = pa.repeat(pa.scalar(as_of, TIMESTAMP), synthetic.num_rows)
    found = store.get_historical_features(
        entity_df=pa.table({"event_id": synthetic["event_id"], EVENT_TIMESTAMP: times}),
        features=[f"{view}:batch_id"],
        filter_by_created_timestamp=True,
    ).to_arrow()
    agrees = pc.equal(found["batch_id"].cast(pa.string()), synthetic["batch_id"])
    _refuse(
        synthetic.filter(pc.invert(pc.fill_null(agrees, fill_value=False))),
        f"is not in {view} as of {as_of}",
        AVAILABLE_AT,
    )


def check_distinct(ids: pa.Array) -> None:
    """Check that no event id is there twice; they are in order.

    Raises:
        DataError: names one that is.
    """
    same = pc.equal(ids[1:], ids[:-1])
    none = pc.and_(pc.is_null(ids[1:]), pc.is_null(ids[:-1]))
    twice = ids[1:].filter(pc.or_(pc.fill_null(same, fill_value=False), none))
    if len(twice):
        raise DataError(
            f"event {twice[0]} is there twice; a synthetic event must have an id of its "
            "own, so retire its batch"
        )


def _refuse(leaks: pa.Table, reason: str, clock: str) -> None:
    if not leaks.num_rows:
        return
    first = leaks.slice(0, 1).to_pylist()[0]
    kind = (
        f"a synthetic event of batch {first['batch_id']}"
        if first["is_synthetic"]
        else "a real event"
    )
    raise LeakageError(
        f"{first['event_id']}, {kind}, {reason} ({clock} is {first[clock]}); "
        f"rows like it: {leaks.num_rows}"
    )
