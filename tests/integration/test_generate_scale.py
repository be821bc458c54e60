"""Generation by one and by four workers, for users of very different size, from a real store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from generation_runs import bucketed, expected_rows, rows_in, task_of
from local_ray import local_ray
from small_drawings import small_drawing
from small_worlds import DAY_0, event_table

from scalr_ray.generate import draw_batch
from scalr_ray.generate.actors import DrawFolder, draw_bucket

pytestmark = [
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]


@pytest.fixture(scope="module")
def drawing():
    return small_drawing()


@pytest.mark.parametrize("cpus", [1, 4])
def test_so_many_workers_draw_the_same(drawing, tmp_path, cpus):
    buckets = bucketed(drawing, tmp_path / "buckets", users=10)
    assert buckets.counts.buckets > 4
    with local_ray(cpus):
        batch = draw_batch(task_of(drawing, buckets), tmp_path)
    assert rows_in(*batch.paths).equals(expected_rows(drawing))


def with_bot(drawing, events):
    """The drawing with a user of so many source events, the last on items that others have."""
    items = drawing.source["item_id"].unique().to_pylist()[:20]
    items = [*(f"own-{at}" for at in range(events - len(items))), *items]
    cut = (drawing.settings.as_of - DAY_0) / timedelta(days=1)
    rows = [("bot", item, cut - 2 + at / events) for at, item in enumerate(items)]
    return replace(
        drawing, source=pa.concat_tables([drawing.source, event_table(rows, "source", "bot")])
    )


def test_a_user_with_very_many_events_is_cut_to_the_newest_and_breaks_nothing(drawing, tmp_path):
    skewed = with_bot(drawing, 100_000)
    buckets = bucketed(skewed, tmp_path / "buckets", history_events=50)
    assert buckets.counts.left_out == 99_950
    with local_ray(2):
        batch = draw_batch(task_of(skewed, buckets, history_events=50), tmp_path)
    rows = rows_in(*batch.paths)
    assert rows.equals(expected_rows(skewed, history_events=50))
    assert "bot" in rows["user_id"].to_pylist()


def test_blocks_within_a_bucket_change_nothing(drawing, tmp_path, monkeypatch):
    monkeypatch.setattr("scalr_ray.generate.actors._BLOCK_ROWS", 40)
    buckets = bucketed(drawing, tmp_path / "buckets", users=1000)
    folder = DrawFolder(folder=tmp_path)
    folder.make()
    counts = draw_bucket(task_of(drawing, buckets), folder, 0)
    assert rows_in(folder.drawn(0)).equals(expected_rows(drawing))
    assert pq.ParquetFile(folder.drawn(0)).num_row_groups > 10
    assert counts.drawn == expected_rows(drawing).num_rows
