"""What a mix may ask for, and splits by time, against a brute-force observer."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

import pyarrow as pa
import pytest
from marks import OPENS_FEAST
from mixed_repos import (
    BATCHES,
    DAY,
    FAR,
    HOUR,
    LAST,
    SNAPSHOTS,
    T0,
    build,
    ids,
    known_rows,
    known_snapshot,
    mixed_repo,
    opened_store,
)

from scalr_ray.core.errors import DataError, LeakageError, UsageError
from training import Mix, Negatives
from training.guard import check_clocks

__all__ = ["mixed_repo", "opened_store"]  # fixtures

pytestmark = OPENS_FEAST


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
    assert dataset.manifest["counts"]["real"] == len(real)
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
    told = found.test.manifest
    assert 0 < told["negatives"] < len(test)
    assert told["counts"] == {"real": len(test) - told["negatives"], "synthetic": 0}
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
