"""Which synthetic rows belong into a mix, and how much each of them counts."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.errors import DataError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP, TIMESTAMP
from scalr_ray.core.keyed import id_keys, keyed_uniform, stream_seed
from training.mix import Mix
from training.selection import as_rows, of_batches, smallest_hashes, thinned

if TYPE_CHECKING:
    from feast import FeatureStore

SOURCE_VIEW = "source_events"
SOURCE_EVENT = "source_event_id"


def wanted(store: FeatureStore, events: pa.Table, mix: Mix, as_of: datetime) -> pa.Table:
    """The synthetic events that a mix may take from, as rows with the weights of the mix.

    Args:
        store: holds the source events, which are asked where domains are named.
        events: synthetic events that are known at T.
        mix: what is wanted.
        as_of: T.

    Raises:
        DataError: there is no event of a batch or of a source domain that is named.
    """
    if isinstance(mix.batch_ids, str):  # the latest
        events = _of_latest_batch(events)
    else:
        events = of_batches(events, mix.batch_ids)
    if mix.source_domains is not None:
        events = _of_domains(store, events, mix.source_domains, as_of)
    if not mix.takes_drawn_negatives:
        events = events.filter(pc.greater(events["label"], 0.0))
    if mix.holdout_frac:
        held = held_out(events["user_id"], mix.holdout_frac, mix.holdout_salt)
        events = events.filter(pc.invert(held))
    return as_rows(events, weight_scale=mix.weight_scale)


def chosen(rows: pa.Table, mix: Mix, *, beside: pa.Table) -> pa.Table:
    """As many synthetic rows as a mix takes, faded by what their users have done.

    Args:
        rows: as `wanted` returns them.
        mix: what is wanted.
        beside: the other rows of the set.
    """
    if mix.synthetic_count is not None:
        rows = smallest_hashes(rows, mix.synthetic_count)
    rows = thinned(rows, mix.synthetic_frac, beside.num_rows)
    if mix.segment_weights is None:
        return rows
    real = beside.filter(pc.greater(beside["label"], 0.0))
    counts = pc.value_counts(real["user_id"].combine_chunks())
    place = pc.index_in(rows["user_id"], value_set=counts.field("values"))
    events = pc.fill_null(counts.field("counts").take(place.combine_chunks()), 0).to_numpy()
    bounds = sorted(mix.segment_weights)
    multiples = np.array([mix.segment_weights[bound] for bound in bounds], dtype=np.float64)
    multiple = multiples[np.searchsorted(bounds, events, side="right") - 1]
    column = rows.schema.get_field_index("sample_weight")
    weights = pc.multiply(rows["sample_weight"], pa.array(multiple))
    return rows.set_column(column, rows.schema.field(column), weights)


def held_out(users: pa.ChunkedArray, share: float, salt: str = "") -> pa.ChunkedArray:
    """Which of the users get no synthetic rows: a hash of the user and of the salt decides.

    Args:
        users: ids, text or whole numbers.
        share: of all users.
        salt: another text holds out others.

    Returns:
        A truth value for each.
    """
    coded = users.combine_chunks().dictionary_encode()
    keys = id_keys(coded.dictionary)
    held = keyed_uniform(stream_seed("holdout", salt), keys) < share
    return pa.chunked_array([pa.array(held, pa.bool_()).take(coded.indices)])


def _of_latest_batch(events: pa.Table) -> pa.Table:
    """The events of the batch that became available last; its id decides between equals."""
    if not events.num_rows:
        return events
    newest = events.filter(pc.equal(events[AVAILABLE_AT], pc.max(events[AVAILABLE_AT])))
    return of_batches(events, (pc.max(newest["batch_id"]).as_py(),))


def _of_domains(
    store: FeatureStore, events: pa.Table, domains: tuple[str, ...], as_of: datetime
) -> pa.Table:
    times = pa.repeat(pa.scalar(as_of, TIMESTAMP), events.num_rows)
    asked = pa.table({"event_id": events[SOURCE_EVENT].cast(pa.string()), EVENT_TIMESTAMP: times})
    domain = asked["event_id"].cast(pa.string())
    if events.num_rows:
        domain = store.get_historical_features(
            entity_df=asked, features=[f"{SOURCE_VIEW}:domain"], filter_by_created_timestamp=True
        ).to_arrow()["domain"]
    found = events.filter(pc.is_in(domain.cast(pa.string()), pa.array(domains, pa.string())))
    known = set(pc.unique(domain).to_pylist())
    if missing := sorted(set(domains) - known):
        there = ", ".join(sorted(known - {None})) or "none"
        raise DataError(
            f"no synthetic event that was known as of the cut comes of source domain "
            f"{missing[0]!r}; there is {there}"
        )
    return found
