"""A translator is used for the events it was made of, and proposes nothing that is gone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_drawings import Drawing, small_drawing
from table_streams import table_stream

from scalr_ray.core.errors import DataError
from scalr_ray.jobs.vanished import vanished_items


@pytest.fixture(scope="module")
def drawing() -> Drawing:
    return small_drawing()


def vanished(drawing: Drawing, source: pa.Table, target: pa.Table) -> list[str]:
    as_of = drawing.settings.as_of
    streams = table_stream(source, as_of), table_stream(target, as_of)
    gone = vanished_items(*streams, drawing.translator, "target")
    return drawing.translator.target_items.ids.filter(pa.array(gone)).to_pylist()


def without(events: pa.Table, items: list[str]) -> pa.Table:
    return events.filter(pc.invert(pc.is_in(events["item_id"], pa.array(items))))


def seen(drawing: Drawing, events: pa.Table) -> list[str]:
    early = pc.less(events["event_timestamp"], drawing.settings.as_of)
    return sorted(set(events.filter(early)["item_id"].to_pylist()))


def test_items_without_events_are_found(drawing: Drawing):
    lost = seen(drawing, drawing.target)[3:7]
    unseen = sorted(
        set(drawing.translator.target_items.ids.to_pylist()) - set(seen(drawing, drawing.target))
    )
    assert vanished(drawing, drawing.source, drawing.target) == unseen
    left = without(drawing.target, lost)
    assert vanished(drawing, drawing.source, left) == sorted([*lost, *unseen])


def test_new_items_are_no_reason_to_refuse(drawing: Drawing):
    renamed = drawing.target.set_column(
        drawing.target.schema.get_field_index("item_id"),
        "item_id",
        pc.binary_join_element_wise(drawing.target["item_id"], "new", "-"),
    )
    both = pa.concat_tables([drawing.target, renamed.cast(drawing.target.schema)])
    assert vanished(drawing, drawing.source, both) == vanished(
        drawing, drawing.source, drawing.target
    )


def test_an_item_that_is_known_by_something_else_needs_no_event(drawing: Drawing):
    as_of, ids = drawing.settings.as_of, drawing.translator.target_items.ids
    lost = seen(drawing, drawing.target)[3:7]
    left = without(drawing.target, lost)
    new = np.isin(ids.to_pylist(), lost)
    streams = table_stream(drawing.source, as_of), table_stream(left, as_of)
    gone = vanished_items(*streams, drawing.translator, "target", new=new)
    assert ids.filter(pa.array(gone)).to_pylist() == vanished(
        drawing, drawing.source, drawing.target
    )


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_translator_of_other_data_is_named(drawing: Drawing, side: str):
    tables = {"source": drawing.source, "target": drawing.target}
    items = seen(drawing, tables[side])
    tables[side] = without(tables[side], items[: len(items) * 3 // 4])
    with pytest.raises(DataError, match=f"{side} items .* trained on other data"):
        vanished(drawing, tables["source"], tables["target"])
