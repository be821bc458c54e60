"""Comparing training sets, against sets of pairs."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from training.comparison import compare
from training.dataset import MixedDataset

weights = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.5, 1.0]))


def dataset(weighted, **manifest):
    table = pa.table(
        {
            "event_id": pa.array(list(weighted), pa.string()),
            "sample_weight": pa.array(list(weighted.values()), pa.float64()),
        }
    )
    return MixedDataset(table=table, manifest=manifest)


@given(one=weights, two=weights)
def test_events_are_counted_as_sets_are(one, two):
    found = compare(("a", "b"), (dataset(one), dataset(two)))
    assert found.only == (len(one.keys() - two.keys()), len(two.keys() - one.keys()))
    assert found.common == len(one.keys() & two.keys())
    assert found.reweighted == sum(one[key] != two[key] for key in one.keys() & two.keys())
    assert bool(found) is (one != two)


def test_manifests_are_told_apart_key_by_key():
    one = dataset({}, mix={"frac": 0.1, "scale": 1}, batches={}, same=[1])
    two = dataset({}, mix={"frac": 0.2, "scale": 1}, batches={"b": 3}, same=[1], long="x" * 99)
    found = compare(("a", "b"), (one, two))
    assert dict(found.manifest) == {
        "mix.frac": (0.1, 0.2),
        "batches.b": (None, 3),
        "long": (None, "x" * 99),
    }


def test_a_difference_prints_as_a_table():
    one = dataset({"e": 1.0, "f": 1.0}, mix={"frac": 0.1}, long=None)
    two = dataset({"e": 0.5}, mix={"frac": 0.25}, long="x" * 99)
    assert str(compare(("march", "april"), (one, two))).splitlines() == [
        "                      march  april",
        "mix.frac              0.1    0.25",
        f"long                  -      {'x' * 37}...",
        "events only here      1      0",
        "events in both        1",
        "  with other weights  1",
    ]
