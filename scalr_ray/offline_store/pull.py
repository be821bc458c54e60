"""Pulling event sets and applying definitions, through the Feast SDK and nothing else.

Everything that is learnt from, translated or measured against comes through `pull_events` and
`pull_outcomes`, and both give observed events only (`organic.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureService, FeatureStore
from feast.errors import FeatureServiceNotFoundException, FeatureViewNotFoundException
from numpy.typing import NDArray

from scalr_ray.core.errors import ConfigError, UsageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_COLUMNS, EVENT_TIMESTAMP, TIMESTAMP
from scalr_ray.offline_store.organic import refuse_synthetic_rows, refuse_synthetic_view

# Far enough for any event log; Feast wants an upper bound.
_END_OF_TIME = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What a repository has registered: names, in order.

    Attributes:
        entities: entity names.
        feature_views: feature view names with the number of their features.
        feature_services: feature service names.
    """

    entities: tuple[str, ...]
    feature_views: tuple[tuple[str, int], ...]
    feature_services: tuple[str, ...]


def pull_events(store: FeatureStore, view: str, *, as_of: datetime) -> pa.Table:
    """The observed events of an event view that are visible as of a time.

    Args:
        store: an opened feature store.
        view: name of an event view.
        as_of: T; rows have event_timestamp < T and available_at <= T.

    Returns:
        The columns of `scalr_ray.core.events.EVENT_COLUMNS`, in no particular order.

    Raises:
        DataError: the view, or an event in it, is synthetic.
        UsageError: the view is not registered.
    """
    pulled = _event_set(store, view, end=as_of, known=True)
    cut = pa.scalar(as_of, pulled.schema.field(EVENT_TIMESTAMP).type)
    return pulled.filter(
        pc.and_(pc.less(pulled[EVENT_TIMESTAMP], cut), pc.less_equal(pulled[AVAILABLE_AT], cut))
    )


def pull_outcomes(
    store: FeatureStore, view: str, *, start: datetime, end: datetime | None = None
) -> pa.Table:
    """The events of a time, whenever they became known: what a prediction is held against.

    Args:
        store: an opened feature store.
        view: name of a feature view of events.
        start: the first instant.
        end: the events end before it; None takes all that came.

    Raises:
        DataError: the view, or an event in it, is synthetic.
        UsageError: the view is not registered.
    """
    # All that came: an event that was moved by a correction is in the time of its last version.
    pulled = _event_set(store, view, end=_END_OF_TIME, known=False)
    kind = pulled.schema.field(EVENT_TIMESTAMP).type
    later = pc.greater_equal(pulled[EVENT_TIMESTAMP], pa.scalar(start, kind))
    if end is not None:
        later = pc.and_(later, pc.less(pulled[EVENT_TIMESTAMP], pa.scalar(end, kind)))
    return pulled.filter(later)


def pull_features(
    store: FeatureStore, service: str, *, key: str, ids: pa.Array, times: NDArray[np.int64]
) -> pa.Table:
    """What a feature service serves of entities, each as of a time of its own.

    Args:
        store: an opened feature store.
        service: name of a feature service, all of whose views have the entity `key`.
        key: the join key.
        ids: (N,) entity ids.
        times: (N,) microseconds since 1970; only what was available by then is served.

    Returns:
        (N rows) the features, in the order of the ids.

    Raises:
        UsageError: the service is not registered, or one of its views has other entities.
    """
    rows = pa.table({key: ids, EVENT_TIMESTAMP: pa.array(times).cast(TIMESTAMP)})
    job = store.get_historical_features(
        entity_df=rows,
        features=_service_of(store, service, key),
        filter_by_created_timestamp=True,
    )
    return job.to_arrow().drop_columns([key, EVENT_TIMESTAMP])


def pull_known(store: FeatureStore, service: str, *, key: str, as_of: datetime) -> pa.Table:
    """The entities that a feature service has rows of as of a time, expired ones included.

    Args:
        store: an opened feature store.
        service: name of a feature service, all of whose views have the entity `key`.
        key: the join key.
        as_of: T; rows have event_timestamp <= T and were available by T.

    Returns:
        `key`, ascending, and `since`: the event time of its first row.

    Raises:
        UsageError: the service is not registered, or one of its views has other entities.
    """
    seen = []
    for projection in _service_of(store, service, key).feature_view_projections:
        job = store.get_historical_features(
            features=[f"{projection.name}:{projection.features[0].name}"],
            end_date=as_of,
            filter_by_created_timestamp=True,
        )
        seen.append(job.to_arrow().select([key, EVENT_TIMESTAMP]))
    rows = pa.concat_tables(seen)
    firsts = rows.group_by(key).aggregate([(EVENT_TIMESTAMP, "min")])
    firsts = firsts.filter(pc.is_valid(firsts[key])).sort_by(key)
    since = firsts[f"{EVENT_TIMESTAMP}_min"].cast(TIMESTAMP)
    return pa.table({key: firsts[key], "since": since})


def all_visible_from(store: FeatureStore, views: tuple[str, ...]) -> datetime | None:
    """The earliest time as of which every event of the views is visible; None without events."""
    times = []
    for view in views:
        events = _event_set(store, view, end=_END_OF_TIME, known=False)
        if events.num_rows:
            # An event is visible strictly after it happened, and as soon as it is known.
            happened = pc.max(events[EVENT_TIMESTAMP]).as_py() + timedelta(microseconds=1)
            times += [happened, pc.max(events[AVAILABLE_AT]).as_py()]
    return max(times, default=None)


def apply_definitions(repo: Path) -> str:
    """Run `feast apply` in the repository, as a Feast user would, and return what it printed.

    Raises:
        ConfigError: Feast refused the definitions; the message ends with its last line.
    """
    command = [str(Path(sys.executable).with_name("feast")), "apply"]
    done = subprocess.run(  # noqa: S603 - a fixed command of this environment
        command,
        cwd=repo,
        env={**os.environ, "FEAST_USAGE": "False"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise ConfigError(f"feast apply failed in {repo}: {lines[-1] if lines else 'no output'}")
    return done.stdout


def registered(store: FeatureStore) -> Registered:
    """What the registry holds for the project of the store."""
    return Registered(
        entities=tuple(sorted(entity.name for entity in store.list_entities())),
        feature_views=tuple(
            sorted((view.name, len(view.features)) for view in store.list_feature_views())
        ),
        feature_services=tuple(sorted(item.name for item in store.list_feature_services())),
    )


def _service_of(store: FeatureStore, service: str, key: str) -> FeatureService:
    try:
        registered = store.get_feature_service(service)
    except FeatureServiceNotFoundException as error:
        raise UsageError(
            f"feature service {service} is not registered; run `scalr apply`"
        ) from error
    for projection in registered.feature_view_projections:
        keys = store.get_feature_view(projection.name).join_keys
        if keys != [key]:
            raise UsageError(
                f"view {projection.name} of feature service {service} has the keys {keys}; only "
                f"views of [{key!r}] can be served here"
            )
    return registered


def _event_set(store: FeatureStore, view: str, *, end: datetime, known: bool) -> pa.Table:
    try:
        refuse_synthetic_view(store.get_feature_view(view))
        features = [
            f"{view}:{name}"
            for name in EVENT_COLUMNS
            if name not in {"event_id", EVENT_TIMESTAMP, AVAILABLE_AT}
        ]
        job = store.get_historical_features(
            features=features, end_date=end, filter_by_created_timestamp=known
        )
    except FeatureViewNotFoundException as error:
        raise UsageError(f"feature view {view} is not registered; run `scalr apply`") from error
    events = job.to_arrow().select(list(EVENT_COLUMNS))
    refuse_synthetic_rows(view, events)
    return events
