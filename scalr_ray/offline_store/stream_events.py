"""Opening the events of a registered view as a stream."""

from __future__ import annotations

from datetime import datetime

from feast import FeatureStore
from feast.errors import FeatureViewNotFoundException

from scalr_ray.core.clock import as_of_sql
from scalr_ray.core.duck import quote_name
from scalr_ray.core.errors import UsageError
from scalr_ray.core.events import EVENT_COLUMNS
from scalr_ray.offline_store.event_stream import EventStream
from scalr_ray.offline_store.retrieve import Rule, event_rows, event_set_sql
from scalr_ray.offline_store.store import AsOfOfflineStoreConfig, engine_of, session_of
from scalr_ray.offline_store.view import read_views


def stream_events(store: FeatureStore, view: str, *, as_of: datetime) -> EventStream:
    """The events of an event view that are visible as of a time.

    Args:
        store: an opened feature store.
        view: name of an event view.
        as_of: T; rows have event_timestamp < T and available_at <= T.

    Raises:
        DataError: the source is gone or corrupt.
        UsageError: the view is not registered, or the store is not ours.
    """
    config = store.config
    if not isinstance(config.offline_store, AsOfOfflineStoreConfig):
        raise UsageError(
            "events are streamed by scalr_ray.offline_store.AsOfOfflineStore only; name it as the "
            "type of offline_store in feature_store.yaml"
        )
    try:
        found = store.get_feature_view(view)
    except FeatureViewNotFoundException as error:
        raise UsageError(f"feature view {view} is not registered; run `scalr apply`") from error
    features = [f"{view}:{field.name}" for field in found.features if field.name in EVENT_COLUMNS]
    (read,) = read_views([found], features, full_feature_names=False, cut_off=True)
    session = session_of(config)
    rule = Rule(cut_off=True, strictly_before=config.offline_store.strictly_before)
    rows = event_rows(read, since=None, until=as_of, rule=rule, access=session.access)
    columns = ", ".join(map(quote_name, EVENT_COLUMNS))
    return EventStream(
        name=view,
        rows=rows,
        empty=read.empty(),
        sql=f"SELECT {columns} FROM ({event_set_sql(read)}) WHERE {as_of_sql(as_of)}",
        limits=session.limits,
        engine=engine_of(config),
    )
