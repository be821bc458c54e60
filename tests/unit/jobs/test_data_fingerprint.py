"""Trainings on other data have other fingerprints, whatever it is that differs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from small_worlds import day, event_table

from scalr_ray.jobs.train import data_fingerprint
from scalr_ray.learn import TrainingEvents

SOURCE = event_table([("u1", "a", 0), ("u2", "b", 1), ("u2", "c", 2)], "books")
TARGET = event_table([("u1", "x", 3), ("u2", "y", 4), ("u3", "z", 4)], "music")


def known_by(source: pa.Table, target: pa.Table) -> str:
    return data_fingerprint(TrainingEvents.of(source, target))


def changed(table: pa.Table, column: str, value: object) -> pa.Table:
    """The table with another value in its second row."""
    values = table[column].to_pylist()
    values[1] = value
    at = table.column_names.index(column)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.types[at]))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("event_id", "another"),
        ("user_id", "u4"),
        ("item_id", "elsewhere"),
        ("event_type", "return"),
        ("value", 7.5),
        ("event_timestamp", day(1.5)),
        ("available_at", day(9)),
    ],
)
def test_a_correction_under_the_same_ids_is_other_data(column, value):
    plain = known_by(SOURCE, TARGET)
    assert known_by(changed(SOURCE, column, value), TARGET) != plain
    assert known_by(SOURCE, changed(TARGET, column, value)) != plain


def test_the_order_of_the_rows_and_how_memory_holds_them_do_not_matter():
    backwards = SOURCE.take(np.arange(len(SOURCE))[::-1])
    in_two = pa.concat_tables([TARGET.slice(0, 1), TARGET.slice(1)])
    assert known_by(backwards, in_two) == known_by(SOURCE, TARGET)
