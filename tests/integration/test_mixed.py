"""Mixed training sets from a real repository, against a brute-force observer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError, LeakageError, UsageError
from scalr_ray.core.events import TIMESTAMP, WEIGHT_FACTORS, event_schema, synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake
from training import Mix, Negatives, build_mixed_dataset
from training.guard import check_clocks, check_published
from training.selection import ROW_COLUMNS, SYNTHETIC_FEATURES, as_rows

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
T0 = datetime(2026, 3, 1, tzinfo=UTC)
LAST = T0 + 12 * DAY
# Far from every other event, so that only the test that looks there meets what is wrong with it.
FAR = T0 + 400 * DAY

pytestmark = [
    pytest.mark.feast,
    # Feast and its dependencies warn about their own future; none of it is ours to mend
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:feast"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def happening(random, n):
    """A moment on a coarse grid, so that ties and equal bounds occur; half arrive late."""
    when = T0 + int(random.integers(0, 24)) * 12 * HOUR
    return when, when + int(random.integers(0, 5)) * 12 * HOUR * (n % 2)


def real_events():
    random = np.random.default_rng(1)
    rows = []
    for n in range(150):
        when, known = happening(random, n)
        rows.append(
            {
                # some ids come twice, as an event and its correction
                "event_id": f"r{n % 130}",
                "user_id": f"u{random.integers(6)}",
                "item_id": f"i{n}",
                "domain": "target",
                "event_type": "click",
                "event_timestamp": when,
                "available_at": known,
                "value": float(n),
            }
        )
    return rows


def synthetic_event(event_id, batch_id, when, known, **changes):
    return {
        "event_id": event_id,
        "user_id": "u1",
        "item_id": f"i-{event_id}",
        "domain": "target",
        "event_type": "synthetic",
        "event_timestamp": when,
        "available_at": known,
        "value": 1.0,
        "batch_id": batch_id,
        "translator_version": "v1",
        "train_cutoff": min(when, known),
        "likelihood": 0.25,
        "propensity": 0.5,
        "label": 1.0,
        "sample_weight": 0.5,
        **dict.fromkeys(WEIGHT_FACTORS, 1.0),
        "source_event_id": None,
        "generated_at": known,
        **changes,
    }


def synthetic_events(batch_id, count, seed):
    random = np.random.default_rng(seed)
    rows = [
        synthetic_event(f"{batch_id}-{n}", batch_id, *happening(random, n)) for n in range(count)
    ]
    for n, row in enumerate(rows):
        row["user_id"] = f"u{n % 8}"  # two of them have no real event
        row["source_event_id"] = f"s-{('books', 'films')[n % 3 % 2]}-{n % 2}"
    return rows


def user_snapshots():
    random = np.random.default_rng(4)
    moments = [(f"u{n % 6}", *happening(random, n)) for n in range(40)]
    return [
        {
            "user_id": user,
            "event_timestamp": when,
            "available_at": known,
            "source_events_7d": n,
            "source_events_30d": n,
            "source_events_90d": n,
            "source_events_total": n,
            "days_since_last_source_event": 1.0,
            "distinct_source_items": n,
            "last_source_items": ["x"],
        }
        for n, (user, when, known) in enumerate(moments)
    ]


def source_events():
    """Two of each domain, of which one becomes known days later."""
    return [
        {
            "event_id": f"s-{domain}-{late}",
            "user_id": "u1",
            "item_id": "x",
            "domain": domain,
            "event_type": "click",
            "event_timestamp": T0 - DAY,
            "available_at": T0 + late * 6 * DAY,
            "value": 1.0,
        }
        for domain in ("books", "films")
        for late in range(2)
    ]


REAL = real_events()
BATCHES = {"b1": synthetic_events("b1", 60, 2), "b2": synthetic_events("b2", 40, 3)}
SNAPSHOTS = user_snapshots()
SYNTHETIC_SCHEMA = synthetic_event_schema("string", "string")


def table(rows, schema=SYNTHETIC_SCHEMA):
    return pa.Table.from_pylist(rows, schema=schema)


def write_part(folder: Path, rows: pa.Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / "part-0.parquet")


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    repo = tmp_path_factory.mktemp("mixed") / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    layout = Layout.of(repo)
    layout.data.mkdir()
    far = {"event_timestamp": FAR, "available_at": FAR}
    real = [*REAL, REAL[0] | far | {"event_id": "far"}]
    write_part(layout.events("target_events"), table(real, event_schema("string", "string")))
    sources = table(source_events(), event_schema("string", "string"))
    write_part(layout.events("source_events"), sources)
    snapshots = pa.Table.from_pylist(SNAPSHOTS)
    for place, name in ((1, "event_timestamp"), (2, "available_at")):
        snapshots = snapshots.set_column(place, name, snapshots[name].cast(TIMESTAMP))
    write_part(layout.features("user_source_features"), snapshots)
    with SyntheticEventLake.open(layout, IdTypes()) as lake:
        # it says that it was known at once, but its translator had seen a week more
        forged = synthetic_event("forged", "b3", FAR, FAR, train_cutoff=FAR + 7 * DAY)
        for batch_id, rows in {**BATCHES, "b3": [forged]}.items():
            lake.write_staged(batch_id, table(rows))
            lake.publish(batch_id)
    applied = subprocess.run(
        [Path(sys.executable).parent / "feast", "apply"],
        cwd=repo,
        env=os.environ | {"FEAST_USAGE": "False"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert applied.returncode == 0, applied.stdout + applied.stderr
    return repo


@pytest.fixture
def store(repo):
    from scalr_ray.offline_store import open_feature_store

    return open_feature_store(repo)


def build(store, *, service="mixed_training_v1", start=T0, end=LAST, as_of=LAST, **more):
    return build_mixed_dataset(store, service=service, start=start, end=end, as_of=as_of, **more)


def ids(dataset, *, synthetic):
    return {
        row["event_id"]
        for row in dataset.to_arrow().to_pylist()
        if row["is_synthetic"] is synthetic
    }


def known_rows(rows, start, end, as_of):
    """What an observer at `as_of` holds for true, event by event."""
    latest = {}
    for row in rows:
        if row["event_timestamp"] < as_of and row["available_at"] <= as_of:
            version = (row["event_timestamp"], row["available_at"], row["item_id"])
            best = latest.get(row["event_id"])
            if best is None or version[:2] >= (best["event_timestamp"], best["available_at"]):
                latest[row["event_id"]] = row
    return {
        event_id: row for event_id, row in latest.items() if start <= row["event_timestamp"] < end
    }


def known_snapshot(user, when):
    visible = [
        row
        for row in SNAPSHOTS
        if row["user_id"] == user and row["event_timestamp"] <= when and row["available_at"] <= when
    ]
    best = max(
        visible,
        key=lambda row: (row["event_timestamp"], row["available_at"], row["source_events_7d"]),
        default={"source_events_7d": None},
    )
    return best["source_events_7d"]


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


def test_the_latest_batch_is_the_one_that_became_available_last(store):
    for as_of in (T0 + 2 * DAY, T0 + 6 * DAY, LAST):
        known = known_rows([*BATCHES["b1"], *BATCHES["b2"]], T0, LAST, as_of).values()
        _, newest = max((row["available_at"], row["batch_id"]) for row in known)
        found = build(store, as_of=as_of, mix=Mix(batch_ids="latest"))
        assert found.manifest["batches"].keys() == {newest}
    nothing = {"start": FAR - DAY, "end": FAR + DAY, "as_of": FAR + DAY}
    with pytest.raises(LeakageError):  # the forged batch is the latest one there
        build(store, **nothing, mix=Mix(batch_ids="latest"))


def test_a_number_of_synthetic_rows_can_be_asked_for(store):
    kept = [
        ids(build(store, mix=Mix(synthetic_count=count)), synthetic=True)
        for count in (0, 10, 30, 999)
    ]
    assert [len(found) for found in kept[:3]] == [0, 10, 30]
    assert kept[0] < kept[1] < kept[2] < kept[3] == ids(build(store), synthetic=True)


def test_weights_fade_with_what_a_user_has_done(store):
    steps = {0: 1.0, 10: 0.5, 22: 0.125}
    plain, faded = build(store), build(store, mix=Mix(segment_weights=steps))
    counts = Counter(row["user_id"] for row in plain.table.to_pylist() if not row["is_synthetic"])
    assert {bound for bound in steps if any(n >= bound for n in counts.values())} == set(steps)
    for before, after in zip(plain.table.to_pylist(), faded.table.to_pylist(), strict=True):
        multiple = steps[max(bound for bound in steps if bound <= counts[before["user_id"]])]
        expected = before["sample_weight"] * (multiple if before["is_synthetic"] else 1.0)
        assert after == before | {"sample_weight": expected}


def test_source_domains_can_be_chosen(store):
    everything = {row["event_id"]: row for batch in BATCHES.values() for row in batch}

    def found(*domains):
        return ids(build(store, mix=Mix(source_domains=domains)), synthetic=True)

    books, films = found("books"), found("films")
    assert books
    assert films
    assert {everything[name]["source_event_id"][:7] for name in books} == {"s-books"}
    assert books | films == found("books", "films") == ids(build(store), synthetic=True)
    with pytest.raises(DataError, match="'music'; there is books, films"):
        found("music")
    # an event that became known days later is no source yet
    early = build(store, as_of=T0 + 5 * DAY, mix=Mix(source_domains=("books",)))
    assert all(
        everything[name]["source_event_id"] == "s-books-0" for name in ids(early, synthetic=True)
    )


def test_users_who_are_held_out_get_no_synthetic_rows(store):
    def users(share, salt=""):
        mix = Mix(holdout_frac=share, holdout_salt=salt)
        rows = build(store, mix=mix).table.to_pylist()
        assert {row["user_id"] for row in rows if not row["is_synthetic"]} == {
            f"u{n}" for n in range(6)
        }
        return {row["user_id"] for row in rows if row["is_synthetic"]}

    everybody = users(0.0)
    assert len(everybody) == 8
    kept = [users(share) for share in (0.25, 0.5, 0.75, 1.0)]
    assert everybody >= kept[0] >= kept[1] >= kept[2] >= kept[3] == set()
    assert kept[1] not in (everybody, set())
    assert len({frozenset(users(0.5, salt)) for salt in "abcd"}) > 1


def test_label_and_weight_are_called_as_asked_and_features_that_shift_are_left_out(store):
    mix = Mix(label_column="clicked", weight_column="w", drop_columns=("source_events_7d",))
    plain, called = build(store).table, build(store, mix=mix).table
    names = {"label": "clicked", "sample_weight": "w"}
    expected = plain.drop_columns(["source_events_7d"])
    assert called.equals(
        expected.rename_columns([names.get(name, name) for name in expected.column_names])
    )
    with pytest.raises(UsageError, match="'likelihood', which is no feature of mixed_training_v1"):
        build(store, mix=Mix(drop_columns=("likelihood",)))
    with pytest.raises(UsageError, match="another column is called 'user_id'"):
        build(store, mix=Mix(label_column="user_id"))


@pytest.mark.parametrize("by", ["popularity", "uniform"])
def test_negatives_are_drawn_from_what_was_known_at_the_time(store, by):
    mix = Mix(negatives=Negatives(per_event=3, by=by, seed=4))
    dataset = build(store, mix=mix)
    rows = dataset.table.to_pylist()
    real = {row["event_id"]: row for row in rows if row["label"] == 1 and not row["is_synthetic"]}
    drawn = [row for row in rows if row["label"] == 0]
    assert dataset.manifest["negatives"] == len(drawn) > 2 * len(real)
    assert dataset.manifest["mix"]["negatives"] == {"per_event": 3, "by": by, "seed": 4}
    assert len(
        {(row["event_id"][: row["event_id"].index("~")], row["item_id"]) for row in drawn}
    ) == len(drawn)
    for row in drawn:
        event = real[row["event_id"].split("~")[0]]
        when = event["event_timestamp"]
        known = [
            other
            for other in real.values()
            if other["event_timestamp"] < when and other["available_at"] <= when
        ]
        assert row["item_id"] in {other["item_id"] for other in known}
        taken = {other["item_id"] for other in known if other["user_id"] == event["user_id"]}
        assert row["item_id"] not in {*taken, event["item_id"]}
        assert row["user_id"] == event["user_id"]
        assert row["event_timestamp"] == when
        assert row["source_events_7d"] == known_snapshot(row["user_id"], when)
    assert build(store, mix=mix).table.equals(dataset.table)


def impressions(**changes):
    usual = {"event_timestamp": T0 + DAY, "available_at": T0 + DAY, "user_id": "u2"}
    rows = [usual | {"event_id": f"n{n}", "item_id": f"i{n}"} for n in range(4)]
    return pa.Table.from_pylist([*rows[:3], rows[3] | changes])


def test_negatives_can_be_given(store):
    dataset = build(
        store, mix=Mix(negatives=impressions(event_timestamp=LAST - HOUR)), end=T0 + 2 * DAY
    )
    found = [row for row in dataset.table.to_pylist() if row["label"] == 0]
    assert [(row["event_id"], row["sample_weight"]) for row in found] == [
        ("n0", 1.0), ("n1", 1.0), ("n2", 1.0),
    ]  # fmt: skip
    assert {row["source_events_7d"] for row in found} == {known_snapshot("u2", T0 + DAY)}
    assert json.dumps(dataset.manifest)
    with pytest.raises(LeakageError, match=r"^n3, a real event, was not known by"):
        build(store, mix=Mix(negatives=impressions(available_at=LAST + HOUR)))
    with pytest.raises(DataError, match="no column 'available_at'"):
        build(store, mix=Mix(negatives=impressions().drop_columns(["available_at"])))
    with pytest.raises(DataError, match="do not fit real events"):
        build(store, mix=Mix(negatives=impressions().set_column(0, "event_timestamp", [["x"] * 4])))


@pytest.mark.parametrize("embargo", [timedelta(0), DAY])
def test_a_split_trains_on_what_was_known_and_tests_on_what_came_after(store, embargo):
    cut = T0 + 5 * DAY
    dataset = build(store, mix=Mix(negatives=Negatives(per_event=1)))
    found = dataset.split(cut, embargo=embargo)
    train, test, out = set(), set(), Counter()
    for row in dataset.table.to_pylist():
        if row["event_timestamp"] < cut and row["available_at"] <= cut:
            train.add(row["event_id"])
        elif row["event_timestamp"] < cut:
            out["late"] += 1
        elif row["is_synthetic"]:
            out["synthetic"] += 1
        elif row["event_timestamp"] < cut + embargo:
            out["embargo"] += 1
        else:
            test.add(row["event_id"])
    assert set(found.train.table["event_id"].to_pylist()) == train
    assert set(found.test.table["event_id"].to_pylist()) == test
    assert found.left_out == {"late": 0, "synthetic": 0, "embargo": 0} | out
    assert (out["embargo"] > 0) is (embargo > timedelta(0))
    check_clocks(found.train.table, cut)  # nothing of the future is in it
    assert found.train.manifest["as_of"] == cut.isoformat()
    assert found.test.manifest["counts"] == {"real": len(test), "synthetic": 0}
    assert found.test.manifest["split"]["left_out"] == found.left_out
    assert json.dumps(found.train.manifest)


@pytest.mark.parametrize(
    ("mix", "at", "embargo", "error", "word"),
    [
        (Mix(), T0, timedelta(0), UsageError, "where the set lies"),
        (Mix(), LAST, timedelta(0), UsageError, "where the set lies"),
        (Mix(), (T0 + DAY).replace(tzinfo=None), timedelta(0), UsageError, "at .*time zone"),
        (Mix(), T0 + DAY, -HOUR, UsageError, "0 or longer"),
        (Mix(), T0 + DAY, 20 * DAY, DataError, "test part has no row"),
        (Mix(segment_weights={0: 1.0}), T0 + DAY, timedelta(0), UsageError, "pull two sets"),
    ],
)
def test_a_split_that_would_not_be_one_is_refused(store, mix, at, embargo, error, word):
    with pytest.raises(error, match=word):
        build(store, mix=mix).split(at, embargo=embargo)


def test_features_that_plain_feast_gives_without_the_flag_are_leaks(store):
    rows = build(store).table
    plain = store.get_historical_features(
        entity_df=rows.select(["event_id", "user_id", "item_id", "event_timestamp"]),
        features=store.get_feature_service("mixed_training_v1"),
    ).to_arrow()
    leaked = 0
    for row, theirs in zip(rows.to_pylist(), plain["source_events_7d"].to_pylist(), strict=True):
        sound = known_snapshot(row["user_id"], row["event_timestamp"])
        assert row["source_events_7d"] == sound
        if theirs != sound:  # a snapshot that nobody had yet
            leaked += 1
            (snapshot,) = [one for one in SNAPSHOTS if one["source_events_7d"] == theirs]
            assert snapshot["available_at"] > row["event_timestamp"]
    assert leaked > 10


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
