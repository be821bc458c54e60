"""Mixed training sets from a real repository, against a brute-force observer."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from marks import OPENS_FEAST
from mixed_repos import (
    BATCHES,
    DAY,
    FAR,
    HOUR,
    LAST,
    REAL,
    SYNTHETIC_SCHEMA,
    T0,
    build,
    ids,
    known_rows,
    known_snapshot,
    mixed_repo,
    opened_store,
    synthetic_event,
    table,
)

from scalr_ray.core.errors import DataError, LeakageError, UsageError
from training import Mix
from training.guard import check_published
from training.selection import ROW_COLUMNS, SYNTHETIC_FEATURES, as_rows

__all__ = ["mixed_repo", "opened_store"]  # fixtures

pytestmark = OPENS_FEAST


@pytest.mark.parametrize("seed", range(12))
def test_rows_are_what_an_observer_at_the_cut_held_for_true(store, seed):
    random = np.random.default_rng(seed)
    start = T0 + int(random.integers(0, 8)) * 12 * HOUR
    end = start + int(random.integers(1, 16)) * 12 * HOUR
    as_of = start + int(random.integers(2, 16)) * 12 * HOUR
    dataset = build(store, start=start, end=end, as_of=as_of)
    real = known_rows(REAL, start, end, as_of)
    synthetic = known_rows([*BATCHES["b1"], *BATCHES["b2"]], start, end, as_of)
    rows = {row["event_id"]: row for row in dataset.to_arrow().to_pylist()}
    assert rows.keys() == real.keys() | synthetic.keys()
    for event_id, row in rows.items():
        expected = (real | synthetic)[event_id]
        assert (
            row.items()
            >= {
                name: expected[name] for name in ("user_id", "event_timestamp", "available_at")
            }.items()
        )
        assert row["is_synthetic"] is (event_id in synthetic)
        assert row["sample_weight"] == expected.get("sample_weight", 1.0)
        assert row["likelihood"] == expected.get("likelihood")
        assert row["batch_id"] == expected.get("batch_id")
    assert dataset.manifest["counts"] == {"real": len(real), "synthetic": len(synthetic)}


def test_each_row_is_enriched_as_of_its_own_time(store):
    rows = build(store).to_arrow().to_pylist()
    expected = [known_snapshot(row["user_id"], row["event_timestamp"]) for row in rows]
    assert [row["source_events_7d"] for row in rows] == expected
    assert len(set(expected)) > 10


def test_the_columns_are_those_of_a_row_and_then_the_features(store):
    names = build(store).to_arrow().column_names
    assert tuple(names[: len(ROW_COLUMNS)]) == ROW_COLUMNS
    assert {"source_events_7d", "last_source_items", "target_events_30d"} <= set(names)
    assert len(set(names)) == len(names)


def test_a_late_arrival_enters_when_it_is_known_and_not_before(store):
    late = next(row for row in REAL if row["available_at"] - row["event_timestamp"] >= DAY)
    before, after = late["available_at"] - HOUR, late["available_at"]
    window = {"start": late["event_timestamp"], "end": late["event_timestamp"] + HOUR}
    everything = [row["item_id"] for row in build(store, as_of=after, **window).table.to_pylist()]
    assert late["item_id"] in everything
    try:
        known = build(store, as_of=before, **window).table["item_id"].to_pylist()
    except DataError:
        known = []
    assert late["item_id"] not in known


def test_what_plain_feast_would_return_is_a_leak_to_the_guard(store):
    late = next(row for row in BATCHES["b1"] if row["available_at"] - row["event_timestamp"] >= DAY)
    as_of = late["available_at"] - HOUR
    plain = store.get_historical_features(
        entity_df=None,
        features=[f"synthetic_events:{name}" for name in SYNTHETIC_FEATURES],
        start_date=T0,
        end_date=as_of,
    ).to_arrow()
    leaking = as_rows(plain, weight_scale=1.0)
    assert late["event_id"] in leaking["event_id"].to_pylist()
    assert late["event_id"] not in ids(build(store, as_of=as_of), synthetic=True)
    only = leaking.filter(pc.equal(leaking["event_id"], late["event_id"]))
    with pytest.raises(LeakageError, match=f"^{late['event_id']}, a synthetic event of batch b1"):
        check_published(store, "synthetic_events", only, as_of)


def test_a_published_event_that_its_translator_could_not_have_made_yet_is_a_leak(store):
    window = {"start": FAR - DAY, "end": FAR + DAY, "as_of": FAR + DAY}
    with pytest.raises(LeakageError, match="forged, a synthetic event of batch b3"):
        build(store, **window)
    assert ids(build(store, service="real_only_v1", **window), synthetic=False) == {"far"}


def test_the_same_call_gives_the_same_bytes(repo, store):
    from scalr_ray.offline_store import open_feature_store

    def bytes_of(dataset):
        # not Arrow's own format, which also writes whatever lies in memory behind a null
        sink = pa.BufferOutputStream()
        pq.write_table(dataset.to_arrow(), sink)
        return sink.getvalue().to_pybytes()

    mix = Mix(synthetic_frac=0.2)
    first, second = build(store, mix=mix), build(open_feature_store(repo), mix=mix)
    assert bytes_of(first) == bytes_of(second)
    assert first.to_pandas().equals(second.to_pandas())
    assert first.manifest == second.manifest
    assert json.loads(json.dumps(first.manifest))["events_fingerprint"]


def test_a_smaller_share_of_synthetic_rows_is_part_of_a_larger_one(store):
    kept = []
    for share in (0.0, 0.1, 0.25, 0.4):
        dataset = build(store, mix=Mix(synthetic_frac=share))
        kept.append(ids(dataset, synthetic=True))
        count = dataset.table.num_rows
        assert share * count - 1 < len(kept[-1]) <= share * count
    assert kept[0] < kept[1] < kept[2] < kept[3] < ids(build(store), synthetic=True)


def test_a_share_that_is_not_there_gives_all_there_is(store):
    everything = ids(build(store), synthetic=True)
    assert ids(build(store, mix=Mix(synthetic_frac=0.99)), synthetic=True) == everything


def test_the_weight_scale_touches_synthetic_rows_only(store):
    rows = build(store, mix=Mix(weight_scale=0.5)).table.to_pylist()
    weights = {(row["is_synthetic"], row["sample_weight"]) for row in rows}
    assert weights == {(False, 1.0), (True, 0.25)}


def test_batches_can_be_chosen(store):
    dataset = build(store, mix=Mix(batch_ids=("b2",)))
    assert set(dataset.manifest["batches"]) == {"b2"}
    assert set(build(store).manifest["batches"]) == {"b1", "b2"}
    with pytest.raises(DataError, match="b9"):
        build(store, mix=Mix(batch_ids=("b2", "b9")))


def test_a_service_of_real_events_gets_no_synthetic_ones(store):
    real_only, mixed = build(store, service="real_only_v1"), build(store)
    assert ids(real_only, synthetic=True) == set()
    assert ids(real_only, synthetic=False) == ids(mixed, synthetic=False)
    assert real_only.table.schema == mixed.table.schema


def test_a_trial_replaces_what_is_published(store):
    trial = table([synthetic_event(f"t{n}", "b4", T0 + n * DAY, LAST) for n in range(14)])
    dataset = build(store, end=T0 + 5 * DAY, trial=trial.slice(0, 12))
    assert ids(dataset, synthetic=True) == {f"t{n}" for n in range(5)}
    assert dataset.manifest["trial"] is True
    assert dataset.manifest["batches"] == {"b4": 5}


def test_the_order_of_a_trial_does_not_matter(store):
    trial = table([synthetic_event(f"t{n}", "b4", T0 + n * HOUR, LAST) for n in range(200)])
    shuffled = trial.take(np.random.default_rng(0).permutation(200))
    mix = Mix(synthetic_frac=0.3)
    assert build(store, trial=trial, mix=mix).table.equals(
        build(store, trial=shuffled, mix=mix).table
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"event_timestamp": LAST},
        {"available_at": LAST + timedelta(microseconds=1)},
        {"train_cutoff": LAST + HOUR},
    ],
)
def test_a_trial_that_could_not_have_been_known_is_a_leak(store, changes):
    rows = [synthetic_event("sound", "b4", T0, LAST), synthetic_event("leak", "b4", T0, LAST)]
    with pytest.raises(LeakageError, match="leak, a synthetic event of batch b4"):
        build(store, trial=table([rows[0], rows[1] | changes]))


def test_a_trial_may_not_take_the_id_of_a_real_event(store):
    taken = ids(build(store), synthetic=False).pop()
    with pytest.raises(DataError, match=f"{taken} is there twice"):
        build(store, trial=table([synthetic_event(taken, "b4", T0, LAST)]))


@pytest.mark.parametrize(
    ("more", "error", "word"),
    [
        ({"service": "nothing_v1"}, UsageError, "nothing_v1.*mixed_training_v1"),
        ({"service": "translator_inputs_v1"}, UsageError, "only adds features"),
        ({"start": T0.replace(tzinfo=None)}, UsageError, "start .*time zone"),
        ({"as_of": LAST.replace(tzinfo=None)}, UsageError, "as_of .*time zone"),
        ({"start": LAST}, UsageError, "not before end"),
        ({"as_of": T0}, UsageError, "not before as_of"),
        (
            {"start": T0 - 9 * DAY, "end": T0, "as_of": T0},
            DataError,
            "no events before the cut: target_events",
        ),
        (
            {"service": "real_only_v1", "trial": SYNTHETIC_SCHEMA.empty_table()},
            UsageError,
            "real events only",
        ),
        (
            {"mix": Mix(batch_ids=("b1",)), "trial": SYNTHETIC_SCHEMA.empty_table()},
            UsageError,
            "not both",
        ),
        ({"trial": table(BATCHES["b1"]).drop_columns(["likelihood"])}, DataError, "likelihood"),
    ],
)
def test_a_call_that_cannot_be_answered_says_why(store, more, error, word):
    with pytest.raises(error, match=word):
        build(store, **more)


def test_importing_the_pull_does_not_import_feast():
    code = (
        "import sys; from training import Mix, MixedDataset, build_mixed_dataset; "
        "sys.exit('feast' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
