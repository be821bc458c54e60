"""Generation over a real, local Ray: the rows of the kernel, whatever happens to the tasks."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from small_drawings import SCHEMA, listed, small_drawing, with_column
from small_worlds import day, event_table

from scalr_ray.core.errors import DataError, LeakageError, RetryLater
from scalr_ray.generate import GeneratedBatch, generate_batch, plan_users
from scalr_ray.generate.draw import BELOW_FLOOR
from scalr_ray.generate.pipeline import Destination
from scalr_ray.learn import TrainingEvents
from scalr_ray.offline_store.cluster import _join, ray_session
from scalr_ray.translator import FrequencyTranslator

pytestmark = [
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]


# Workers cannot import this file: its classes travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module", autouse=True)
def session():
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:  # sockets have short paths
        before = os.environ.get("RAY_TMPDIR")
        os.environ["RAY_TMPDIR"] = short
        try:
            with ray_session(2):
                yield
        finally:
            os.environ.pop("RAY_TMPDIR")
            if before is not None:
                os.environ["RAY_TMPDIR"] = before


@pytest.fixture(scope="module")
def drawing():
    return small_drawing()


@pytest.fixture
def to(tmp_path):
    return Destination(staged=tmp_path / "staged", refused=tmp_path / "refused")


def generate(drawing, to, *, users_per_task=40, on_progress=None, **changes):
    return generate_batch(
        drawing.plan,
        drawing.translator,
        replace(drawing.settings, **changes),
        SCHEMA,
        to=to,
        users_per_task=users_per_task,
        on_progress=on_progress,
    )


def rows_in(folder):
    """All rows in order of user; within a user they stand in order of slot."""
    files = sorted(folder.iterdir())
    assert all(path.name.startswith("part-") for path in files)
    return pa.concat_tables([pq.read_table(path) for path in files])


def contents(to):
    return {
        path.relative_to(to.staged.parent).as_posix(): path.read_bytes()
        for folder in (to.staged, to.refused)
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("users_per_task", [7, 1000])
def test_files_hold_exactly_the_rows_of_the_kernel(drawing, to, users_per_task):
    done = []
    batch = generate(drawing, to, users_per_task=users_per_task, on_progress=done.append)
    expected = drawing.draw().select(SCHEMA.names)
    assert rows_in(to.staged).equals(expected)
    assert pq.read_schema(next(to.staged.iterdir())).equals(SCHEMA)
    users = drawing.plan.num_rows
    assert batch == GeneratedBatch(users=users, events=expected.num_rows, refused={})
    assert sum(done) == users
    assert len(done) == -(-users // users_per_task) == len(list(to.staged.iterdir()))
    assert list(to.refused.iterdir()) == []


def test_refused_rows_are_written_aside_with_their_reason(drawing, to):
    whole = drawing.draw(likelihood_floor=0.04)
    below = pa.array([reason is not None for reason in whole["reason"].to_pylist()])
    batch = generate(drawing, to, likelihood_floor=0.04)
    kept = whole.filter(pa.compute.invert(below)).select(SCHEMA.names)
    assert rows_in(to.staged).equals(kept)
    assert rows_in(to.refused).equals(whole.filter(below))
    refused = whole.num_rows - kept.num_rows
    assert 0 < refused < whole.num_rows
    assert (batch.events, batch.refused) == (kept.num_rows, {BELOW_FLOOR: refused})


def test_a_batch_that_is_refused_whole_stages_nothing(drawing, to):
    batch = generate(drawing, to, likelihood_floor=0.999)
    assert (batch.users, batch.events) == (drawing.plan.num_rows, 0)
    assert list(to.staged.iterdir()) == []
    assert sum(batch.refused.values()) == drawing.draw().num_rows


def test_nobody_to_draw_for_leaves_empty_folders(drawing, to):
    nobody = replace(drawing, plan=drawing.plan.slice(0, 0))
    assert generate(nobody, to) == GeneratedBatch(users=0, events=0, refused={})
    assert contents(to) == {}
    assert to.staged.is_dir()


def test_users_who_own_everything_count_as_done_but_not_as_drawn_for(drawing, to):
    rankable = [at for at, can in enumerate(drawing.translator.rankable) if can]
    owned = [[event["item"] for event in row] for row in drawing.plan["own"].to_pylist()]
    owned[0] = owned[3] = rankable
    done = []
    sated = replace(drawing, plan=with_column(drawing.plan, "own", listed(owned)))
    batch = generate(sated, to, on_progress=done.append)
    assert batch.users == drawing.plan.num_rows - 2
    assert sum(done) == drawing.plan.num_rows


@dataclass(frozen=True, kw_only=True)
class MortalTranslator(FrequencyTranslator):
    """Ends its worker process at its first use in it, half-way through a file; the marker tells."""

    marker: Path
    staged: Path

    def log_lift(self, history, own):
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return FrequencyTranslator.log_lift(self, history, own)
        (self.staged / ".part-000000000000.parquet.half").write_bytes(b"PAR1 and then nothing")
        os._exit(1)


@dataclass(frozen=True, kw_only=True)
class DoomedTranslator(FrequencyTranslator):
    """Ends every worker process that uses it."""

    def log_lift(self, *_):
        os._exit(1)


@dataclass(frozen=True, kw_only=True)
class BrokenTranslator(FrequencyTranslator):
    """Cannot be used at all."""

    def log_lift(self, *_):
        raise ZeroDivisionError("planted")


def as_kind(kind, translator, **more):
    own = {field.name: getattr(translator, field.name) for field in fields(translator)}
    return kind(**own, **more)


def test_a_worker_that_dies_neither_loses_nor_doubles_rows(drawing, to, tmp_path):
    marker = tmp_path / "died"
    mortal = as_kind(MortalTranslator, drawing.translator, marker=marker, staged=to.staged)
    batch = generate(drawing.by(mortal), to, users_per_task=20)
    assert marker.exists()
    assert rows_in(to.staged).equals(drawing.draw().select(SCHEMA.names))
    assert batch.events == drawing.draw().num_rows


def test_an_error_in_a_task_ends_the_run(drawing, to):
    broken = as_kind(BrokenTranslator, drawing.translator)
    with pytest.raises(Exception, match="planted"):
        generate(drawing.by(broken), to)


def test_a_task_that_kills_every_worker_ends_the_run(drawing, to, monkeypatch):
    monkeypatch.setattr("scalr_ray.generate.pipeline._TASK_RETRIES", 1)
    doomed = as_kind(DoomedTranslator, drawing.translator)
    with pytest.raises(RetryLater, match="2 Ray workers died") as caught:
        generate(drawing.by(doomed), to, users_per_task=1000)
    assert "\n" not in caught.value.message
    assert list(to.staged.glob("part-*")) == []


def test_leftovers_of_an_interrupted_run_do_not_show(drawing, to):
    generate(drawing, to, likelihood_floor=0.04)
    clean = contents(to)
    first = sorted(to.staged.iterdir())[0]
    first.with_name("part-000000999999.parquet").write_bytes(first.read_bytes())
    first.write_bytes(b"cut short")
    (to.staged / ".part-000000000007.parquet.1234").write_bytes(b"half written")
    next(to.refused.iterdir()).unlink()
    generate(drawing, to, likelihood_floor=0.04)
    assert contents(to) == clean


def test_a_plan_of_other_events_is_refused_before_anything_is_touched(drawing, to):
    to.staged.mkdir()
    (to.staged / "part-0.parquet").write_bytes(b"of an earlier run")
    other = TrainingEvents.of(event_table([("u", "a", 0)], "b"), event_table([("u", "c", 0)], "m"))
    mixed = replace(drawing, plan=plan_users(other, day(3), decay_events=1.0))
    with pytest.raises(DataError, match="run `scalr train` again") as caught:
        generate(mixed, to)
    assert "\n" not in str(caught.value)
    assert [path.name for path in to.staged.iterdir()] == ["part-0.parquet"]


def test_a_translator_from_after_the_generation_time_is_refused_by_its_own_error(drawing, to):
    with pytest.raises(LeakageError):
        generate(drawing, to, as_of=drawing.settings.as_of - timedelta(days=1))


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
