"""The Feast offline store: bitemporal point-in-time joins on DuckDB, here or on a cluster.

```
store.py          Feast's interface: AsOfOfflineStore, AsOfOfflineStoreConfig
  view.py           what is taken from a feature view
  entity_rows.py    what it is taken for
  plan.py           retrievals, checked and not yet run
  engine.py         on this machine, or on a cluster
    retrieve.py       here: features of entity rows, event sets, plain pulls
      kernel.py         the as-of join
      limits.py         what DuckDB may use
      key_filters.py    few keys, for sources that can leave out the others
    distribute.py     there: the same join with Ray Data
      shuffle.py        what its tasks do
      parcels.py        what they send one another
    sources/          files, Iceberg, PostgreSQL: as relations or in pieces
  job.py            the result, when asked for
  parts.py          new Parquet files
  storage.py        places on local disk and in S3
history.py        the last L events as of a time, as offsets or lists
pull.py           events and outcomes of a view; definitions, applied and listed
pinning.py        a store that reads one view at one snapshot; what files lie behind a view
saved_datasets.py files that Feast knows as saved datasets
cluster.py        a Ray session
feature_store.py  opening a repository from any directory
```

The public names are imported on first use: Feast takes seconds to import, and whoever needs only
the kernel shall not wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalr_ray.offline_store.feature_store import open_feature_store
    from scalr_ray.offline_store.store import AsOfOfflineStore, AsOfOfflineStoreConfig

__all__ = ["AsOfOfflineStore", "AsOfOfflineStoreConfig", "open_feature_store"]

_HOMES = {
    "AsOfOfflineStore": "scalr_ray.offline_store.store",
    "AsOfOfflineStoreConfig": "scalr_ray.offline_store.store",
    "open_feature_store": "scalr_ray.offline_store.feature_store",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type is that of the name
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
