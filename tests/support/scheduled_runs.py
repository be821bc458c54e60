"""Small repositories that are run again and again: real Feast, Ray, Iceberg and database."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast_config import use_database
from small_worlds import quantile_day

from scalr_ray import Scalr
from scalr_ray.core.config import ScalrConfig
from scalr_ray.core.layout import Layout
from scalr_ray.simulate import World, WorldConfig

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
DAY = timedelta(days=1)
TIME = pa.timestamp("us", tz="UTC")

# Whether events help is not what these tests ask, and a small batch is never close to the prior.
SETTINGS = (
    "domains={source: [books, games], target: films}",
    "generation.per_user=8",
    "generation.per_user_total=100",
    "weights.scales=[0.01]",
    "weights.decay_events=20.0",
    "gate.require_lift=false",
    "gate.max_psi=50",
)


def small_log(*, users: int = 120, days: int = 150, seed: int = 0) -> pa.Table:
    """The events of two source domains and a target, in the columns of a log; a third is late."""
    events = World.generate(
        WorldConfig(
            users=users, source_items=30, target_items=40, days=days, latent=4, genres=6,
            source_domains=("books", "games"), target_domain="films", transfer=1.0, sharpness=6.0,
            overlap_frac=0.85, late_frac=0.3, source_events_per_user=12.0,
            target_events_per_user=16.0, launch_frac=0.1, seed=seed,
        )
    ).events  # fmt: skip
    micros = events["event_timestamp"].cast(pa.int64()).to_numpy()
    late = (micros % 3 == 0) * (1 + micros % 5) * 86_400_000_000
    known = pa.array(micros + late).cast(TIME)
    place = events.schema.get_field_index("available_at")
    return events.set_column(place, events.schema.field(place), known.cast(TIME))


def middle_of(events: pa.Table) -> datetime:
    """Midnight of the day by which 60 % of all events have happened."""
    return quantile_day(events, 0.6)


def make_repo(
    folder: Path,
    events: pa.Table,
    *,
    more: Mapping[str, str] | None = None,
    database_url: str | None = None,
) -> Path:
    """A repository of its own, with `more` files, into which the events have been imported.

    Its database is an SQLite file of its own where no URL is given.
    """
    repo = folder / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    for name, text in (more or {}).items():
        (repo / name).write_text(text, encoding="utf-8")
    if database_url is not None:
        use_database(repo, database_url)
    import_into(repo, events)
    with Scalr(repo, SETTINGS) as scalr:
        scalr.apply()
    return repo


def import_into(repo: Path, events: pa.Table) -> None:
    """Import events; the files of the log are kept beside the repository."""
    logs = repo.parent / "logs"
    logs.mkdir(exist_ok=True)
    file = logs / f"{len(list(logs.iterdir()))}.parquet"
    pq.write_table(events, file)
    with Scalr(repo, SETTINGS) as scalr:
        scalr.import_events(file)


def layout_of(repo: Path) -> Layout:
    return Layout.of(repo, ScalrConfig())


def mixed_rows(repo: Path, as_of: datetime) -> list[dict[str, object]]:
    """The mixed training set as of a time, row by row."""
    from scalr_ray.core.clock import EPOCH
    from scalr_ray.offline_store import open_feature_store
    from training import build_mixed_dataset

    dataset = build_mixed_dataset(
        open_feature_store(repo),
        service="mixed_training_v1",
        start=EPOCH,
        end=as_of,
        as_of=as_of,
    )
    return dataset.to_arrow().to_pylist()
