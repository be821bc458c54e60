"""The manifest of a training set: what was asked for, and what it gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.fingerprint import fingerprint
from training.selection import Window


def describe(
    rows: pa.Table,
    *,
    service: str,
    feature_views: Sequence[str],
    window: Window,
    mix: dict[str, Any],
    trial: bool,
) -> dict[str, Any]:
    """Plain JSON values; equal manifests mean the same events under the same question.

    Args:
        rows: the selected rows, with `training.selection.ROW_COLUMNS`.
        service: name of the feature service.
        feature_views: the views it takes features from.
        window: where the rows were selected.
        mix: the fields of the mix.
        trial: whether the synthetic rows are staged rather than published.
    """
    synthetic = rows.filter(rows["is_synthetic"])
    batches = pc.value_counts(synthetic["batch_id"]).to_pylist()
    return {
        "service": service,
        "start": window.start.isoformat(),
        "end": window.end.isoformat(),
        "as_of": window.as_of.isoformat(),
        "mix": mix,
        "trial": trial,
        "counts": {
            "real": rows.num_rows - synthetic.num_rows,
            "synthetic": synthetic.num_rows,
        },
        "batches": {
            batch["values"]: batch["counts"]
            for batch in sorted(batches, key=lambda batch: str(batch["values"]))
        },
        "feature_views": sorted(feature_views),
        "events_fingerprint": fingerprint(sorted(rows["event_id"].to_pylist())),
    }
