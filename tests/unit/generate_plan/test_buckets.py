"""What lies in buckets, and what is refused before any is made."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_worlds import day, event_table
from table_streams import table_stream

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.generate import bucketing
from scalr_ray.generate.bucketing import bucket_events
from scalr_ray.generate.buckets import ABOUT, SIDES, SOURCE, TAKEN, TARGET, BucketRules, Buckets

CUT = day(50)


def rules(**changes):
    given = {
        "ids": IdTypes(),
        "as_of": CUT,
        "source_domains": ("books",),
        "target_domain": "music",
        "history_events": 1000,
        "users_per_bucket": 10,
    }
    return BucketRules(**(given | changes))


def events(users=100, each=3, domain="books", happened=1):
    return event_table(
        [(f"u{user:04d}", f"i{at}", happened) for user in range(users) for at in range(each)],
        domain,
    )


def make(folder, source=None, target=None, *, taken=None, about=None, **changes):
    source = events() if source is None else source
    target = events(domain="music", each=1) if target is None else target
    streams = {"taken": None if taken is None else table_stream(taken, CUT)}
    return bucket_events(
        table_stream(source, CUT),
        table_stream(target, CUT),
        rules(**changes),
        folder,
        about=about,
        **streams,
    )


def read_all(buckets, side):
    return pa.concat_tables([buckets.read(side, at) for at in range(buckets.counts.buckets)])


def ids(table):
    return sorted(table["event_id"].to_pylist())


def test_every_event_lies_in_one_bucket_and_a_user_in_the_same_on_every_side(tmp_path):
    published = events(domain="music", each=2, happened=3)
    made = make(tmp_path, taken=published)
    assert made.counts.buckets == 10
    assert (made.counts.users, made.counts.source_events, made.counts.left_out) == (100, 300, 0)
    assert ids(read_all(made, SOURCE)) == ids(events())
    assert ids(read_all(made, TARGET)) == ids(events(domain="music", each=1))
    assert ids(read_all(made, TAKEN)) == ids(published)
    for at in range(10):
        users = [set(made.read(side, at)["user_id"].to_pylist()) for side in SIDES]
        assert users[0] == users[1] == users[2] != set()


def test_only_what_is_visible_in_the_configured_domains_is_there(tmp_path):
    late = event_table([("u1", "late", 3, 51), ("u1", "cut", 50), ("u1", "seen", 4)], "books", "x")
    other = event_table([("u1", "other", 3)], "films")
    made = make(tmp_path, pa.concat_tables([events(), late, other]))
    extra = set(ids(read_all(made, SOURCE))) - set(ids(events()))
    assert extra == {"x-00002"}


def test_no_room_is_left_after_an_event_in_the_last_microsecond(tmp_path):
    moment = (CUT - timedelta(microseconds=1) - day(0)) / timedelta(days=1)
    last = event_table([("u1", "last", moment)], "books", "x")
    assert last["event_timestamp"][0].as_py() == CUT - timedelta(microseconds=1)
    made = make(tmp_path, pa.concat_tables([events(), last]))
    assert ids(read_all(made, SOURCE)) == ids(events())


def test_a_bucket_is_read_from_few_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("scalr_ray.generate.buckets._LEAST_GROUP_ROWS", 2048)
    made = make(tmp_path, events(users=5000, each=5), users_per_bucket=50)
    (file,) = (tmp_path / SOURCE).iterdir()
    assert pq.read_metadata(file).num_row_groups > 10
    assert ids(read_all(made, SOURCE)) == ids(events(users=5000, each=5))


def test_rows_bound_a_bucket_too(tmp_path):
    made = make(tmp_path, users_per_bucket=1000, rows_per_bucket=30)
    assert made.counts.buckets == 10


def test_a_user_with_too_many_events_keeps_the_newest_and_the_others_are_counted(tmp_path):
    many = event_table([("bot", f"i{at}", at / 1000) for at in range(5000)], "books", "x")
    made = make(tmp_path, pa.concat_tables([events(), many]), history_events=7)
    assert made.counts.left_out == 4993
    kept = set(ids(read_all(made, SOURCE))) - set(ids(events()))
    assert kept == {f"x-{at:05d}" for at in range(4993, 5000)}


def test_repeats_do_not_take_the_place_of_what_they_repeat(tmp_path):
    repeats = [("bot", "same", 1 + at) for at in range(20)]
    many = event_table([*repeats, ("bot", "other", 2), ("bot", "third", 3)], "books", "x")
    made = make(tmp_path, pa.concat_tables([events(), many]), history_events=2)
    kept = set(ids(read_all(made, SOURCE))) - set(ids(events()))
    assert kept == {"x-00020", "x-00021"}  # the first of "same" is older than both
    assert made.counts.left_out == 1 + 100  # and of each other user one of three


def pairs(table):
    return set(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))


def test_what_a_user_owns_or_was_proposed_is_kept_however_old(tmp_path):
    owned = event_table([("bot", f"o{at % 50}", at) for at in range(1, 49)], "music", "o")
    proposed = event_table([("bot", f"p{at % 30}", at / 10) for at in range(300)], "music", "p")
    made = make(tmp_path, target=owned, taken=proposed, history_events=4)
    assert pairs(read_all(made, TARGET)) == pairs(owned)
    assert pairs(read_all(made, TAKEN)) == pairs(proposed)
    assert read_all(made, TAKEN).num_rows == 30  # repeats are not kept
    assert made.counts.left_out == 0


def test_an_item_whose_first_event_was_corrected_away_is_still_owned(tmp_path):
    rows = [("bot", "mine", 1, 1), ("bot", "mine", 5, 5), ("bot", "other", 2, 9)]
    rows += [("bot", f"i{at}", 6, 6) for at in range(5)]
    bot = event_table(rows, "music", "o")
    # The first is recorded again, as one of another item.
    names = ["again", "o-00001", "again", *bot["event_id"].to_pylist()[3:]]
    bot = bot.set_column(0, bot.schema.field(0), pa.array(names))
    made = make(tmp_path, target=bot, history_events=3)
    kept = pairs(read_all(made, TARGET))
    assert {item for _, item in kept} == {"mine", "other", *(f"i{at}" for at in range(5))}


def test_integer_ids_meet_whatever_their_width(tmp_path):
    def narrow(table, kind):
        digits = pc.utf8_slice_codeunits(table["user_id"], 1).cast(kind)
        return table.set_column(table.schema.get_field_index("user_id"), "user_id", digits)

    made = make(
        tmp_path,
        narrow(events(), pa.int32()),
        narrow(events(domain="music"), pa.int64()),
        ids=IdTypes(user_id="int64"),
    )
    for at in range(made.counts.buckets):
        source, target = made.read(SOURCE, at), made.read(TARGET, at)
        assert source.schema.field("user_id").type == pa.int64()
        assert set(source["user_id"].to_pylist()) == set(target["user_id"].to_pylist())


def test_what_is_told_of_users_lies_beside_their_events(tmp_path, monkeypatch):
    monkeypatch.setattr(bucketing, "_ASKED_AT_ONCE", 7)
    asked = []

    def about(users):
        asked.append(users.to_pylist())
        return pa.table({"group": [int(user[1:]) for user in users.to_pylist()]})

    made = make(tmp_path, about=about)
    told = [user for users in asked for user in users]
    assert sorted(told) == sorted(set(events()["user_id"].to_pylist()))
    for at in range(made.counts.buckets):
        rows = made.read(ABOUT, at).to_pylist()
        assert {row["user_id"] for row in rows} == set(made.read(SOURCE, at)["user_id"].to_pylist())
        assert all(row["group"] == int(row["user_id"][1:]) for row in rows)


def test_many_users_are_asked_about_some_buckets_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(bucketing, "_ASKED_AT_ONCE", 20_000)
    source, asked = events(users=70_000, each=4), []

    def about(users):
        asked.append(len(users))
        return pa.table({"group": pa.nulls(len(users), pa.int64())})

    made = make(tmp_path, source, users_per_bucket=1000, about=about)
    assert sum(asked) == 70_000
    assert len(asked) > 1
    for at in range(made.counts.buckets):
        told = made.read(ABOUT, at)["user_id"].to_pylist()
        assert sorted(told) == sorted(set(made.read(SOURCE, at)["user_id"].to_pylist()))


def test_buckets_that_were_made_are_not_made_again(tmp_path):
    first = make(tmp_path)
    again = make(tmp_path, events(users=3))
    assert again.counts == first.counts
    assert ids(read_all(again, SOURCE)) == ids(events())


def test_half_made_buckets_are_made_anew(tmp_path):
    make(tmp_path)
    (tmp_path / "buckets.json").unlink()
    (tmp_path / SOURCE / "part-00000007.parquet").write_bytes(b"half written")
    assert ids(read_all(make(tmp_path, events(users=3)), SOURCE)) == ids(events(users=3))
    assert Buckets.found(tmp_path).counts.users == 3


def test_a_source_domain_without_events_is_named_with_those_that_are_there(tmp_path):
    with pytest.raises(DataError, match=r"no events of source domain 'films'.*are there: books"):
        make(tmp_path, source_domains=("books", "films"))
    assert Buckets.found(tmp_path) is None


def test_no_source_events_at_all_are_refused(tmp_path):
    with pytest.raises(DataError, match="are there: none"):
        make(tmp_path, events().slice(0, 0))


@pytest.mark.parametrize("kind", ["synthetic", "synthetic_negative"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_synthetic_events_are_never_translated(tmp_path, kind, side):
    rows = events(domain="books" if side == "source" else "music")
    types = pa.array(["view"] * 299 + [kind])
    rows = rows.set_column(rows.schema.get_field_index("event_type"), "event_type", types)
    with pytest.raises(DataError, match=r"1 synthetic events in domain .*remove them"):
        make(tmp_path, **{side: rows})
    assert list(tmp_path.iterdir()) == []


def test_no_target_events_leave_that_side_without_rows(tmp_path):
    made = make(tmp_path, target=events(domain="music").slice(0, 0))
    assert read_all(made, TARGET).num_rows == 0
    assert made.read(TAKEN, 0) is None


def test_too_small_a_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"take about 24 KB .* where 1 KB are free") as caught:
        make(tmp_path)
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_what_is_counted_is_written_down_as_json(tmp_path):
    make(tmp_path)
    told = json.loads((tmp_path / "buckets.json").read_text())
    assert told == {"buckets": 10, "users": 100, "source_events": 300, "left_out": 0}
