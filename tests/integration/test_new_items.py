"""Items that nobody has touched: proposed by what Feast tells of them, to those who like such."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from marks import OPENS_FEAST
from scheduled_runs import SETTINGS, TIME, make_repo

from scalr_ray.gate import Check
from scalr_ray.jobs.evaluate import evaluate
from scalr_ray.jobs.generate import Increment, generate
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.release import gate, publish
from scalr_ray.jobs.train import train
from scalr_ray.jobs.translators import TranslatorThen
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.learn.neural import fit as fitting
from scalr_ray.offline_store.cluster import ray_session
from scalr_ray.offline_store.pull import pull_known

pytestmark = [*OPENS_FEAST, pytest.mark.ray, pytest.mark.usefixtures("one_ray")]

DEFINITIONS = '''
"""What the shop knows of its films."""

from datetime import timedelta
from pathlib import Path

from entities import item
from feast import FeatureService, FeatureView, Field, FileSource
from feast.types import String

films = FeatureView(
    name="shop_films",
    entities=[item],
    ttl=timedelta(0),
    schema=[Field(name="kind", dtype=String)],
    source=FileSource(
        name="shop_films_source",
        path=str(Path(__file__).parent.parent / "films.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="available_at",
    ),
)
films_v1 = FeatureService(name="shop_films_v1", features=[films])
'''
NEURAL = (
    *SETTINGS,
    "generation.per_user=20",
    "prior.window_days=90",  # a shop without fads: what is told apart here is evidence
    "translator.kind=neural",
    "translator.neural.item_features=shop_films_v1",
    "translator.neural.workers=0",
    "translator.neural.width=16",
    "translator.neural.length=16",
    "translator.neural.learning_rate=0.02",
    "translator.neural.batch_rows=64",
    "translator.neural.epochs=4",
    "translator.neural.id_dropout=0.3",
    "evaluation.seeds=1",
    "evaluation.bootstrap=50",
)
USERS, KINDS, EACH = 240, 4, 6
DAY = timedelta(days=1)
START = datetime.fromisoformat("2024-01-01T00:00:00+00:00")
CUT = START + 120 * DAY
LATER = CUT + 5 * DAY
# The first hundred watched nothing before the cut: somebody to draw for.
NEWCOMERS = 100
WATCHED = (101, 105)


def user(number: int) -> str:
    return f"u{number:03d}"


def kind_of(number: int) -> int:
    return number % KINDS


def log() -> pa.Table:
    """Who reads books of a kind watches films of the kind."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(USERS):
        for domain, days in (("books", 125), ("games", 125), ("films", 150)):
            start = 121 if domain == "films" and number < NEWCOMERS else 0
            for at in draw.uniform(start, days, 8):
                item = kind_of(number) * EACH + int(draw.integers(EACH))
                rows.append((user(number), f"{domain}-{item}", domain, START + float(at) * DAY))
    # Two users who have watched a film after the cut that the training has never seen.
    rows += [(user(number), "new-1", "films", CUT + DAY) for number in WATCHED]
    columns = zip(*rows, strict=True)
    users, items, domains, times = map(list, columns)
    happened = pa.array(times, TIME)
    return pa.table(
        {
            "user_id": users, "item_id": items, "domain": domains,
            "event_type": ["view"] * len(rows),
            "event_timestamp": happened, "available_at": happened,
            "value": pa.nulls(len(rows), pa.float64()),
        }
    )  # fmt: skip


def told() -> pa.Table:
    """The kind of every film, of films that nobody has watched, and of what must not be reached."""
    rows = [(f"films-{item}", f"kind {item // EACH}", START, START) for item in range(KINDS * EACH)]
    rows += [(f"new-{kind}", f"kind {kind}", CUT - 10 * DAY, CUT - 9 * DAY) for kind in range(4)]
    rows += [
        ("not yet", "kind 0", CUT + 6 * DAY, CUT + 6 * DAY),
        ("told later", "kind 0", CUT - 10 * DAY, CUT + 6 * DAY),
        ("nothing told", None, CUT - 10 * DAY, CUT - 10 * DAY),
        ("books-0", "kind 0", START, START),
    ]
    items, kinds, happened, known = map(list, zip(*rows, strict=True))
    return pa.table(
        {
            "item_id": items, "kind": pa.array(kinds, pa.string()),
            "event_timestamp": pa.array(happened, TIME), "available_at": pa.array(known, TIME),
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    with ray_session(2):
        yield


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A repository with a published batch."""

    repo: Path
    batch_id: str
    rows: list[dict]
    checks: tuple[Check, ...]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The net is tiny: a second thread costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("films")
    pq.write_table(told(), folder / "films.parquet")
    repo = make_repo(folder, log(), more={"shop.py": DEFINITIONS})
    with pytest.MonkeyPatch.context() as patch, closing(opened(repo)) as workspace:
        patch.setattr(fitting, "_LEAST_STEPS", 150)
        patch.setattr(fitting, "_PATIENT_STEPS", 50)
        version = train(workspace, as_of=CUT).record.version
        batch = generate(workspace, translator=version).record
        rows = workspace.lake.read_staged(batch.batch_id).to_pylist()
        checks = tuple(gate(workspace, batch_id=batch.batch_id).checks)
        publish(workspace, batch_id=batch.batch_id)
    return Shop(repo=repo, batch_id=batch.batch_id, rows=rows, checks=checks)


def opened(repo: Path) -> Workspace:
    return Workspace(repo, NEURAL, Progress())


NEW = [f"new-{kind}" for kind in range(KINDS)]


def loved_share(rows: list[dict]) -> float:
    """Of the proposals of new films, how many are to users of their kind; by chance one in four."""
    new = [row for row in rows if row["item_id"] in NEW]
    assert new
    loved = [row for row in new if row["item_id"] == f"new-{kind_of(int(row['user_id'][1:]))}"]
    return len(loved) / len(new)


def test_new_films_are_proposed_to_those_who_love_their_kind(shop: Shop):
    assert {check.name: check.detail for check in shop.checks if not check.passed} == {}
    items = {row["item_id"] for row in shop.rows}
    assert set(NEW) <= items <= {*NEW, *(f"films-{item}" for item in range(KINDS * EACH))}
    assert loved_share(shop.rows) > 0.7
    known_from = CUT - 10 * DAY
    assert all(row["event_timestamp"] >= known_from for row in shop.rows if row["item_id"] in NEW)


def test_a_batch_with_new_films_is_measured_on_those_that_can_be_ranked(shop: Shop, tmp_path: Path):
    with closing(opened(shop.repo)) as workspace:
        report = evaluate(workspace, out=tmp_path / "report", batch_ids=[shop.batch_id])
    assert report["published"] is True
    assert report["rankers"].keys() == {"translator", "prior"}
    assert sum(report["popularity"]["synthetic"]) == sum(
        row["item_id"] not in NEW for row in shop.rows
    )


def test_as_of_a_later_time_what_was_watched_since_is_not_proposed_again(shop: Shop):
    with closing(opened(shop.repo)) as workspace:
        (record,) = workspace.ledger.translators()
        increment = Increment(as_of=LATER, since={})
        batch = generate(workspace, translator=record.version, increment=increment).record
        rows = workspace.lake.read_staged(batch.batch_id).to_pylist()
        published = workspace.lake.read().to_pylist()
        assert all(check.passed for check in gate(workspace, batch_id=batch.batch_id).checks)
        before = TranslatorThen.of(workspace, record, CUT)
        then = TranslatorThen.of(workspace, record, LATER)
    pairs = {(row["user_id"], row["item_id"]) for row in rows}
    assert not pairs & {(user(number), "new-1") for number in WATCHED}
    assert not pairs & {(row["user_id"], row["item_id"]) for row in published}
    assert set(NEW) & {item for _, item in pairs}
    ids = then.translator.target_items.ids
    assert ids == before.translator.target_items.ids
    assert ids.filter(pa.array(then.new)).to_pylist() == NEW
    # Of two who watched it since; the others count half an event still.
    prior = {
        item: np.exp([before.translator.log_prior[at], then.translator.log_prior[at]])
        for at, item in enumerate(ids.to_pylist())
    }
    assert prior["new-1"][1] > 2 * prior["new-0"][1]
    assert prior["new-1"][0] == prior["new-0"][0] > 0
    assert sum(share for _, share in prior.values()) == pytest.approx(1.0, rel=1e-5)


def test_a_service_knows_what_it_was_told_by_then(shop: Shop):
    with closing(opened(shop.repo)) as workspace:
        known = {
            as_of: pull_known(workspace.store, "shop_films_v1", key="item_id", as_of=as_of)
            for as_of in (CUT, CUT + 7 * DAY)
        }
    films, late = [f"films-{item}" for item in range(KINDS * EACH)], ["not yet", "told later"]
    early = ["books-0", *films, *NEW, "nothing told"]
    assert known[CUT]["item_id"].to_pylist() == sorted(early)
    assert known[CUT + 7 * DAY]["item_id"].to_pylist() == sorted([*early, *late])
    since = dict(zip(*known[CUT].to_pydict().values(), strict=True))
    assert (since["new-0"], since["films-0"]) == (CUT - 10 * DAY, START)
