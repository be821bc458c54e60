"""Selecting rows, and the proof that none of them leaks, on plain tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalr_ray.core.errors import DataError, LeakageError, UsageError
from scalr_ray.core.events import WEIGHT_FACTORS, synthetic_event_schema
from training.guard import check_clocks, check_distinct, check_lineage
from training.manifest import sorted_ids
from training.mixed import Mix
from training.selection import Window, as_rows, of_batches, thinned

T0 = datetime(2026, 3, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
HOUR = timedelta(hours=1)


def events(*changes):
    """Synthetic events, each sound as of T0 but for what is changed."""
    sound = {
        "user_id": "u",
        "item_id": 7,
        "domain": "target",
        "event_type": None,
        "event_timestamp": T0 - HOUR,
        "available_at": T0,
        "value": None,
        "batch_id": "b",
        "translator_version": "v",
        "train_cutoff": T0 - HOUR,
        "likelihood": 0.5,
        "propensity": 0.5,
        "label": 1.0,
        "sample_weight": 0.5,
        **dict.fromkeys(WEIGHT_FACTORS, 1.0),
        "source_event_id": None,
        "generated_at": T0,
    }
    rows = [{"event_id": f"e{n}", **sound, **change} for n, change in enumerate(changes)]
    return pa.Table.from_pylist(rows, schema=synthetic_event_schema("string", "int64"))


def rows(*changes):
    return as_rows(events(*changes), weight_scale=1.0)


def ids(table):
    return table["event_id"].to_pylist()


def test_a_window_ends_at_its_end_or_at_the_cut_whichever_is_first():
    window = Window.of(T0, T0 + 3 * HOUR, T0 + 2 * HOUR)
    assert window.stop == T0 + 2 * HOUR
    moments = [T0 - TICK, T0, T0 + 2 * HOUR - TICK, T0 + 2 * HOUR]
    found = window.inside(events(*[{"event_timestamp": moment} for moment in moments]))
    assert ids(found) == ["e1", "e2"]


def test_known_means_strictly_before_and_available_by_the_cut():
    window = Window.of(T0 - HOUR, T0, T0)
    found = window.known(
        events(
            {},
            {"event_timestamp": T0 - TICK},
            {"event_timestamp": T0},
            {"available_at": T0 + TICK},
        )
    )
    assert ids(found) == ["e0", "e1"]


def test_real_rows_weigh_one_and_come_from_no_batch():
    row = as_rows(events({}), weight_scale=None).to_pylist()[0]
    assert (row["is_synthetic"], row["sample_weight"]) == (False, 1.0)
    assert (row["likelihood"], row["batch_id"], row["train_cutoff"]) == (None, None, None)


def test_real_and_synthetic_rows_have_one_schema():
    real, synthetic = (as_rows(events({}), weight_scale=scale) for scale in (None, 0.5))
    assert real.schema == synthetic.schema
    assert synthetic["sample_weight"].to_pylist() == [0.25]


@settings(deadline=None)
@given(
    st.lists(st.text(max_size=4), unique=True, max_size=40),
    st.floats(0, 0.9),
    st.integers(0, 50),
    st.randoms(use_true_random=False),
)
def test_thinning_depends_on_the_ids_alone(names, share, real_count, random):
    table = pa.table({"event_id": pa.array(names, pa.string())})
    shuffled = pa.table({"event_id": pa.array(random.sample(names, len(names)), pa.string())})
    kept = ids(thinned(table, share, real_count))
    assert set(kept) == set(ids(thinned(shuffled, share, real_count)))
    if real_count:
        assert len(kept) <= share * (len(kept) + real_count) + 1e-6
    if len(kept) < len(names):
        assert len(kept) + 1 > share * (len(kept) + 1 + real_count) - 1e-6


def test_no_share_keeps_all():
    table = pa.table({"event_id": ["a", "b"]})
    assert ids(thinned(table, None, 0)) == ["a", "b"]


def test_a_batch_without_events_is_named():
    table = events({}, {"batch_id": "c"})
    assert ids(of_batches(table, ("c",))) == ["e1"]
    with pytest.raises(DataError, match="batch x"):
        of_batches(table, ("c", "x"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"synthetic_frac": 1.0},
        {"synthetic_frac": -0.1},
        {"synthetic_frac": float("nan")},
        {"weight_scale": -1.0},
        {"weight_scale": float("nan")},
        {"weight_scale": float("inf")},
        {"synthetic_count": -1},
        {"synthetic_count": 1, "synthetic_frac": 0.1},
        {"segment_weights": {}},
        {"segment_weights": {1: 1.0}},
        {"segment_weights": {0: -1.0}},
        {"batch_ids": "b1"},
        {"source_domains": "books"},
        {"drop_columns": "age"},
        {"holdout_frac": 1.1},
    ],
)
def test_a_mix_without_meaning_is_refused(arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        Mix(**arguments)


def test_rows_that_could_have_been_known_pass_the_guard():
    sound = rows({}, {"event_timestamp": T0 - TICK}, {"train_cutoff": T0})
    check_clocks(sound, T0)
    check_lineage(sound)
    check_distinct(sorted_ids(sound["event_id"]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"event_timestamp": T0}, "had not happened"),
        ({"available_at": T0 + TICK}, "was not known"),
    ],
)
def test_a_row_beyond_a_clock_is_a_leak(change, reason):
    with pytest.raises(
        LeakageError, match=f"e1, a synthetic event of batch b, {reason}.*rows like it: 1"
    ):
        check_clocks(rows({}, change), T0)


def test_a_real_row_beyond_a_clock_is_a_leak():
    with pytest.raises(LeakageError, match="e0, a real event"):
        check_clocks(as_rows(events({"event_timestamp": T0}), weight_scale=None), T0)


def test_an_event_older_than_its_translator_is_a_leak():
    with pytest.raises(LeakageError, match=r"e1.* of the translator"):
        check_lineage(rows({}, {"train_cutoff": T0 + TICK}))


def test_an_id_that_is_there_twice_is_refused():
    with pytest.raises(DataError, match="e0 is there twice"):
        check_distinct(sorted_ids(rows({}, {"event_id": "e0"}, {"event_id": "a"})["event_id"]))


def test_an_id_that_is_lacking_twice_is_refused():
    with pytest.raises(DataError, match="None is there twice"):
        check_distinct(pa.array(["e0", None, None]))
