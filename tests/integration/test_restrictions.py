"""What Feast says of items and users decides what is drawn: markets, flags, launches, consent."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from marks import OPENS_FEAST
from rich.console import Console
from scheduled_runs import SETTINGS, TIME, layout_of, make_repo, middle_of, small_log

from scalr_ray import Scalr
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.jobs.progress import Progress
from scalr_ray.lake import SyntheticEventLake
from scalr_ray.offline_store.cluster import ray_session

pytestmark = [*OPENS_FEAST, pytest.mark.ray, pytest.mark.usefixtures("one_ray")]

DEFINITIONS = '''
"""What the shop knows of its items and users."""

from datetime import timedelta
from pathlib import Path

from entities import item, user
from feast import FeatureService, FeatureView, Field, FileSource
from feast.types import Bool, String, UnixTimestamp

FOLDER = Path(__file__).parent.parent


def view(name, entity, fields):
    source = FileSource(
        name=f"{name}_source",
        path=str(FOLDER / f"{name}.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="available_at",
    )
    schema = [Field(name=field, dtype=kind) for field, kind in fields.items()]
    return FeatureView(name=name, entities=[entity], ttl=timedelta(0), schema=schema, source=source)


items = view(
    "shop_items",
    item,
    {
        "market": String,
        "category": String,
        "banned": Bool,
        "launched_at": UnixTimestamp,
        "title": String,
    },
)
users = view("shop_users", user, {"country": String, "agrees": Bool})
items_v1 = FeatureService(name="shop_items_v1", features=[items])
users_v1 = FeatureService(name="shop_users_v1", features=[users])
'''
MARKETS, CATEGORIES = ("north", "south"), ("drama", "comedy", "horror")
DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Shop:
    repo: Path
    cut: datetime
    items: dict[str, dict[str, object]]
    users: dict[str, dict[str, object]]

    def drawn(self, *changes: str) -> tuple[list[dict[str, object]], dict[str, object]]:
        """The rows that are staged under other settings, and what the run recorded."""
        with Scalr(self.repo, [*SETTINGS, *changes]) as scalr:
            version = scalr.train(self.cut).record.version
            record = scalr.generate(version).record
            config = scalr.config
            metrics = next(run.metrics for run in scalr.runs() if run.run_id == record.run_id)
        with SyntheticEventLake.open(layout_of(self.repo), config.ids) as lake:
            rows = lake.read_staged(record.batch_id) if record.rows else lake.schema.empty_table()
        return rows.to_pylist(), metrics


def number(name: str) -> int:
    return sum(map(ord, name))


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    with ray_session(2):
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    events = small_log(users=300)  # enough for the evidence to show
    cut = middle_of(events)
    films = events.filter(pc.equal(events["domain"], "films"))
    item_ids = sorted(set(films["item_id"].to_pylist()))
    user_ids = sorted(set(events["user_id"].to_pylist()))
    items = {
        name: {
            "market": MARKETS[number(name) % 2],
            "category": CATEGORIES[number(name) % 3],
            "banned": number(name) % 5 == 0,
            "launched_at": cut + DAY if number(name) % 7 == 0 else cut - DAY,
            "title": f"The film {name}",
        }
        for name in item_ids
    }
    users = {
        name: {"country": MARKETS[number(name) % 2], "agrees": number(name) % 3 > 0}
        for name in user_ids
    }
    write(folder / "shop_items.parquet", "item_id", items, cut)
    write(folder / "shop_users.parquet", "user_id", users, cut)
    repo = make_repo(folder, events, more={"shop.py": DEFINITIONS})
    return Shop(repo=repo, cut=cut, items=items, users=users)


def write(path: Path, key: str, told: dict[str, dict[str, object]], cut: datetime) -> None:
    """What is told, known ten days before the cut; the day after, all of it is the other way."""
    columns: dict[str, Sequence[object]] = {key: list(told)}
    for name in next(iter(told.values())):
        columns[name] = [values[name] for values in told.values()]
    early = pa.table(columns)
    later = early
    for name in early.column_names[1:]:
        values = early[name].to_pylist()
        later = later.set_column(
            later.schema.get_field_index(name), name, pa.array(values[1:] + values[:1])
        )
    parts = []
    for table, known in ((early, cut - 10 * DAY), (later, cut + DAY)):
        stamp = pa.repeat(pa.scalar(known, TIME), table.num_rows)
        parts.append(
            table.append_column("event_timestamp", stamp).append_column("available_at", stamp)
        )
    pq.write_table(pa.concat_tables(parts), path)


def item_values(shop: Shop, rows: list[dict[str, object]], name: str) -> set[object]:
    return {shop.items[row["item_id"]][name] for row in rows}


def test_items_are_restricted_by_what_was_known_of_them(shop: Shop):
    plain, _ = shop.drawn()
    for name in ("market", "category", "banned"):
        assert len(item_values(shop, plain, name)) > 1
    rows, _ = shop.drawn(
        "generation.catalogue={service: shop_items_v1, only: {category: [drama, comedy]},"
        " blocked: banned, available_from: launched_at}"
    )
    assert rows
    assert item_values(shop, rows, "category") == {"drama", "comedy"}
    assert item_values(shop, rows, "banned") == {False}
    assert max(item_values(shop, rows, "launched_at")) <= shop.cut


def test_a_trial_goes_without_what_was_not_known_then(shop: Shop):
    restricted = "generation.catalogue={service: shop_items_v1, only: {category: [drama]}}"
    shown = io.StringIO()
    progress = Progress(Console(file=shown, width=200))
    with Scalr(shop.repo, [*SETTINGS, restricted], progress=progress) as scalr:
        trained = scalr.train(shop.cut)
    assert trained.trial is not None
    assert "the trial goes without restrictions: generation.catalogue.only" in shown.getvalue()


def test_users_get_items_of_their_own_market(shop: Shop):
    rows, _ = shop.drawn(
        "generation.catalogue={service: shop_items_v1, users: shop_users_v1,"
        " same: {country: market}}"
    )
    assert {shop.users[row["user_id"]]["country"] for row in rows} == set(MARKETS)
    for row in rows:
        assert shop.items[row["item_id"]]["market"] == shop.users[row["user_id"]]["country"]


def test_who_does_not_consent_gets_nothing(shop: Shop):
    plain, _ = shop.drawn()
    rows, metrics = shop.drawn("generation.consent={service: shop_users_v1, feature: agrees}")
    asked = {row["user_id"] for row in plain}
    agreeing = {name for name in asked if shop.users[name]["agrees"]}
    assert {row["user_id"] for row in rows} == agreeing
    assert metrics["without_consent"] == len(asked - agreeing)
    # What Feast says of users is held against the real rows, for those who train on both.
    told = {f["name"]: f for f in metrics["refinement"]["discriminator"]["features"]}
    assert {"country", "agrees"} <= told.keys()
    assert told["agrees"]["psi"] > told["country"]["psi"]
    assert "agrees" in metrics["refinement"]["discriminator"]["shifted"]
    # Nobody else is touched by who does not take part.
    kept = {(row["user_id"], row["item_id"], row["event_timestamp"]) for row in rows}
    assert kept == {
        (row["user_id"], row["item_id"], row["event_timestamp"])
        for row in plain
        if row["user_id"] in agreeing
    }


def test_events_are_aligned_by_a_feature_of_the_items(shop: Shop):
    rows, metrics = shop.drawn("alignment={by: category, service: shop_items_v1}")
    refined = metrics["refinement"]
    alignment = refined["alignment"]
    assert alignment["by"] == "category"
    assert len(alignment["target"]) == len(CATEGORIES)
    distance = [
        sum(abs(a - b) for a, b in zip(alignment[side], alignment["target"], strict=True))
        for side in ("before", "after")
    ]
    assert distance[1] <= distance[0]
    assert refined["thinned"] > 0
    assert len(rows) == refined["drawn"] - refined["thinned"]


def test_a_report_tells_items_by_the_titles_they_had_at_the_cut(shop: Shop, tmp_path: Path):
    settings = (*SETTINGS, "evaluation.seeds=1", "evaluation.bootstrap=10")
    rows, _ = shop.drawn("alignment={by: category, service: shop_items_v1}")
    with Scalr(shop.repo, [*settings, "evaluation.titles=shop_items_v1"]) as scalr:
        report = scalr.evaluate(tmp_path, rows[0]["batch_id"])
    assert report["alignment"]["by"] == "category"
    assert "Shares of the events by bucket of category" in (tmp_path / "report.html").read_text()
    assert report["examples"]
    titles = {values["title"] for values in shop.items.values()}
    for user in report["examples"]:
        assert {row["item"] for row in user["synthetic"]} <= titles
        assert {row["domain"] for row in user["source"]} <= {"books", "games"}
        # The shop knows films alone.
        assert not {row["item"] for row in user["source"]} & titles
    with (
        Scalr(shop.repo, [*settings, "evaluation.titles=item_features_v1"]) as scalr,
        pytest.raises(UsageError, match=r"evaluation\.titles serves no 'title'"),
    ):
        scalr.evaluate(tmp_path)


def test_what_cannot_be_is_told_in_one_line(shop: Shop):
    refused = {
        "generation.catalogue={service: nowhere_v1, blocked: banned}": (UsageError, "nowhere_v1"),
        "generation.catalogue={service: shop_items_v1, blocked: gone}": (UsageError, "'gone'"),
        "generation.catalogue={service: shop_items_v1, only: {category: [western]}}": (
            DataError,
            "only",
        ),
        "generation.consent={service: shop_users_v1, feature: nods}": (UsageError, "'nods'"),
        "alignment={by: banner, service: shop_items_v1}": (UsageError, "'banner'"),
    }
    for change, (kind, names) in refused.items():
        with pytest.raises(kind) as caught:
            shop.drawn(change)
        assert names in caught.value.message
        assert "\n" not in caught.value.message
