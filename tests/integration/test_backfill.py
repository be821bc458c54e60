"""Backfill over rolling origins: what came after a time changes nothing as of that time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from commands import call_scalr
from marks import OPENS_FEAST
from scheduled_runs import DAY, SETTINGS, make_repo, middle_of, mixed_rows, small_log

from scalr_ray import Scalr
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.jobs.backfill import NOTHING_NEW, Origin
from scalr_ray.offline_store.cluster import ray_session

pytestmark = [*OPENS_FEAST, pytest.mark.ray, pytest.mark.usefixtures("one_ray")]

STARTED = datetime.now(UTC)
MICROSECOND = timedelta(microseconds=1)
EVERY = 20 * DAY
LOG = small_log()
FIRST = middle_of(LOG)
ORIGINS = [FIRST, FIRST + EVERY, FIRST + 2 * EVERY]
# Up to here the logs are the same.
SAME_UNTIL = ORIGINS[1] + 7 * DAY


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A repository after its backfill."""

    repo: Path
    origins: list[Origin]


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    with ray_session(2):
        yield


def fill(repo: Path, end: datetime, settings: tuple[str, ...] = ()) -> list[Origin]:
    with Scalr(repo, (*SETTINGS, *settings)) as scalr:
        return scalr.backfill(FIRST, end, "20d")


def verbs(repo: Path) -> list[str]:
    with Scalr(repo, SETTINGS) as scalr:
        return [run.verb for run in scalr.runs(limit=1000)]


def changed_later(events: pa.Table) -> pa.Table:
    """Another future: of what appears after `SAME_UNTIL`, a part is gone, altered, or new."""
    seen = pa.scalar(SAME_UNTIL, events.schema.field("event_timestamp").type)
    later = pc.or_(
        pc.greater_equal(events["event_timestamp"], seen), pc.greater(events["available_at"], seen)
    )
    past, future = events.filter(pc.invert(later)), events.filter(later)
    assert future.num_rows > 100
    third = np.arange(future.num_rows) % 3
    altered = future.filter(pa.array(third == 1))
    items = altered["item_id"].take(pa.array(np.arange(altered.num_rows)[::-1].copy()))
    altered = altered.set_column(altered.schema.get_field_index("item_id"), "item_id", items)
    added = future.filter(pa.array(third == 2))
    names = pc.binary_join_element_wise(added["user_id"], "again", "-")
    added = added.set_column(added.schema.get_field_index("user_id"), "user_id", names)
    return pa.concat_tables([past, future.filter(pa.array(third == 2)), altered, added])


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory) -> Filled:
    repo = make_repo(tmp_path_factory.mktemp("one"), LOG)
    return Filled(repo=repo, origins=fill(repo, ORIGINS[-1]))


@pytest.fixture(scope="module")
def in_two_runs(tmp_path_factory) -> Filled:
    repo = make_repo(tmp_path_factory.mktemp("two"), LOG)
    assert [origin.as_of for origin in fill(repo, ORIGINS[1])] == ORIGINS[:2]
    return Filled(repo=repo, origins=fill(repo, ORIGINS[-1] + DAY))


@pytest.fixture(scope="module")
def of_another_future(tmp_path_factory) -> Filled:
    repo = make_repo(tmp_path_factory.mktemp("other"), changed_later(LOG))
    return Filled(repo=repo, origins=fill(repo, ORIGINS[-1]))


def test_every_origin_is_published_and_told(in_one_go):
    assert [origin.as_of for origin in in_one_go.origins] == ORIGINS
    assert all(origin.published for origin in in_one_go.origins)
    assert len({origin.translator for origin in in_one_go.origins}) == len(ORIGINS)
    first, *later = in_one_go.origins
    assert first.events > 100
    assert all(0 < origin.users < first.users for origin in later)


def test_events_carry_the_origin_and_the_ledger_the_wall_clock(in_one_go):
    with Scalr(in_one_go.repo, SETTINGS) as scalr:
        workspace = scalr._workspace
        rows = workspace.lake.read()
        for origin in in_one_go.origins:
            batch = rows.filter(pc.equal(rows["batch_id"], origin.batch_id))
            assert batch.num_rows == origin.events
            for name in ("available_at", "train_cutoff", "generated_at"):
                assert pc.unique(batch[name]).to_pylist() == [origin.as_of]
            assert pc.max(batch["event_timestamp"]).as_py() < origin.as_of
            assert workspace.ledger.batch(origin.batch_id).created_at > datetime(
                2026, 6, 1, tzinfo=UTC
            )
        assert rows.num_rows == sum(origin.events for origin in in_one_go.origins)
        pairs = rows.group_by(["user_id", "item_id"]).aggregate([([], "count_all")])
        assert pc.max(pairs["count_all"]).as_py() == 1


@pytest.mark.parametrize(
    "as_of",
    [
        FIRST - MICROSECOND,
        FIRST,
        FIRST + 10 * DAY,
        ORIGINS[1] - MICROSECOND,
        ORIGINS[1],
        SAME_UNTIL,
    ],
)
def test_the_mixed_set_is_unchanged_by_anything_that_happened_later(
    in_one_go, of_another_future, as_of
):
    here, there = (mixed_rows(filled.repo, as_of) for filled in (in_one_go, of_another_future))
    assert here == there
    synthetic = sum(bool(row["is_synthetic"]) for row in here)
    published = sum(origin.events for origin in in_one_go.origins if origin.as_of <= as_of)
    assert synthetic == published


def test_what_happened_later_does_change_the_set_of_later(in_one_go, of_another_future):
    here, there = (
        [row["event_id"] for row in mixed_rows(filled.repo, ORIGINS[-1]) if row["is_synthetic"]]
        for filled in (in_one_go, of_another_future)
    )
    assert set(here) != set(there)


def test_one_run_or_two_give_the_same(in_one_go, in_two_runs):
    assert in_one_go.origins == in_two_runs.origins
    end = ORIGINS[-1]
    assert mixed_rows(in_one_go.repo, end) == mixed_rows(in_two_runs.repo, end)


def test_what_is_done_is_not_done_again(in_one_go):
    before = verbs(in_one_go.repo)
    assert before.count("train") == before.count("publish") == len(ORIGINS)
    assert fill(in_one_go.repo, ORIGINS[-1]) == in_one_go.origins
    assert verbs(in_one_go.repo) == before


def test_a_refused_origin_is_told_and_does_not_end_the_run(tmp_path):
    repo = make_repo(tmp_path, LOG)
    strict = ("gate.max_mass_frac=0.00001",)
    refused = fill(repo, ORIGINS[1], strict)
    assert [origin.as_of for origin in refused] == ORIGINS[:2]
    assert all(origin.verdict.startswith("refused: synthetic_mass: ") for origin in refused)
    assert not any(origin.published for origin in refused)
    trained = verbs(repo).count("train")
    assert fill(repo, ORIGINS[1], strict) == refused
    assert verbs(repo).count("train") == trained


def scalr_command(repo: Path, *arguments: str) -> tuple[int, str, str]:
    said = call_scalr(repo, *arguments, settings=SETTINGS)
    return said.code, said.out, said.err


def test_origins_with_too_little_data_are_told(in_one_go):
    first = pc.min(LOG["event_timestamp"]).as_py()
    start, end = ((first - before * DAY).isoformat() for before in (40, 10))
    code, out, err = scalr_command(
        in_one_go.repo, "backfill", "--from", start, "--to", end, "--every", "20d"
    )
    assert code == 3
    assert out.count("too little data: there are no source events before the cut") == 2
    assert "no origin has a published batch; the last: too little data" in err


def test_what_is_broken_ends_the_run_and_is_not_called_too_little_data(tmp_path):
    repo = make_repo(tmp_path, LOG)
    with Scalr(repo, SETTINGS) as scalr:
        folder = Path(scalr.train(FIRST).record.path)
    for table in folder.glob("*.parquet"):
        table.write_bytes(b"half a table")
    code, out, err = scalr_command(
        repo, "backfill", "--from", FIRST.isoformat(), "--to", ORIGINS[1].isoformat(),
        "--every", "20d",
    )  # fmt: skip
    assert code == DataError.exit_code
    assert "run `scalr train` again" in err
    assert "too little data" not in out + err
    assert verbs(repo).count("train") == 1


def test_the_command_ends_with_a_table(in_one_go):
    code, out, err = scalr_command(
        in_one_go.repo, "backfill", "--from", FIRST.isoformat(), "--to", ORIGINS[-1].isoformat(),
        "--every", "480h",
    )  # fmt: skip
    assert code == 0, err
    header, *rows = [line.split() for line in out.splitlines() if line.strip()]
    assert header == ["origin", "translator", "events", "users", "verdict"]
    told = [row for row in rows if "published" in row]
    assert [row[2] for row in told] == [origin.translator for origin in in_one_go.origins]
    assert [row[-1] for row in told] == ["published"] * 3


def test_an_origin_after_which_nothing_came_is_told_so(in_one_go):
    end = pc.max(LOG["available_at"]).as_py()
    with Scalr(in_one_go.repo, SETTINGS) as scalr:
        moment = ORIGINS[-1] + MICROSECOND
        told = scalr.backfill(ORIGINS[-1], moment, timedelta(microseconds=1))
    assert end > moment
    assert [origin.verdict for origin in told] == ["published", NOTHING_NEW]


@pytest.mark.parametrize(
    ("start", "end", "every", "says"),
    [
        (FIRST, FIRST, "7d", "is not before --to"),
        (FIRST, FIRST - DAY, "7d", "swap them"),
        (FIRST, datetime(2199, 1, 1, tzinfo=UTC), "7d", "lies in the future"),
        (FIRST.replace(tzinfo=None), FIRST, "7d", "--from .* has no time zone"),
        ("soon", FIRST, "7d", "--from 'soon' is no ISO 8601 time"),
        (FIRST, "later", "7d", "--to 'later' is no ISO 8601 time"),
        (FIRST, FIRST + DAY, "weekly", "--every 'weekly' is no duration"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused_in_one_line(in_one_go, start, end, every, says):
    with Scalr(in_one_go.repo, SETTINGS) as scalr, pytest.raises(UsageError, match=says) as told:
        scalr.backfill(start, end, every)
    assert "\n" not in told.value.message
