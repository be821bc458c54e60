"""Generation over a real, local Ray: the rows of the kernel, whatever happens to the workers."""

from __future__ import annotations

import shutil
import socket
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
from generation_runs import (
    BrokenTranslator,
    CountingTranslator,
    DoomedTranslator,
    MortalTranslator,
    NumberlessTranslator,
    accepted,
    bucketed,
    by,
    destination,
    expected_rows,
    refinement_of,
    rows_in,
    sorted_rows,
    task_of,
)
from local_ray import local_ray
from ray_processes import kill_one
from small_drawings import SCHEMA, small_drawing
from table_streams import table_stream

from scalr_ray.core.errors import DataError, LeakageError, RetryLater, UsageError
from scalr_ray.generate import (
    Catalogue,
    draw_batch,
    refine,
    refine_batch,
    wanted_rows,
    work_folder,
)
from scalr_ray.generate.buckets import SIDES
from scalr_ray.offline_store.cluster import _join, ray_session
from scalr_ray.translator import Vocabulary

pytestmark = [
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]


@pytest.fixture(scope="module", autouse=True)
def session():
    with local_ray(2):
        yield


@pytest.fixture(scope="module")
def drawing():
    return small_drawing()


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


def draw(drawing, work, *, users=20, on_progress=None, catalogue=None, more=None, **rules):
    work.mkdir(exist_ok=True)
    buckets = bucketed(drawing, work / "buckets", users=users, **(more or {}))
    task = task_of(drawing, buckets, catalogue=catalogue, **rules)
    return draw_batch(task, work, on_progress=on_progress)


def drawn_rows(batch):
    return rows_in(*batch.paths)


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("users", [7, 1000])
def test_files_hold_exactly_the_rows_of_the_kernel(drawing, work, users):
    done = []
    batch = draw(drawing, work, users=users, on_progress=done.append)
    assert drawn_rows(batch).equals(expected_rows(drawing))
    with_source = batch.counts
    assert sum(done) == sum(counts.seen for counts in with_source)
    assert len(done) == len(batch.paths)
    assert (len(batch.paths) == 1) == (users == 1000)
    assert batch.rows == drawn_rows(batch).num_rows
    assert not list(work.rglob(".*"))


def test_shuffled_input_and_an_injected_failure_change_nothing(drawing, work, tmp_path):
    shuffled = replace(
        drawing,
        **{
            side: rows.take(pa.array(np.random.default_rng(3).permutation(rows.num_rows)))
            for side, rows in (("source", drawing.source), ("target", drawing.target))
        },
    )
    marker = tmp_path / "died"
    batch = draw(by(shuffled, MortalTranslator, marker=marker), work)
    assert marker.exists()
    assert drawn_rows(batch).equals(expected_rows(drawing))


def test_a_worker_that_is_killed_is_replaced(drawing, work):
    killed = []

    def kill_an_actor(_users):
        # At first none may be at work: the rows of a bucket are told when its file is whole.
        if not killed and kill_one("Drawer"):
            killed.append(True)

    batch = draw(drawing, work, users=5, on_progress=kill_an_actor)
    assert killed
    assert drawn_rows(batch).equals(expected_rows(drawing))


def test_buckets_made_on_a_cluster_hold_the_same(drawing, tmp_path):
    here = bucketed(drawing, tmp_path / "here", history_events=4)
    there = bucketed(drawing, tmp_path / "there", history_events=4, on_cluster=True)
    assert there.counts == here.counts
    assert here.counts.left_out > 0
    for at in range(here.counts.buckets):
        for side in SIDES[:2]:
            assert sorted_rows(there.read(side, at)).equals(sorted_rows(here.read(side, at)))


def test_rows_drawn_from_a_clusters_buckets_are_the_same(drawing, work):
    batch = draw(drawing, work, more={"on_cluster": True})
    assert drawn_rows(batch).equals(expected_rows(drawing))


def test_a_run_that_ended_early_goes_on_where_it_was(drawing, work, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    # With one bucket to an actor at a time, the third use is that of another bucket.
    failing = by(drawing, CountingTranslator, notes=notes, fails_at=4)
    with pytest.raises(Exception, match="planted"):
        draw(failing, work)
    finished = {name: at for name, at in files_below(work).items() if name.startswith("done/")}
    assert finished
    for note in notes.iterdir():
        note.unlink()
    done = []
    batch = draw(by(drawing, CountingTranslator, notes=notes), work, on_progress=done.append)
    assert drawn_rows(batch).equals(expected_rows(drawing))
    assert len(list(notes.iterdir())) == len(batch.paths) - len(finished)
    now = files_below(work)
    assert {name: now[name] for name in finished} == finished
    assert sum(done) == sum(counts.seen for counts in batch.counts)


def test_a_run_that_is_done_does_nothing_more(drawing, work):
    draw(drawing, work)
    before = files_below(work)
    batch = draw(by(drawing, BrokenTranslator), work)
    assert files_below(work) == before
    assert drawn_rows(batch).equals(expected_rows(drawing))


def test_what_another_run_left_is_removed(tmp_path):
    (work_folder(tmp_path, "old") / "drawn").mkdir()
    kept = work_folder(tmp_path, "new")
    (kept / "drawn").mkdir()
    assert work_folder(tmp_path, "new") == kept
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (kept / "drawn").is_dir()


def test_refused_rows_are_written_aside_with_their_reason(drawing, work):
    floor = replace(drawing, settings=replace(drawing.settings, likelihood_floor=0.04))
    whole = expected_rows(floor)
    batch = draw(floor, work)
    assert drawn_rows(batch).equals(accepted(whole))
    refused = whole.filter(pc.is_valid(whole["reason"]))
    files = [batch.folder.refused(counts.bucket) for counts in batch.counts]
    assert rows_in(*files).equals(refused)
    assert 0 < refused.num_rows < whole.num_rows
    counted = sum((Counter(counts.refused) for counts in batch.counts), Counter())
    assert counted == Counter(refused["reason"].to_pylist())


def test_the_second_pass_stages_what_refinement_makes_of_all_rows(drawing, work, tmp_path):
    floor = replace(drawing, settings=replace(drawing.settings, likelihood_floor=0.03))
    batch, to = draw(floor, work), destination(tmp_path)
    refinement = refinement_of(drawing, batch.paths)
    refined = refine(expected_rows(floor), refinement, SCHEMA)
    done = []
    staged = refine_batch(batch, refinement, SCHEMA, to=to, on_progress=done.append)
    expected = accepted(refined)
    assert rows_in(*to.staged.iterdir()).equals(expected.select(SCHEMA.names))
    assert pq.read_schema(next(to.staged.iterdir())).equals(SCHEMA)
    refused = refined.filter(pc.is_valid(refined["reason"]))
    assert rows_in(*to.refused.iterdir()).equals(refused)
    assert staged.refused == Counter(refused["reason"].to_pylist())
    assert len(staged.refused) > 1
    users = pc.count_distinct(expected["user_id"]).as_py()
    assert (staged.users, staged.events) == (users, expected.num_rows)
    assert sum(done) == sum(counts.seen for counts in batch.counts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch", "rejected", "work"]


def test_a_batch_that_is_staged_again_replaces_what_was_there(drawing, work, tmp_path):
    batch, to = draw(drawing, work), destination(tmp_path)
    to.hidden.staged.mkdir()
    (to.hidden.staged / "part-9.parquet").write_bytes(b"of a crash")
    to.staged.mkdir()
    (to.staged / "part-9.parquet").write_bytes(b"of an earlier run")
    refinement = refinement_of(drawing, batch.paths)
    first = refine_batch(batch, refinement, SCHEMA, to=to)
    rows = rows_in(*to.staged.iterdir())
    assert refine_batch(batch, refinement, SCHEMA, to=to) == first
    assert rows_in(*to.staged.iterdir()).equals(rows)
    assert rows.num_rows == first.events


def test_nothing_is_visible_before_the_second_pass_is_done(drawing, work, tmp_path):
    batch, to = draw(drawing, work), destination(tmp_path)
    visible = []
    refinement = refinement_of(drawing, batch.paths)
    refine_batch(
        batch,
        refinement,
        SCHEMA,
        to=to,
        on_progress=lambda _: visible.append(to.staged.exists() or to.refused.exists()),
    )
    assert visible
    assert not any(visible)


def test_a_batch_that_is_refused_whole_stages_nothing(drawing, work, tmp_path):
    floor = replace(drawing, settings=replace(drawing.settings, likelihood_floor=0.999))
    batch, to = draw(floor, work), destination(tmp_path)
    staged = refine_batch(batch, refinement_of(drawing, batch.paths), SCHEMA, to=to)
    assert (batch.rows, staged.events, staged.users) == (0, 0, 0)
    assert list(to.staged.iterdir()) == []
    assert sum(staged.refused.values()) == expected_rows(floor).num_rows


def test_what_is_told_of_users_reaches_the_kernel(drawing, work):
    items = len(drawing.translator.target_items)
    # Even items for users of group 0, odd ones for those of group 1.
    catalogue = Catalogue(
        item_group=(np.arange(items) % 2).astype(np.int32),
        user_features=("parity",),
        values=Vocabulary(ids=pa.array(["even", "odd"])),
    )

    def is_odd(users):
        return [int(user[-1]) % 2 for user in users.to_pylist()]

    def about(users):
        odd = is_odd(users)
        consents = [None if user.endswith("3") else user[-1] != "5" for user in users.to_pylist()]
        return pa.table({"group": pa.array(odd, pa.int64()), "consent": consents})

    batch = draw(drawing, work, catalogue=catalogue, more={"about": about})
    rows = drawn_rows(batch)
    items = drawing.translator.target_items.codes(rows["item_id"])
    odd = np.array(is_odd(rows["user_id"]), dtype=bool)
    assert (items[odd] % 2 == 1).all()
    assert (items[~odd] % 2 == 0).all()
    assert odd.any()
    assert not odd.all()
    assert not {user[-1] for user in rows["user_id"].to_pylist()} & {"3", "5"}
    everybody = expected_rows(drawing)["user_id"].unique().to_pylist()
    assert batch.without_consent == sum(user[-1] in "35" for user in everybody)


def test_what_was_published_is_not_drawn_again(drawing, work):
    first = expected_rows(drawing)
    published = first.select([field.name for field in drawing.source.schema]).cast(
        drawing.source.schema
    )
    taken = table_stream(published, drawing.settings.as_of + timedelta(days=1))
    batch = draw(drawing, work, more={"taken": taken})
    pairs = [
        set(zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), strict=True))
        for rows in (first, drawn_rows(batch))
    ]
    assert batch.rows > 0
    assert not pairs[0] & pairs[1]


def test_what_is_wanted_is_counted_before_it_is_drawn(drawing, work):
    buckets = bucketed(drawing, work / "buckets")
    assert wanted_rows(task_of(drawing, buckets)) == pc.sum(drawing.plan["slots"]).as_py()


def test_an_error_in_a_worker_ends_the_run(drawing, work):
    with pytest.raises(Exception, match="planted"):
        draw(by(drawing, BrokenTranslator), work)


def test_an_error_for_the_user_comes_back_as_it_is(drawing, work):
    with pytest.raises(DataError, match="run `scalr train` again") as caught:
        draw(by(drawing, NumberlessTranslator), work)
    assert "\n" not in str(caught.value)


def test_a_bucket_that_kills_every_worker_ends_the_run(drawing, work, monkeypatch):
    monkeypatch.setattr("scalr_ray.generate.spread.TASK_RETRIES", 1)
    monkeypatch.setattr("scalr_ray.generate.pipeline._PAUSE_S", 0.0)
    with pytest.raises(RetryLater, match="2 Ray workers died") as caught:
        draw(by(drawing, DoomedTranslator), work, users=1000)
    assert "\n" not in caught.value.message
    assert not list((work / "done").iterdir())


def test_a_translator_from_after_the_generation_time_is_refused_by_its_own_error(drawing, work):
    earlier = replace(drawing.settings, as_of=drawing.settings.as_of - timedelta(days=1))
    with pytest.raises(LeakageError):
        draw(replace(drawing, settings=earlier), work)


def test_too_small_a_disk_is_named_before_anything_is_drawn(drawing, work, monkeypatch):
    work.mkdir()
    bucketed(drawing, work / "buckets")
    usage = shutil.disk_usage(work)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"the events to be drawn take about .* KB in"):
        draw(drawing, work)
    assert not list((work / "done").iterdir())


def test_a_session_that_is_there_is_used_and_kept():
    with ray_session(1):
        assert ray.cluster_resources()["CPU"] == 2
    assert ray.is_initialized()


def test_a_cluster_that_does_not_answer_is_named_at_once():
    with socket.socket() as taken:  # bound and not listening: nobody answers, nobody else gets it
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RetryLater, match=f"{address} does not answer.*unset RAY_ADDRESS"):
            _join(address)
