"""Event logs in, event and feature files out.

```
FILE.parquet ──read──► EventLog ──withhold──► EventLog ──store──► events/{source,target}_events/
 columns.py            log.py                 cuts.py   store.py                │
 times.py                 └─ refused rows ──────────────────► rejected/         ▼ snapshots.py
                                                        features/{user_source_features,item_popularity}/
```

A bad *file* stops before anything is written, with one line that names the file, the column and the
first offending row. A bad *row* is counted and set aside with the reason. Files appear whole or not
at all, and the same call twice changes nothing.
"""

from __future__ import annotations

from scalr_ray.ingest.columns import infer_ids
from scalr_ray.ingest.cuts import is_odd_user, snapshot_times, target_cut, withhold
from scalr_ray.ingest.files import rewrite_tables, sole_writer
from scalr_ray.ingest.log import EventLog, read_event_log
from scalr_ray.ingest.snapshots import write_snapshots
from scalr_ray.ingest.store import ImportResult, import_log, refuse_other_tables

__all__ = [
    "EventLog",
    "ImportResult",
    "import_log",
    "infer_ids",
    "is_odd_user",
    "read_event_log",
    "refuse_other_tables",
    "rewrite_tables",
    "snapshot_times",
    "sole_writer",
    "target_cut",
    "withhold",
    "write_snapshots",
]
