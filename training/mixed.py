"""`build_mixed_dataset`: the one way to pull a training set of real and synthetic events.

One entity timestamp cannot carry two clocks, so a training set is built in steps:

1. **select** (`selection.py`) the events of the window that had happened and were known as of T;
2. **mix**: thin the synthetic ones by a hash of their ids, and scale their weights;
3. **guard** (`guard.py`): prove that every selected row could have been known at T;
4. **enrich** each row with the features of the service as of the row's own time.

Everything published is read through the Feast SDK, so the same definitions serve every trainer. All
steps read one snapshot of the synthetic events, whatever is published or retired meanwhile.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP
from training.dataset import MixedDataset
from training.durable import as_parquet
from training.guard import check_clocks, check_distinct, check_lineage, check_published
from training.inputs import Inputs
from training.manifest import describe
from training.selection import (
    REAL_FEATURES,
    ROW_COLUMNS,
    SYNTHETIC_FEATURES,
    Window,
    as_rows,
    of_batches,
    pull,
    thinned,
)

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

    from scalr_ray.offline_store.pinning import PinnedStore

TARGET_VIEW = "target_events"
SYNTHETIC_VIEW = "synthetic_events"

_MIX_TAG = "mix"
_TAKES_SYNTHETIC = {"real": False, "real+synthetic": True}


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How many synthetic rows a training set gets, and how much they count.

    Attributes:
        synthetic_frac: the share of synthetic rows in the result, at most; None takes all. Which
            ones stay follows from their ids, and a smaller share is part of a larger one.
        weight_scale: multiple of their `sample_weight`.
        batch_ids: the published batches to take them from; None takes every one.
        negatives: take the drawn negatives too, `label` 0, for trainers that learn from pairs.
    """

    synthetic_frac: float | None = None
    weight_scale: float = 1.0
    batch_ids: tuple[str, ...] | None = None
    negatives: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be mixed."""
        if self.synthetic_frac is not None and not 0 <= self.synthetic_frac < 1:
            raise UsageError(f"synthetic_frac is {self.synthetic_frac}; write 0 to below 1")
        if not (math.isfinite(self.weight_scale) and self.weight_scale >= 0):
            raise UsageError(f"weight_scale is {self.weight_scale}; write a number of at least 0")


ALL_PUBLISHED = Mix()


def build_mixed_dataset(
    store: FeatureStore,
    *,
    service: str,
    start: datetime | str,
    end: datetime | str,
    as_of: datetime | str,
    mix: Mix = ALL_PUBLISHED,
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
        DataError: there are no real events before the cut, a batch that was asked for has none, an
            event is there twice, or the snapshot is gone.
        LeakageError: a selected row, or any row of `trial`, could not have been known at `as_of`.
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
    rows = _real(pinned.store, window)
    if trial is not None:
        rows = _mixed(rows, _staged(trial, window, mix), mix)
    elif takes_synthetic:
        rows = _mixed(rows, _published(pinned, window, mix, like=rows), mix)
    rows = rows.sort_by([(EVENT_TIMESTAMP, "ascending"), ("event_id", "ascending")])
    check_distinct(rows)
    check_clocks(rows, window.as_of)
    check_lineage(rows)
    if published:
        check_published(pinned.store, SYNTHETIC_VIEW, rows, window.as_of)
    table = _enriched(pinned.store, definition, rows.select(ROW_COLUMNS))
    after = Inputs.of(store, [TARGET_VIEW, *views], snapshot_id=pinned.snapshot_id)
    manifest = describe(
        rows,
        service=service,
        feature_views=views,
        window=window,
        mix=asdict(mix),
        trial=trial is not None,
        inputs=before.to_json(after),
    )
    return MixedDataset(table=table, manifest=manifest)


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


def _mixed(real: pa.Table, synthetic: pa.Table, mix: Mix) -> pa.Table:
    return pa.concat_tables([real, thinned(synthetic, mix.synthetic_frac, real.num_rows)])


def _published(pinned: PinnedStore, window: Window, mix: Mix, *, like: pa.Table) -> pa.Table:
    if pinned.empty:
        return of_batches(like.slice(0, 0), mix.batch_ids)
    published = pull(pinned.store, SYNTHETIC_VIEW, SYNTHETIC_FEATURES, window)
    wanted = _labelled(of_batches(published, mix.batch_ids), negatives=mix.negatives)
    return as_rows(wanted, weight_scale=mix.weight_scale)


def _staged(trial: pa.Table, window: Window, mix: Mix) -> pa.Table:
    wanted = ("event_id", *SYNTHETIC_FEATURES, EVENT_TIMESTAMP, AVAILABLE_AT)
    if missing := [name for name in wanted if name not in trial.column_names]:
        raise DataError(f"the trial has no column {missing[0]!r}; pass staged synthetic events")
    taken = _labelled(trial, negatives=mix.negatives)
    staged = as_rows(taken, weight_scale=mix.weight_scale)
    # A trial is one batch made for this cut: a row of it that leaks is a fault, not a row to skip.
    check_clocks(staged, window.as_of)
    return window.inside(staged)


def _labelled(events: pa.Table, *, negatives: bool) -> pa.Table:
    return events if negatives else events.filter(pc.greater(events["label"], 0.0))


def _enriched(store: FeatureStore, service: FeatureService, rows: pa.Table) -> pa.Table:
    """`rows` with the features of the service appended, each as of the row's own time."""
    entities = rows.select(["event_id", "user_id", "item_id", EVENT_TIMESTAMP])
    enriched = store.get_historical_features(
        entity_df=entities, features=service, filter_by_created_timestamp=True
    ).to_arrow()
    for name in enriched.column_names:
        if name not in entities.column_names:
            rows = rows.append_column(name, enriched[name])
    return as_parquet(rows)  # so that what is saved comes back the same
