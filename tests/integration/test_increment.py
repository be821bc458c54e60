"""Scheduled runs over one repository: only what is new, nothing twice, what is stale by policy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from commands import call_scalr
from marks import OPENS_FEAST
from scheduled_runs import DAY, SETTINGS, TIME, import_into, make_repo, middle_of, small_log

from scalr_ray.core.layout import Layout
from scalr_ray.jobs import increment
from scalr_ray.jobs.generate import generate
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.release import gate
from scalr_ray.jobs.train import train
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState
from scalr_ray.offline_store.cluster import ray_session
from scalr_ray.translator import load_translator
from scalr_ray.translator.protocol import log_softmax, mask_entries

pytestmark = [*OPENS_FEAST, pytest.mark.ray, pytest.mark.usefixtures("one_ray")]

MICROSECOND = timedelta(microseconds=1)
LOG = small_log(users=300)  # enough for the evidence to show
T1 = middle_of(LOG)
LAG = 10 * DAY
STRICT = ("gate.max_mass_frac=0.00001",)
REPLACE = ("increment.stale=replace", "increment.retrain_days=1")
# The published runs that used the translator of the first.
BY_THE_FIRST = ("first", "loaded", "late", "corrected", "accepted after all")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run: what it said, and how things stood after it."""

    as_of: datetime
    code: int
    told: dict
    err: str
    since: dict[str, datetime]
    watermarks: dict[str, datetime]
    verbs: list[str]

    @property
    def batch_id(self) -> str:
        return self.told["record"]["batch_id"]


@dataclass(frozen=True, kw_only=True)
class Journey:
    """A repository that was run again and again."""

    repo: Path
    steps: dict[str, Step] = field(default_factory=dict)

    def opened(self, *settings: str) -> closing[Workspace]:
        return closing(Workspace(self.repo, (*SETTINGS, *settings), Progress()))

    def run(self, name: str, as_of: datetime, *settings: str) -> None:
        """Call `scalr run`, and keep what became of it."""
        with self.opened() as workspace:
            since = workspace.ledger.watermarks()
        said = call_scalr(
            self.repo,
            *("--json", "run", "--as-of", as_of.isoformat()),
            settings=(*SETTINGS, *settings),
        )
        with self.opened() as workspace:
            self.steps[name] = Step(
                as_of=as_of,
                code=said.code,
                told=json.loads(said.out or "{}"),
                err=said.err,
                since=since,
                watermarks=workspace.ledger.watermarks(),
                verbs=[run.verb for run in reversed(workspace.ledger.runs(limit=1000))],
            )

    def batch(self, name: str) -> pa.Table:
        with self.opened() as workspace:
            batch = workspace.ledger.batch(self.steps[name].batch_id)
            if batch.snapshot_id is None:
                return workspace.lake.read_staged(batch.batch_id)
            # What was replaced since is gone from the table, but not from the snapshot it came in.
            return workspace.lake.read(snapshot_id=batch.snapshot_id, batch_ids=[batch.batch_id])

    def sources(self) -> pa.Table:
        return ds.dataset(Layout.of(self.repo).events("source_events")).to_table()

    def new_at(self, name: str) -> dict[str, str]:
        """By brute force: the source events (id to user) that were new to a run."""
        step = self.steps[name]
        return {
            row["event_id"]: row["user_id"]
            for row in self.sources().to_pylist()
            if max(row["event_timestamp"] + MICROSECOND, row["available_at"]) <= step.as_of
            and max(row["event_timestamp"] + MICROSECOND, row["available_at"])
            > step.since[row["domain"]]
        }


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    with ray_session(2):
        yield


def arrives_late(known: datetime) -> pa.Table:
    """An event of long ago, by a user nobody has heard of, that becomes known now."""
    row = LOG.filter(pc.equal(LOG["domain"], "books")).slice(0, 1).to_pylist()[0]
    row |= {"user_id": "latecomer", "event_timestamp": T1 - 30 * DAY, "available_at": known}
    others = LOG.filter(pc.less(LOG["event_timestamp"], pa.scalar(T1 - 30 * DAY, TIME)))
    late = pa.Table.from_pylist([row], schema=LOG.schema)
    return pa.concat_tables([others, late])  # a log needs events of every domain


def correct(repo: Path, known: datetime) -> str:
    """Record an event again under its id, as a store may that takes corrections; returns the id."""
    folder = Layout.of(repo).events("source_events")
    books = ds.dataset(folder).to_table(filter=ds.field("domain") == "books")
    row = books.sort_by([("event_timestamp", "ascending"), ("event_id", "ascending")]).slice(0, 1)
    place = row.schema.get_field_index("available_at")
    again = row.set_column(place, row.schema.field(place), pa.array([known], TIME))
    pq.write_table(again, folder / "part-corrected.parquet")
    return row["event_id"][0].as_py()


@pytest.fixture(scope="module")
def journey(tmp_path_factory) -> Journey:
    lagging = pc.and_(
        pc.equal(LOG["domain"], "games"),
        pc.greater_equal(LOG["event_timestamp"], pa.scalar(T1 - LAG, TIME)),
    )
    repo = make_repo(tmp_path_factory.mktemp("runs"), LOG.filter(pc.invert(lagging)))
    journey = Journey(repo=repo)
    journey.run("first", T1)
    journey.run("again", T1)
    import_into(repo, LOG)  # the games that had happened by T1 and were not loaded yet
    journey.run("loaded", T1)
    import_into(repo, arrives_late(T1 + DAY))
    journey.run("late", T1 + DAY)
    correct(repo, T1 + 2 * DAY)
    journey.run("corrected", T1 + 2 * DAY)
    journey.run("refused", T1 + 3 * DAY, *STRICT)
    journey.run("refused again", T1 + 3 * DAY, *STRICT)
    journey.run("accepted after all", T1 + 3 * DAY)
    journey.run("older", T1 + 8 * DAY)
    journey.run("replaced", T1 + 10 * DAY, *REPLACE)
    journey.run("replaced again", T1 + 10 * DAY, *REPLACE)
    return journey


def only_new(journey: Journey, name: str) -> None:
    """A batch holds events for what was new, for those who had it, triggered by it."""
    new, batch = journey.new_at(name), journey.batch(name)
    assert batch.num_rows == journey.steps[name].told["record"]["rows"] > 0
    assert set(batch["source_event_id"].to_pylist()) <= set(new)
    assert set(batch["user_id"].to_pylist()) <= set(new.values())


def test_the_first_run_trains_and_is_for_everybody(journey):
    step = journey.steps["first"]
    assert (step.code, step.since) == (0, {})
    assert step.told["record"]["state"] == "published"
    assert step.told["sentence"].endswith("synthetic events")
    assert step.verbs[-4:] == ["train", "generate", "gate", "publish"]
    assert step.watermarks.keys() == {"books", "games"}
    assert T1 - 5 * DAY < step.watermarks["books"] <= T1
    assert step.watermarks["games"] < T1


def test_without_anything_new_nothing_is_done_and_nothing_failed(journey):
    first, again = journey.steps["first"], journey.steps["again"]
    assert again.code == 0
    assert again.told["sentence"].startswith("nothing new since ")
    assert again.told["record"] is None
    assert (again.verbs, again.watermarks) == (first.verbs, first.watermarks)


def test_a_domain_that_is_loaded_late_is_caught_up_with(journey):
    first, step = journey.steps["first"], journey.steps["loaded"]
    only_new(journey, "loaded")
    games = journey.sources().filter(pc.equal(journey.sources()["domain"], "games"))
    assert set(journey.batch("loaded")["source_event_id"].to_pylist()) <= set(
        games["event_id"].to_pylist()
    )
    assert step.watermarks["games"] > first.watermarks["games"]
    assert step.watermarks["books"] == first.watermarks["books"]


def test_a_young_translator_is_used_again(journey):
    versions = {journey.steps[name].told["record"]["translator_version"] for name in BY_THE_FIRST}
    assert len(versions) == 1
    assert journey.steps["accepted after all"].verbs.count("train") == 1


def proposed_before(journey: Journey, name: str) -> set[tuple[str, str]]:
    """The pairs of the batches that a run adds to."""
    earlier = BY_THE_FIRST[: BY_THE_FIRST.index(name)]
    pairs = [journey.batch(one).select(["user_id", "item_id"]).to_pylist() for one in earlier]
    return {(row["user_id"], row["item_id"]) for rows in pairs for row in rows}


def test_a_batch_is_drawn_under_the_prior_of_its_time(journey):
    # By its definition: log prior_t + alpha * evidence, over what the user has not and was not
    # proposed; the evidence is that of the training, three days older than the prior.
    name = "accepted after all"
    step, batch, before = journey.steps[name], journey.batch(name), proposed_before(journey, name)
    with journey.opened() as workspace:
        record = workspace.ledger.translator(step.told["record"]["translator_version"])
        events = workspace.training_events(step.as_of)
    model = load_translator(Path(record.path))
    assert record.train_cutoff < step.as_of
    items = model.target_items.ids.to_pylist()
    prior = model.mix.of_counts(*counted(journey, items, step.as_of, model.mix.windows_days))
    assert not np.allclose(prior, model.prior, rtol=1e-3)
    coded = events.under(model.source_items, model.target_items)
    ids = sorted(set(batch["user_id"].to_pylist()))
    users = coded.known(coded.users.codes(pa.array(ids)), step.as_of)
    with np.errstate(divide="ignore"):
        scores = np.log(prior)[None, :] + model.alpha * model.evidence(users)
    scores /= model.temperature
    mask_entries(scores, users.own.incidence(len(prior)))
    for user, item in before:
        if user in ids:
            scores[ids.index(user), model.target_items.ids.index(item).as_py()] = -np.inf
    likelihood = np.exp(log_softmax(scores))
    for row in batch.to_pylist():
        at = model.target_items.ids.index(row["item_id"]).as_py()
        assert row["likelihood"] == pytest.approx(
            likelihood[ids.index(row["user_id"]), at], rel=1e-4
        )


def counted(
    journey: Journey, items: list[str], as_of: datetime, look_backs: tuple[int | None, ...]
) -> tuple[list, list]:
    """Pairs by the first event that is visible, in each look-back: by brute force."""
    rows = ds.dataset(Layout.of(journey.repo).events("target_events")).to_table().to_pylist()
    firsts: dict[tuple[str, str], tuple[datetime, datetime]] = {}
    for row in rows:
        happened, known = row["event_timestamp"], row["available_at"]
        if happened < as_of and known <= as_of:
            pair, appears = (row["user_id"], row["item_id"]), max(happened + MICROSECOND, known)
            firsts[pair] = min(firsts.get(pair, (happened, appears)), (happened, appears))
    windows = [
        [
            item
            for (_, item), (_, appears) in firsts.items()
            if days is None or appears > as_of - days * DAY
        ]
        for days in look_backs
    ]
    counts = [np.array([window.count(item) for item in items]) for window in windows]
    return counts, [np.array(len(window)) for window in windows]


def test_an_event_of_long_ago_that_arrives_now_is_new(journey):
    only_new(journey, "late")
    batch = journey.batch("late")
    mine = batch.filter(pc.equal(batch["user_id"], "latecomer"))
    assert mine.num_rows > 0
    new = journey.new_at("late")
    assert {new[event] for event in mine["source_event_id"].to_pylist()} == {"latecomer"}


def test_an_event_that_was_corrected_is_new_again(journey):
    only_new(journey, "corrected")
    batch, sources = journey.batch("corrected"), journey.sources()
    known = pc.equal(sources["available_at"], pa.scalar(T1 + 2 * DAY, TIME))
    (corrected,) = sources.filter(known).to_pylist()
    mine = batch.filter(pc.equal(batch["user_id"], corrected["user_id"]))
    assert corrected["event_id"] in mine["source_event_id"].to_pylist()


def test_nobody_is_ever_proposed_an_item_twice_by_one_translator(journey):
    tables = [journey.batch(name) for name in BY_THE_FIRST]
    pairs = pa.concat_tables(tables).group_by(["user_id", "item_id"]).aggregate([([], "count_all")])
    assert pairs.num_rows > 500
    assert pc.max(pairs["count_all"]).as_py() == 1


def test_a_refused_batch_moves_no_watermark_and_is_not_made_again(journey):
    before, refused = journey.steps["corrected"], journey.steps["refused"]
    assert refused.code == 3
    assert refused.told["record"]["state"] == "rejected"
    assert "the gate refused the batch: synthetic_mass" in refused.err
    assert refused.watermarks == before.watermarks
    again = journey.steps["refused again"]
    assert again.code == 3
    assert f"{refused.batch_id} was refused by the gate (synthetic_mass" in again.err
    assert again.verbs == refused.verbs


def test_what_was_refused_is_taken_up_by_the_next_batch(journey):
    step = journey.steps["accepted after all"]
    assert step.code == 0
    assert step.since == journey.steps["corrected"].watermarks
    assert step.watermarks["books"] > step.since["books"]


def test_an_old_translator_gives_way_and_its_events_stay(journey):
    before, step = journey.steps["accepted after all"], journey.steps["older"]
    assert step.code == 0
    assert step.verbs.count("train") == 2
    assert step.told["record"]["translator_version"] != before.told["record"]["translator_version"]
    assert step.told["retired"] == []


def test_under_the_other_policy_everybody_gets_new_events_and_the_old_are_retired(journey):
    before, step = journey.steps["older"], journey.steps["replaced"]
    assert step.code == 0
    assert step.verbs.count("train") == 3
    retired = {journey.steps[name].batch_id for name in BY_THE_FIRST} | {before.batch_id}
    assert set(step.told["retired"]) == retired
    batch = journey.batch("replaced")
    assert set(batch["user_id"].to_pylist()) > {"latecomer"}
    with journey.opened() as workspace:
        ledger = {batch.batch_id: batch.state for batch in workspace.ledger.batches()}
        assert {name for name, state in ledger.items() if state is BatchState.RETIRED} == retired
        assert set(workspace.lake.published_batches()) == {step.batch_id}


def test_what_was_replaced_is_not_replaced_again_without_news(journey):
    step, again = journey.steps["replaced"], journey.steps["replaced again"]
    assert again.code == 0
    assert again.told["sentence"].startswith("nothing new since ")
    assert again.verbs == step.verbs
    assert again.watermarks == step.watermarks


@pytest.mark.parametrize("died_after", ["accepting", "publishing", "retiring"])
def test_a_replacement_that_was_cut_off_is_brought_to_its_end(tmp_path, died_after):
    journey = Journey(repo=make_repo(tmp_path, LOG))
    journey.run("first", T1)
    old = journey.steps["first"].batch_id
    with journey.opened(*REPLACE) as workspace:
        as_of = T1 + 10 * DAY
        version = train(workspace, as_of=as_of).record.version
        new = generate(workspace, translator=version).record.batch_id
        workspace.ledger.replace_batches(new, [old])
        assert gate(workspace, batch_id=new).accepted
        if died_after != "accepting":
            workspace.lake.publish(new)
            workspace.ledger.move_batch(new, expected=BatchState.ACCEPTED, to=BatchState.PUBLISHED)
            assert set(workspace.lake.published_batches()) == {old, new}  # more, never less
        if died_after == "retiring":
            workspace.lake.retire(old)
        outcome = increment.run(workspace, as_of)
        assert outcome.sentence.startswith("nothing new since ")
        assert workspace.ledger.batch(old).state is BatchState.RETIRED
        assert workspace.ledger.batch(new).state is BatchState.PUBLISHED
        assert set(workspace.lake.published_batches()) == {new}
        assert workspace.ledger.watermarks() == workspace.ledger.batch_watermarks(new)


def test_a_translator_that_was_trained_by_hand_is_used(tmp_path):
    journey = Journey(repo=make_repo(tmp_path, LOG))

    def by_hand(as_of: datetime) -> str:
        with journey.opened() as workspace:
            return train(workspace, as_of=as_of).record.version

    first = by_hand(T1 - 2 * DAY)
    journey.run("first", T1)
    second = by_hand(T1 + DAY)
    journey.run("second", T1 + 2 * DAY)
    third = by_hand(T1 + 3 * DAY)
    journey.run("third", T1 + 4 * DAY, "increment.stale=replace")
    steps = [journey.steps[name] for name in ("first", "second", "third")]
    assert [step.code for step in steps] == [0, 0, 0]
    assert [step.told["record"]["translator_version"] for step in steps] == [first, second, third]
    assert steps[-1].verbs.count("train") == 3  # all of them by hand
    assert steps[0].watermarks["books"] > T1 - DAY  # as of the run, not of the translator
    only_new(journey, "second")
    everybody, later = journey.batch("first"), journey.batch("third")
    assert set(later["user_id"].to_pylist()) >= set(everybody["user_id"].to_pylist())
    assert set(steps[-1].told["retired"]) == {step.batch_id for step in steps[:2]}
