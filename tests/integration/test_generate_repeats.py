"""Nothing that a user has, or was proposed before, is proposed again, however little is read."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from generation_runs import accepted, bucketed, rows_in, task_of
from small_drawings import small_drawing
from table_streams import table_stream

from scalr_ray.core.clock import to_micros
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
    for at in range(buckets.counts.buckets):
        draw_bucket(task, to, at)
    return accepted(rows_in(*(to.drawn(bucket) for bucket in to.done())))


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


@pytest.mark.parametrize("most", [9, None])
def test_night_after_night_no_user_gets_more_than_the_cap(drawing, tmp_path, most):
    drawing = replace(drawing, settings=replace(drawing.settings, negatives=1))
    # Some of everybody's events are new each night, which gives one synthetic event at least.
    late = drawing.settings.as_of - timedelta(days=20)
    rules = {"per_user": 8, "decay_events": 50.0}
    published = drawn_in(tmp_path / "first", drawing, per_user_total=most, **rules)
    added, refused = [], []
    for night in range(4):
        folder = tmp_path / f"night-{night}"
        batch = drawn_in(
            folder,
            drawing,
            taken=published.select(EVENT_COLUMNS),
            since={"source": to_micros(late)},
            per_user_total=most,
            **rules,
        )
        added.append(positives(batch).num_rows)
        done = DrawFolder(folder=folder).done().values()
        refused.append(sum(counts.above_user_cap for counts in done))
        published = pa.concat_tables([published, batch])
    per_user = positives(published).group_by("user_id").aggregate([([], "count_all")])
    if most is None:
        assert pc.max(per_user["count_all"]).as_py() > 10
        assert min(added) > 0 == max(refused)
    else:
        assert pc.max(per_user["count_all"]).as_py() == most
        assert added[0] > 0 < refused[0]
        assert added[-1] == 0 < refused[-1]


def test_the_first_batch_keeps_to_the_cap_too(drawing, tmp_path):
    batch = drawn_in(tmp_path, drawing, per_user=8, per_user_total=3)
    per_user = batch.group_by("user_id").aggregate([([], "count_all")])
    assert pc.max(per_user["count_all"]).as_py() == 3


def positives(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.greater(rows["label"], 0))
