"""Erased users are in no row, no snapshot and no byte; what does not hold them stays as it is."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from threading import Event

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lake_bytes import warehouse_bytes
from lake_rows import IDS, SCHEMA, event, event_ids, events, layout_in

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.lake import ErasedRows, SyntheticEventLake

LEAVER = "leaver-0f3a"


def rows_of(batch_id: str, users: list[str], *, first: int = 0) -> pa.Table:
    rows = [
        event(
            batch_id,
            slot,
            user_id=user,
            event_id=f"{batch_id}/{user}/{slot}",
            source_event_id=f"source/{user}/{slot}",
        )
        for slot, user in enumerate(users, start=first)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def publish(lake: SyntheticEventLake, batch_id: str, *files: pa.Table) -> int:
    for rows in files:
        lake.write_staged(batch_id, rows)
    return lake.publish(batch_id).snapshot_id


def found_in(layout: Layout, wanted: str) -> set[str]:
    return {name for name, told in warehouse_bytes(layout) if wanted.encode() in told}


def users_of(table: pa.Table) -> list[str]:
    return sorted(table["user_id"].to_pylist())


def test_no_byte_of_an_erased_user_is_left(layout: Layout, lake: SyntheticEventLake) -> None:
    before = publish(lake, "b1", rows_of("b1", ["a", "b"]))
    publish(lake, "b2", rows_of("b2", ["a", LEAVER, "b"]), rows_of("b2", ["b", "b"], first=3))
    publish(lake, "b3", rows_of("b3", [LEAVER, "c"]))
    publish(lake, "b4", rows_of("b4", [LEAVER, LEAVER]))
    lake.retire("b3")
    lake.write_staged("b5", rows_of("b5", [LEAVER, "d"]))
    lake.write_staged("b6", rows_of("b6", ["d"]))
    known = {info.snapshot_id for info in lake.snapshots()}
    assert found_in(layout, LEAVER)

    erased = lake.erase([LEAVER, "nobody"])

    assert found_in(layout, LEAVER) == set()
    assert erased.rows_by_batch == {"b2": 1, "b4": 2}
    assert erased.staged_rows_by_batch == {"b5": 1}
    assert set(erased.expired_snapshots) == known - {before}
    assert erased.snapshot_id == lake.current_snapshot_id()
    assert [info.what for info in lake.snapshots()] == ["published", "erased"]
    assert users_of(lake.read()) == ["a", "a", "b", "b", "b", "b"]
    assert users_of(lake.read(snapshot_id=before)) == ["a", "b"]
    assert {name: batch.rows for name, batch in lake.published_batches().items()} == {
        "b1": 2,
        "b2": 4,
        "b4": 0,
    }
    assert users_of(lake.read_staged("b5")) == ["d"]
    assert lake.publish("b5").rows == 1


def test_erasing_again_changes_nothing(lake: SyntheticEventLake) -> None:
    publish(lake, "b1", rows_of("b1", ["a", LEAVER]))
    lake.erase([LEAVER])
    snapshot = lake.current_snapshot_id()
    assert lake.erase([LEAVER]) == ErasedRows(
        rows_by_batch={},
        staged_rows_by_batch={},
        expired_snapshots=(),
        removed_files=(),
        snapshot_id=snapshot,
    )


def test_erasing_from_an_empty_lake_changes_nothing(lake: SyntheticEventLake) -> None:
    assert lake.erase([LEAVER]).snapshot_id is None
    assert lake.snapshots() == []


def test_the_preview_counts_what_would_go(lake: SyntheticEventLake) -> None:
    publish(lake, "b1", rows_of("b1", ["a", LEAVER, LEAVER]))
    publish(lake, "b2", rows_of("b2", [LEAVER]))
    lake.retire("b2")
    lake.write_staged("b3", rows_of("b3", [LEAVER, "a"]))
    assert lake.erase_preview([LEAVER]) == ({"b1": 2}, {"b3": 1})
    assert lake.read().num_rows == 3


def test_a_compacted_file_loses_only_the_rows(layout: Layout, lake: SyntheticEventLake) -> None:
    for batch_id in ("b1", "b2", "b3"):
        publish(lake, batch_id, rows_of(batch_id, ["a", LEAVER]))
    lake.compact()
    lake.retire("b2")
    assert lake.erase([LEAVER]).rows_by_batch == {"b1": 1, "b3": 1}
    assert event_ids(lake.read()) == ["b1/a/0", "b3/a/0"]
    assert found_in(layout, LEAVER) == set()


def test_integer_ids_are_erased_by_value(layout: Layout) -> None:
    ids = IdTypes(user_id="int64", item_id="int64")
    schema = synthetic_event_schema("int64", "int64")
    rows = [event("b1", slot, user_id=user) for slot, user in enumerate([7, 77, 7, 8])]
    with SyntheticEventLake.open(layout, ids) as lake:
        lake.write_staged("b1", pa.Table.from_pylist(rows, schema=schema))
        lake.publish("b1")
        assert lake.erase([7]).rows_by_batch == {"b1": 2}
        assert sorted(lake.read()["user_id"].to_pylist()) == [8, 77]
        with pytest.raises(DataError, match="user_id is int64"):
            lake.erase(["seven"])


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Lets an erasure break off before it deletes files, as a killed process would."""
    from scalr_ray.lake.files import TableFiles

    state = {"broken": True}
    remove = TableFiles.remove

    def remove_unless_broken(files: TableFiles, location: str) -> bool:
        if state["broken"] and location.endswith(".parquet"):
            raise KeyboardInterrupt
        return remove(files, location)

    monkeypatch.setattr(TableFiles, "remove", remove_unless_broken)
    return state


def test_an_erasure_that_was_cut_off_is_finished_by_the_next(
    layout: Layout, lake: SyntheticEventLake, cut_off: dict[str, bool]
) -> None:
    publish(lake, "b1", rows_of("b1", ["a", LEAVER]))
    with pytest.raises(KeyboardInterrupt):
        lake.erase([LEAVER])
    assert users_of(lake.read()) == ["a"]
    assert found_in(layout, LEAVER)  # no snapshot names the file any more, but it is there
    cut_off["broken"] = False
    assert len(lake.erase([LEAVER]).removed_files) == 1
    assert found_in(layout, LEAVER) == set()


def test_left_overs_that_hold_the_user_go_and_others_stay(local_layout: Layout) -> None:
    with SyntheticEventLake.open(local_layout, IDS) as lake:
        publish(lake, "b1", rows_of("b1", ["a", LEAVER]))
        folder = Path(local_layout.warehouse) / "scalr/synthetic_events/data/b9"
        folder.mkdir()
        pq.write_table(rows_of("b9", [LEAVER]), folder / "part-0.parquet")
        pq.write_table(rows_of("b9", ["a"]), folder / "part-1.parquet")
        shutil.copy(folder / "part-0.parquet", folder / ".part-2.parquet.half")
        cut = (folder / "part-0.parquet").read_bytes()[:-20]
        (folder / ".part-3.parquet.half").write_bytes(cut)
        lake.erase([LEAVER])
        assert [path.name for path in folder.iterdir()] == ["part-1.parquet"]
    assert found_in(local_layout, LEAVER) == set()


def test_rows_published_meanwhile_are_erased_too(
    lake: SyntheticEventLake, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalr_ray.lake.erasing import Erasure

    publish(lake, "b1", rows_of("b1", ["a", LEAVER]))
    lake.write_staged("b2", rows_of("b2", ["a"]))
    expire, late = Erasure._expire, []

    def publish_first(erasure: Erasure, *arguments):
        if not late:
            late.append(1)
            lake.write_staged("b2", rows_of("b2", [LEAVER], first=1))
            lake.publish("b2")
        return expire(erasure, *arguments)

    monkeypatch.setattr(Erasure, "_expire", publish_first)
    assert lake.erase([LEAVER]).rows_by_batch == {"b1": 1, "b2": 1}
    assert found_in(layout, LEAVER) == set()
    assert users_of(lake.read()) == ["a", "a"]


USERS = st.sampled_from(["user-a-x", "user-b-x", "user-c-x"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.lists(USERS, min_size=1, max_size=4)),
        st.tuples(st.just("stage"), st.lists(USERS, min_size=1, max_size=4)),
        st.tuples(st.just("retire"), st.integers(0, 9)),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("erase"), st.lists(USERS, min_size=1, max_size=2)),
    ),
    min_size=1,
    max_size=7,
)


class Expected:
    """A lake, and what must be in it: the users of each batch, and who may be nowhere."""

    def __init__(self, lake: SyntheticEventLake) -> None:
        self.lake = lake
        self.published: dict[str, list[str]] = {}
        self.staged: dict[str, list[str]] = {}
        self.gone: set[str] = set()

    def stage(self, batch_id: str, users: list[str]) -> None:
        self.lake.write_staged(batch_id, rows_of(batch_id, users))
        self.staged[batch_id] = users
        self.gone -= set(users)

    def publish(self, batch_id: str, users: list[str]) -> None:
        self.stage(batch_id, users)
        self.lake.publish(batch_id)
        self.published[batch_id] = self.staged.pop(batch_id)

    def retire(self, _batch_id: str, number: int) -> None:
        if self.published:
            name = sorted(self.published)[number % len(self.published)]
            self.lake.retire(name)
            del self.published[name]

    def compact(self, _batch_id: str, _what: None) -> None:
        self.lake.compact()

    def erase(self, _batch_id: str, users: list[str]) -> None:
        self.lake.erase(users)
        self.gone |= set(users)
        for rows in (self.published, self.staged):
            for batch_id in rows:
                rows[batch_id] = [user for user in rows[batch_id] if user not in users]

    def check(self) -> None:
        lake, published = self.lake, self.published
        assert users_of(lake.read()) == sorted(chain.from_iterable(published.values()))
        noted = {batch.batch_id: batch.rows for batch in lake.published_batches().values()}
        assert noted == {batch_id: len(users) for batch_id, users in published.items()}
        for batch_id, users in self.staged.items():
            assert users_of(lake.read_staged(batch_id)) == sorted(users)
        assert lake.staged_batches() == {name: len(users) for name, users in self.staged.items()}


@settings(max_examples=10)
@given(steps=STEPS)
def test_any_order_of_work_leaves_what_it_should(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]
) -> None:
    layout = layout_in(tmp_path_factory.mktemp("lake"))
    with SyntheticEventLake.open(layout, IDS) as lake:
        expected = Expected(lake)
        for number, (step, what) in enumerate(steps):
            getattr(expected, step)(f"batch{number}", what)
            expected.check()
    for user in expected.gone:
        assert found_in(layout, user) == set()


def test_readers_do_not_notice_erasures(layout: Layout, lake: SyntheticEventLake) -> None:
    publish(lake, "b1", rows_of("b1", [f"user-{number}" for number in range(6)]))
    done = Event()

    def read_on() -> list[int]:
        seen = []
        with SyntheticEventLake.open(layout, IDS) as reader:
            while not done.is_set():
                seen.append(reader.read().num_rows)
        return seen

    with ThreadPoolExecutor(2) as pool:
        reading = [pool.submit(read_on) for _ in range(2)]
        for number in range(5):
            lake.erase([f"user-{number}"])
        done.set()
        for seen in reading:
            assert seen.result() == sorted(seen.result(), reverse=True)
    assert lake.read().num_rows == 1


def test_all_rows_of_a_lake_can_be_erased(lake: SyntheticEventLake) -> None:
    publish(lake, "b1", events("b1", 5))
    assert lake.erase(["u0", "u1", "u2"]).rows_by_batch == {"b1": 5}
    assert lake.read().num_rows == 0
    assert lake.published_batches()["b1"].rows == 0
    lake.retire("b1")
    assert lake.published_batches() == {}
