"""Synthetic events are never translated: the reader refuses them, whatever they are called."""

from __future__ import annotations

import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from marks import OPENS_FEAST

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.offline_store import open_feature_store
from scalr_ray.offline_store.pull import all_visible_from, pull_events, pull_outcomes

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
T0 = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)

pytestmark = OPENS_FEAST

# A view of a team's own, tagged as if its events had been observed.
DISGUISED = """
from datetime import timedelta
from feast import FeatureView, Field, FileSource
from feast.types import Float64, String
from entities import event
from sources import source_events_source

liked_by_the_model = FeatureView(
    name="liked_by_the_model",
    entities=[event],
    ttl=timedelta(0),
    schema=[Field(name=name, dtype=String) for name in ("user_id", "item_id", "domain",
            "event_type", "batch_id", "event_id")]
    + [Field(name=name, dtype=Float64) for name in ("value", "sample_weight")],
    source=source_events_source,
    online=False,
    tags={"domain": "source", "kind": "real"},
)
"""


def write_event(layout: Layout, view: str, event_type: str | None, day: int = 0) -> None:
    row = {
        "event_id": f"e{day}-{event_type}",
        "user_id": "u1",
        "item_id": "i1",
        "domain": "source",
        "event_type": event_type,
        "event_timestamp": T0 + day * DAY,
        "available_at": T0 + day * DAY,
        "value": 1.0,
    }
    folder = layout.events(view)
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([row], schema=event_schema("string", "string"))
    pq.write_table(table, folder / f"part-{day}-{event_type}.parquet")


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    repo = tmp_path_factory.mktemp("organic") / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    (repo / "disguised.py").write_text(DISGUISED)
    layout = Layout.of(repo)
    write_event(layout, "source_events", "click")
    write_event(layout, "source_events", None)
    write_event(layout, "target_events", "unsynthetic")
    from scalr_ray.jobs.ingest import apply

    with closing(Workspace(repo, (), Progress())) as workspace:
        apply(workspace)
    return repo


def test_the_view_of_synthetic_events_cannot_be_translated_from(repo):
    store = open_feature_store(repo)
    says = "synthetic_events holds synthetic events, which are never translated"
    with pytest.raises(DataError, match=says):
        pull_events(store, "synthetic_events", as_of=T0 + DAY)
    with pytest.raises(DataError, match=says):
        pull_outcomes(store, "synthetic_events", start=T0)
    with pytest.raises(DataError, match=says):
        all_visible_from(store, ("source_events", "synthetic_events"))


def test_a_view_with_the_columns_of_synthetic_events_cannot_either(repo):
    with pytest.raises(DataError, match="liked_by_the_model holds synthetic events"):
        pull_events(open_feature_store(repo), "liked_by_the_model", as_of=T0 + DAY)


def test_observed_events_of_any_other_type_can(repo):
    store = open_feature_store(repo)
    assert pull_events(store, "source_events", as_of=T0 + DAY).num_rows == 2
    assert pull_events(store, "target_events", as_of=T0 + DAY).num_rows == 1


def test_a_view_that_is_not_there_is_named(repo):
    with pytest.raises(UsageError, match="view nothing is not registered; run `scalr apply`"):
        pull_events(open_feature_store(repo), "nothing", as_of=T0)


@pytest.mark.parametrize("event_type", ["synthetic", "synthetic_negative"])
def test_a_synthetic_row_in_an_observed_view_stops_the_reader(repo, event_type):
    layout = Layout.of(repo)
    write_event(layout, "source_events", event_type, day=5)
    try:
        store = open_feature_store(repo)
        with pytest.raises(DataError, match=f"1 events of source_events .* e5-{event_type}; "):
            pull_events(store, "source_events", as_of=T0 + 9 * DAY)
        # Before it was known, nobody could have mistaken it for an observed one.
        assert pull_events(store, "source_events", as_of=T0 + DAY).num_rows == 2
    finally:
        (layout.events("source_events") / f"part-5-{event_type}.parquet").unlink()
