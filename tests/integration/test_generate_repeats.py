"""Nothing that a user has, or was proposed before, is proposed again, however little is read."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from generation_runs import accepted, bucketed, rows_in, task_of
from small_drawings import small_drawing
from table_streams import table_stream

from scalr_ray.core.events import EVENT_COLUMNS
from scalr_ray.generate.actors import DrawFolder, draw_bucket

ANY_NUMBER = 10_000


def pairs(events: pa.Table) -> set[tuple[str, str]]:
    return set(zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True))


def drawn_in(folder, drawing, *, taken=None, history_events=ANY_NUMBER, **rules) -> pa.Table:
    """What is drawn for the users of the drawing, in this process."""
    stream = None if taken is None else table_stream(taken, drawing.settings.as_of)
    buckets = bucketed(drawing, folder / "buckets", taken=stream, history_events=history_events)
    task = task_of(drawing, buckets, history_events=history_events, **rules)
    to = DrawFolder(folder=folder)
    to.make()
    counted = [draw_bucket(task, to, at) for at in range(buckets.counts.buckets)]
    return accepted(rows_in(*(to.drawn(counts.bucket) for counts in counted)))


@pytest.fixture(scope="module")
def drawing():
    return small_drawing()


@pytest.mark.parametrize("history_events", [1, 4, ANY_NUMBER])
def test_a_second_batch_repeats_neither_real_nor_published_pairs(drawing, tmp_path, history_events):
    cut = pa.scalar(drawing.settings.as_of, drawing.target["event_timestamp"].type)
    real = pairs(drawing.target.filter(pc.less(drawing.target["event_timestamp"], cut)))
    first = drawn_in(tmp_path / "first", drawing, decay_events=50.0)
    published = pairs(first)
    second = drawn_in(
        tmp_path / "second",
        drawing,
        taken=first.select(EVENT_COLUMNS),
        history_events=history_events,
        decay_events=50.0,
    )
    assert len(real) > 300
    assert len(published) > 1000
    assert second.num_rows > 1000
    assert not pairs(second) & real
    assert not pairs(second) & published
