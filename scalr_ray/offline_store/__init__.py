"""The Feast offline store: bitemporal point-in-time joins on DuckDB.

```
store.py          Feast's interface: AsOfOfflineStore, AsOfOfflineStoreConfig
  view.py           what is taken from a feature view
  entity_rows.py    what it is taken for
  retrieve.py       the three reads
    sources.py        Parquet folders and Iceberg tables, as relations
    kernel.py         the as-of join
  job.py            the result, when asked for
feature_store.py  opening a repository from any directory
```
"""

from __future__ import annotations

from scalr_ray.offline_store.feature_store import open_feature_store
from scalr_ray.offline_store.store import AsOfOfflineStore, AsOfOfflineStoreConfig

__all__ = ["AsOfOfflineStore", "AsOfOfflineStoreConfig", "open_feature_store"]
