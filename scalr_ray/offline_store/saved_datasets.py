"""Files that are known to Feast as saved datasets: `store.get_saved_dataset(name)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from feast import FeatureStore
from feast.errors import SavedDatasetNotFound
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.saved_dataset import SavedDataset


def register_dataset(
    store: FeatureStore,
    name: str,
    file: Path,
    *,
    columns: Sequence[str],
    keys: Sequence[str],
    service: str,
    times: tuple[datetime, datetime],
    tags: Mapping[str, str],
) -> None:
    """Tell the registry of a Parquet file; again, of the same or of what it holds now.

    Args:
        store: an opened feature store.
        name: of the dataset.
        file: with a column `event_timestamp`.
        columns: the others that shall be read, without the keys.
        keys: columns that say what a row is about.
        service: the feature service that gave the features.
        times: the earliest and the latest `event_timestamp` to read.
        tags: for a reader.
    """
    dataset = SavedDataset(
        name=name,
        # Feast wants references, and reads what stands behind the colon.
        features=[f"{name}:{column}" for column in columns],
        join_keys=list(keys),
        storage=SavedDatasetFileStorage(path=str(file)),
        tags=dict(tags),
        feature_service_name=service,
    )
    dataset.min_event_timestamp, dataset.max_event_timestamp = times
    store.registry.apply_saved_dataset(dataset, store.project)


def known_datasets(store: FeatureStore) -> set[str]:
    """The names of the datasets that the registry knows now."""
    return {dataset.name for dataset in store.registry.list_saved_datasets(store.project)}


def forget_dataset(store: FeatureStore, name: str) -> None:
    """Take a dataset out of the registry; one that is not there is forgotten already."""
    try:
        store.registry.delete_saved_dataset(name, store.project)
    except SavedDatasetNotFound:
        return
