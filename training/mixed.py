"""`build_mixed_dataset`: the one way to pull a training set of real and synthetic events.

One entity timestamp cannot carry two clocks, so a training set is built in steps:

1. **select** (`selection.py`) the events of the window that had happened and were known as of T;
2. **mix** (`mix.py`, `mixing.py`): take the synthetic ones that are wanted, scale their weights,
   and add negatives (`negatives.py`);
3. **guard** (`guard.py`): prove that every selected row could have been known at T;
4. **enrich** each row with the features of the service as of the row's own time.

Everything published is read through the Feast SDK, so the same definitions serve every trainer. All
steps read one snapshot of the synthetic events, whatever is published or retired meanwhile.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP
from training.dataset import MixedDataset
from training.durable import as_parquet
from training.guard import check_clocks, check_distinct, check_lineage, check_published
from training.inputs import Inputs
from training.manifest import describe, sorted_ids
from training.mix import Mix, Negatives
from training.mixing import SOURCE_EVENT, chosen, wanted
from training.negatives import drawn, given
from training.selection import (
    REAL_FEATURES,
    ROW_COLUMNS,
    SYNTHETIC_FEATURES,
    Window,
    as_rows,
    of_batches,
    pull,
)

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

    from scalr_ray.offline_store.pinning import PinnedStore

TARGET_VIEW = "target_events"
SYNTHETIC_VIEW = "synthetic_events"

__all__ = ["Mix", "MixedDataset", "Negatives", "build_mixed_dataset"]

_MIX_TAG = "mix"
_TAKES_SYNTHETIC = {"real": False, "real+synthetic": True}
_ALL_PUBLISHED = Mix()


def build_mixed_dataset(
    store: FeatureStore,
    *,
    service: str,
    start: datetime | str,
    end: datetime | str,
    as_of: datetime | str,
    mix: Mix = _ALL_PUBLISHED,
    trial: pa.Table | None = None,
    snapshot_id: int | Literal["newest"] | None = "newest",
) -> MixedDataset:
    """Pull the training set that an observer at `as_of` could have pulled.

    It holds the target events with `start <= event_timestamp < min(end, as_of)` and
    `available_at <= as_of`, each with the features of the service as of its own `event_timestamp`.
    The service's tag `mix` says whether synthetic events belong in (`real+synthetic`) or not
    (`real`). The same call at the same snapshot gives the same table, as long as no event is
    imported that claims to have been known by `as_of`.

    Args:
        store: one whose offline store can cut off by availability.
        service: name of the feature service.
        start: beginning of the window, included; a time, or ISO 8601 text with a zone.
        end: end of the window, excluded.
        as_of: T.
        mix: which synthetic events, and how much they count.
        trial: staged events to take instead of the published ones, so that a batch can be measured
            before it is published; it has the columns of a synthetic event.
        snapshot_id: what to read of the published events: the newest snapshot, or what an earlier
            training set has read, `manifest["snapshot_id"]`. Publishing, retiring and compacting
            leave older snapshots as they are; erasing a user takes away those that showed them.

    Raises:
        UsageError: the service is unknown or unfit, a time is naive, the window is empty, or
            `trial` does not go with the rest.
        DataError: there are no real events before the cut, a batch or source domain that was asked
            for has none, an event is there twice, or the snapshot is gone.
        LeakageError: a selected row, or any row of `trial` or of negatives that are given, could
            not have been known at `as_of`.
    """
    window = Window.of(start, end, as_of)
    definition = _service(store, service)
    takes_synthetic = _takes_synthetic(definition)
    if trial is not None and not takes_synthetic:
        raise UsageError(f"service {service} takes real events only, so it takes no trial")
    if trial is not None and mix.batch_ids is not None:
        raise UsageError("give trial or batch_ids, not both: a trial replaces the published rows")
    if trial is not None and isinstance(snapshot_id, int):
        raise UsageError("give trial or snapshot_id, not both: a trial replaces the published rows")
    published = takes_synthetic and trial is None
    pinned = _pin(store, snapshot_id, published=published)
    views = [view.name for view in definition.feature_view_projections]
    before = Inputs.of(store, [TARGET_VIEW, *views], snapshot_id=pinned.snapshot_id)
    _check_columns(definition, mix)
    rows = _with_negatives(_real(pinned.store, window), window, mix)
    if trial is not None:
        rows = _mixed(rows, _staged(pinned.store, trial, window, mix), mix)
    elif takes_synthetic:
        rows = _mixed(rows, _published(pinned, window, mix, like=rows), mix)
    ids = sorted_ids(rows["event_id"])  # before they are put in order of time: in sorted runs
    check_distinct(ids)
    rows = rows.sort_by([(EVENT_TIMESTAMP, "ascending"), ("event_id", "ascending")])
    check_clocks(rows, window.as_of)
    check_lineage(rows)
    if published:
        check_published(pinned.store, SYNTHETIC_VIEW, rows, window.as_of)
    table = _enriched(pinned.store, definition, rows.select(ROW_COLUMNS), mix)
    after = Inputs.of(store, [TARGET_VIEW, *views], snapshot_id=pinned.snapshot_id)
    manifest = describe(
        rows,
        service=service,
        feature_views=views,
        window=window,
        mix=mix.to_json(),
        trial=trial is not None,
        inputs=before.to_json(after),
        ids=ids,
    )
    return MixedDataset(table=table, manifest=manifest, store=store)


def _pin(
    store: FeatureStore, snapshot_id: int | Literal["newest"] | None, *, published: bool
) -> PinnedStore:
    """The store to read from; it need not be pinned where no published events are read."""
    from scalr_ray.offline_store.pinning import PinnedStore, pin_view

    if not published:
        return PinnedStore(store=store, snapshot_id=None)
    return pin_view(store, SYNTHETIC_VIEW, snapshot_id)


def _service(store: FeatureStore, name: str) -> FeatureService:
    """The service, if its features can stand beside the columns of a row."""
    from feast.errors import FeatureServiceNotFoundException

    try:
        service = store.get_feature_service(name)
    except FeatureServiceNotFoundException as error:
        known = sorted(service.name for service in store.list_feature_services())
        raise UsageError(
            f"there is no feature service {name!r}; there is {', '.join(known) or 'none'} "
            "(`scalr apply` registers the definitions)"
        ) from error
    projections = service.feature_view_projections
    names = [feature.name for view in projections for feature in view.features]
    if clash := sorted({name for name in names if name in ROW_COLUMNS or names.count(name) > 1}):
        raise UsageError(
            f"service {name} has a feature {clash[0]!r} that another column is called by; "
            "name a service that only adds features to events"
        )
    return service


def _takes_synthetic(service: FeatureService) -> bool:
    tag = service.tags.get(_MIX_TAG)
    if tag not in _TAKES_SYNTHETIC:
        known = " or ".join(repr(value) for value in _TAKES_SYNTHETIC)
        raise UsageError(
            f"service {service.name} does not say what it mixes (its tag 'mix' is {tag!r}); "
            f"tag it {known}"
        )
    return _TAKES_SYNTHETIC[tag]


def _real(store: FeatureStore, window: Window) -> pa.Table:
    events = pull(store, TARGET_VIEW, REAL_FEATURES, window)
    if not events.num_rows:
        raise DataError(
            f"no events before the cut: {TARGET_VIEW} holds none from {window.start} to "
            f"{window.stop} that was known by {window.as_of}; import events or move the window"
        )
    return as_rows(events, weight_scale=None)


def _with_negatives(real: pa.Table, window: Window, mix: Mix) -> pa.Table:
    if isinstance(mix.negatives, Negatives):
        return pa.concat_tables([real, drawn(real, mix.negatives)])
    if isinstance(mix.negatives, pa.Table):
        return pa.concat_tables([real, given(mix.negatives, real, window)])
    return real


def _mixed(rows: pa.Table, synthetic: pa.Table, mix: Mix) -> pa.Table:
    return pa.concat_tables([rows, chosen(synthetic, mix, beside=rows)])


def _published(pinned: PinnedStore, window: Window, mix: Mix, *, like: pa.Table) -> pa.Table:
    if pinned.empty:
        named = None if isinstance(mix.batch_ids, str) else mix.batch_ids
        return of_batches(like.slice(0, 0), named)
    published = pull(pinned.store, SYNTHETIC_VIEW, _features(mix), window)
    return wanted(pinned.store, published, mix, window.as_of)


def _staged(store: FeatureStore, trial: pa.Table, window: Window, mix: Mix) -> pa.Table:
    needed = ("event_id", *_features(mix), EVENT_TIMESTAMP, AVAILABLE_AT)
    if missing := [name for name in needed if name not in trial.column_names]:
        raise DataError(f"the trial has no column {missing[0]!r}; pass staged synthetic events")
    # A trial is one batch made for this cut: a row of it that leaks is a fault, not a row to skip.
    check_clocks(as_rows(trial, weight_scale=mix.weight_scale), window.as_of)
    return window.inside(wanted(store, trial, mix, window.as_of))


def _features(mix: Mix) -> tuple[str, ...]:
    """What is asked of synthetic events: the source event only where its domain is looked up."""
    return SYNTHETIC_FEATURES + (() if mix.source_domains is None else (SOURCE_EVENT,))


def _check_columns(service: FeatureService, mix: Mix) -> None:
    projections = service.feature_view_projections
    features = {feature.name for view in projections for feature in view.features}
    if unknown := sorted(set(mix.drop_columns) - features):
        raise UsageError(
            f"drop_columns names {unknown[0]!r}, which is no feature of {service.name}; there is "
            f"{', '.join(sorted(features))}"
        )
    taken = {*ROW_COLUMNS, *features} - {"label", "sample_weight"} - {*mix.drop_columns}
    for name in (mix.label_column, mix.weight_column):
        if name in taken or mix.label_column == mix.weight_column:
            raise UsageError(f"another column is called {name!r}; call label and weight otherwise")


def _enriched(store: FeatureStore, service: FeatureService, rows: pa.Table, mix: Mix) -> pa.Table:
    """`rows` with the features of the service appended, each as of the row's own time."""
    entities = rows.select(["event_id", "user_id", "item_id", EVENT_TIMESTAMP])
    enriched = store.get_historical_features(
        entity_df=entities, features=service, filter_by_created_timestamp=True
    ).to_arrow()
    names = {"label": mix.label_column, "sample_weight": mix.weight_column}
    rows = rows.rename_columns([names.get(name, name) for name in rows.column_names])
    for name in enriched.column_names:
        if name not in entities.column_names and name not in mix.drop_columns:
            rows = rows.append_column(name, enriched[name])
    return as_parquet(rows)  # so that what is saved comes back the same
