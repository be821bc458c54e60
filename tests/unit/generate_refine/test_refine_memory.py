"""What refinement holds in memory does not grow with the rows."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from refine_rows import CUT, DAY, SCHEMA, item_ids, observed_target, settings

from scalr_ray.generate.refining.refine import fit_refinement

ITEMS = 50
FILE_ROWS = 20_000


def file_of(folder, part):
    """A file of drawn rows with the columns that fitting reads, and one that it must not."""
    rng = np.random.default_rng(part)
    rows = pa.array(np.arange(FILE_ROWS) + part * FILE_ROWS).cast(pa.string())
    items = rng.integers(0, ITEMS, FILE_ROWS)
    moments = CUT - (rng.uniform(0.1, 60, FILE_ROWS) * DAY).astype(np.int64)
    table = pa.table(
        {
            "event_id": rows,
            "user_id": pc.binary_join_element_wise(
                "user", pa.array(rng.integers(0, 3000, FILE_ROWS)).cast(pa.string()), "-"
            ),
            "item_id": item_ids(ITEMS).take(pa.array(items)),
            "event_timestamp": pa.array(moments).cast(SCHEMA.field("event_timestamp").type),
            "label": np.ones(FILE_ROWS),
            "history_weight": np.ones(FILE_ROWS),
            "item_code": items,
            "thinning": rng.random(FILE_ROWS),
            "log_lift": rng.normal(size=FILE_ROWS),
            "reason": pa.nulls(FILE_ROWS, pa.string()),
            "filler": rng.random(FILE_ROWS),
        }
    )
    path = folder / f"part-{part:03d}.parquet"
    pq.write_table(table, path)
    return path


def peak_of_fitting(paths):
    """The largest number of bytes that numpy and Python held at a time.

    There are too few real events for a discriminator: the size of its sample is fixed anyhow.
    """
    prior = 1 / np.arange(1, ITEMS + 1)
    observed = observed_target(prior, [(u, u % ITEMS, 1.0 + u % 40) for u in range(600)])
    chosen = settings(per_item=1000 * len(paths) // 4, mass_frac=0.1)
    tracemalloc.start()
    try:
        _, report = fit_refinement(paths, observed, chosen)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.drawn == FILE_ROWS * len(paths)
    assert report.mass.scale < 1
    return peak


def test_six_times_the_rows_take_no_more_memory(tmp_path):
    paths = [file_of(tmp_path, part) for part in range(24)]
    few, many = peak_of_fitting(paths[:4]), peak_of_fitting(paths)
    assert many < 1.2 * few
